"""LoRA and ODELoRA on one axis; starts that become small; targets that are badly conditioned."""

from typing import NamedTuple

import numpy as np

import gflow
import theory
from gflow.internal import svd
from theory import exact_linear, odelora

from ... import Report
from ..problem import PAPER, TANGENT, problem
from ..settings import Settings

VALUES, START, END = (4.0, 1.0, 0.25), 1e-3, 16.0
HALF = 0.5
SAXE = "Saxe et al. 2014, arXiv 1312.6120"


class Staircase(NamedTuple):
    """Modes u_iᵀWv_i of both runs, at their times."""

    lora: tuple[np.ndarray, np.ndarray]
    odelora: tuple[np.ndarray, np.ndarray]


class Starts(NamedTuple):
    """Distance to the truncated matrix at t = ½: sizes, a row a seed, and the predicted power."""

    sizes: np.ndarray
    distances: np.ndarray
    power: float


class Conditioning(NamedTuple):
    """(t, ‖W − M‖) of both runs."""

    lora: tuple[np.ndarray, np.ndarray]
    odelora: tuple[np.ndarray, np.ndarray]


def staircase(report: Report) -> Staircase:
    """One aligned start under both flows, judged at every step."""
    one = problem(VALUES, (6, 5), 0)
    found = {}
    for name, velocity, exact in (
        ("lora", None, lambda t: exact_linear.mode_strength(START, VALUES, t[:, None])),
        ("odelora", TANGENT, lambda t: odelora.aligned(VALUES, START, t)),
    ):
        run = gflow.simulate(
            one.aligned(START), one.objective, t1=END, velocity=velocity, rtol=1e-10
        )
        curve = theory.Curve(
            "modes", exact, read=theory.from_weights(one.modes), source=SAXE if velocity is None
            else PAPER, validity="a start on the singular vectors of the target",
        )  # fmt: skip
        report.compare(
            f"staircase.{name}",
            theory.compare(run, theory.Prediction.of(curve)),
            f"Modes of {VALUES} from {START:g}, {name}:",
        )
        modes = one.modes({"w": run.observables["w"]})
        found[name] = run.t, modes
    return Staircase(**found)


def tiny_starts(report: Report, settings: Settings) -> Starts:
    """(1 − e^{−t}) × the truncated matrix, up to a power of the start."""
    one, rank = problem((3.0, 2.0, 1.2, 0.5), (5, 4), 1), 2
    sizes = 10.0 ** -np.array(settings.decades, float)
    limit = odelora.small_start(one.target, rank, HALF)
    power = 1.0 - one.values[rank] / one.values[rank - 1]
    distances, bars = np.zeros((2, settings.seeds, len(sizes)))
    for seed in range(settings.seeds):
        for k, size in enumerate(sizes):
            run = gflow.simulate(
                one.random(size, rank, seed), one.objective, t1=HALF, velocity=TANGENT, rtol=1e-10
            )
            distances[seed, k] = np.linalg.norm(run.observables["w"][-1] - limit)
            bars[seed, k] = np.linalg.norm(run.error["w"][-1])
    for seed in range(settings.seeds):
        ends = distances[seed, -2:]
        slope = float(np.log(ends[0] / ends[1]) / np.log(sizes[-2] / sizes[-1]))
        bar = float(np.sum(bars[seed, -2:] / ends) / np.log(sizes[-2] / sizes[-1]))
        report.add(
            f"start.power.seed{seed}", power, slope, 2.0 * sizes[-2] ** power, bar, paper=PAPER,
            text=f"‖W − (1 − e^−t)M_r‖ ~ s₀^p at t = ½, from the last two sizes, seed {seed}",
        )  # fmt: skip
    return Starts(sizes, distances, power)


def conditioning(report: Report) -> Conditioning:
    """A target of rank r is approached at rate one, by LoRA from a generic start at σ_r.

    An element of W between singular values s_i and s_j relaxes at s_i + s_j under LoRA: outside of
    the r directions of the target at σ_r, among them at 2σ_r.
    """
    one, end = problem((3.0, 0.05), (5, 4), 2), 200.0
    left, right = (np.random.default_rng(k).normal(size=(m, 2)) for k, m in ((3, 5), (4, 4)))
    whole = one.target + 1e-3 * left @ right.T / np.linalg.norm(left @ right.T)
    u, s, vt = svd(whole, full_matrices=False)
    root = np.sqrt(s[:2])
    start = {"w": gflow.Factored(u[:, :2] * root, vt[:2].T * root)}
    found = {}
    for name, velocity, rate in (("lora", None, 0.05), ("odelora", TANGENT, 1.0)):
        last = end if velocity is None else 10.0
        run = gflow.simulate(
            start, one.objective, t1=last, velocity=velocity, rtol=1e-11,
            save=np.linspace(0.0, last, 60),
        )  # fmt: skip
        left_over = np.linalg.norm(run.observables["w"] - one.target, axis=(1, 2))
        bars = np.linalg.norm(run.error["w"], axis=(1, 2))
        rows = [int(np.searchsorted(run.t, share * last)) for share in (0.75, 1.0)]
        width = run.t[rows[1]] - run.t[rows[0]]
        slope = -float(np.log(left_over[rows[1]] / left_over[rows[0]]) / width)
        report.add(
            f"conditioning.{name}.rate", rate, slope, 2e-2 * rate,
            float(np.sum(bars[rows] / left_over[rows]) / width), unit="1/time", paper=PAPER,
            text=f"rate at which ‖W − M‖ falls, σ = (3, 0.05), {name}",
        )  # fmt: skip
        found[name] = run.t, left_over
    return Conditioning(**found)
