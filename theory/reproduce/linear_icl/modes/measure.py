"""Several scales: every mode on its own clock 1/s², in closed form and as a limit algorithm."""

import math
from typing import NamedTuple

import jax
import numpy as np

import gflow
import theory
from theory import linear_icl as icl

from ... import Report
from .. import problem
from ..heads.measure import RTOL
from ..problem import CONTEXT, MAINALI, VARIANCES
from ..settings import Settings


class Scales(NamedTuple):
    """By size: the run."""

    runs: dict[float, gflow.Trajectory]


def scales(report: Report, settings: Settings) -> Scales:
    """Sigmoids from p = q, and stage times 1/s² of a start with p ≠ q from 10⁻¹⁰⁰."""
    objective = problem.objective(VARIANCES)
    found = Scales({})
    for size in settings.mode_sizes:
        run = gflow.simulate(
            problem.modes(size), objective, t1=end(size), rtol=RTOL, allow_frozen_sign=True
        )
        curves = [
            theory.Curve("weight", lambda t, size=size: strengths(size, t),
                         source=MAINALI, validity="shared eigenbasis"),
            theory.Curve("loss", lambda t, size=size: loss(strengths(size, t)),
                         1e-14, "rounding of its terms",
                         source=MAINALI, validity="shared eigenbasis"),
        ]  # fmt: skip
        table = theory.compare(run, theory.Prediction.of(*curves))
        report.compare(f"modes.size{size:g}", table, f"Modes of several scales, p = q = {size:g}")
        found.runs[size] = run
    limit(report, objective)
    return found


def strengths(size: float, t: np.ndarray) -> np.ndarray:
    return icl.modes(VARIANCES, CONTEXT, size, t)


def loss(a: np.ndarray) -> np.ndarray:
    """Half of E(y − ŷ)²."""
    return 0.5 * icl.population_loss(a[..., None] * np.eye(a.shape[-1]), VARIANCES, CONTEXT)


def end(size: float) -> float:
    return 2.2 * math.log(1.0 / size) / VARIANCES[-1] ** 2 + 30.0 / VARIANCES[-1] ** 2


def limit(report: Report, objective) -> None:
    """The limit algorithm of Hadamard leaves has the clocks of the paper, and meets a run."""
    count = len(VARIANCES)
    weight = gflow.Hadamard.small(count, log_alpha=-100.0 * math.log(10.0), key=jax.random.key(0))
    prediction = theory.gradual_rank.predict(problem.Modes(weight), objective)
    for stage, s in zip(prediction.stages, VARIANCES, strict=True):
        report.add(
            f"modes.limit.T.s{s:g}", 1.0 / s**2, stage.tau, 1e-9 / s**2, unit="τ", paper=MAINALI,
            text=f"T of the mode of variance {s:g} by the limit algorithm",
        )  # fmt: skip
    tau = 1.1 * prediction.stages[-1].tau
    run = gflow.simulate(problem.Modes(weight), objective, tau1=tau, rtol=RTOL)
    report.compare("modes.limit", theory.compare(run, prediction), "Modes from p ≠ q, α = 1e-100")
