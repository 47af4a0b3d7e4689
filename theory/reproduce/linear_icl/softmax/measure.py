"""Softmax heads: one comes to its optimum, pairs creep towards an infimum."""

import math
from typing import Any, NamedTuple

import numpy as np

import gflow
import theory
from theory import linear_icl as icl

from ... import Report
from .. import problem
from ..heads.measure import RTOL
from ..problem import HE, PUBLISHED, SOFTMAX
from ..settings import Settings

#: Until when pairs are followed.
LATE = 1e6


class Softmax(NamedTuple):
    """By heads: the run, how far its loss is above the infimum; and the law at the same times."""

    runs: dict[int, gflow.Trajectory]
    excess: dict[int, np.ndarray]
    laws: dict[int, np.ndarray]


def softmax(report: Report, settings: Settings) -> Softmax:
    found = Softmax({}, {}, {})
    losses = {1: one(report)}
    for heads in settings.softmax_heads:
        run = gflow.simulate(problem.softmax(heads), problem.softmax_loss(), t1=LATE, rtol=RTOL)
        end = icl.softmax_optimum(heads, *SOFTMAX).loss
        losses[heads] = 2.0 * float(run.loss[-1])
        late = run.t > 10.0
        found.runs[heads], found.excess[heads] = run, 2.0 * run.loss - end
        found.laws[heads] = np.where(late, law(heads, np.maximum(run.t, 10.0)), np.nan)
        table = theory.compare(run, theory.Prediction.of(creep(heads, run, end)))
        report.compare(f"softmax.heads{heads}", table, f"{heads} softmax heads in ± pairs")
    order = float(max(losses, key=losses.__getitem__))
    published = {heads: PUBLISHED[heads] for heads in losses}
    report.add(
        "softmax.published.worst", order, float(max(published, key=published.__getitem__)), 0.0,
        unit="heads", paper=HE,
        text="heads of the largest loss, in the surrogate and in the published models; losses "
        f"{', '.join(f'{x:.4f}' for x in losses.values())} beside "
        f"{', '.join(map(str, published.values()))} of 10 checkpoints each",
    )  # fmt: skip
    return found


def one(report: Report) -> float:
    """A single head comes to rest at its optimum; its loss."""
    run = gflow.simulate(problem.softmax(1), problem.softmax_loss(), rtol=RTOL)
    best = icl.softmax_optimum(1, *SOFTMAX)

    # at rest up to what the run itself calls rest: the last steps move by this much
    def read(which: str):
        def last(run: gflow.Trajectory) -> tuple[float, float]:
            values = np.asarray(run.leaves[which]["value"])[:, 0]
            return float(values[-1]), abs(float(values[-1] - values[-2])) + 10.0 * RTOL

        return last

    about: Any = {"source": HE, "validity": "surrogate of the paper, at rest"}
    allowed = "rtol at rest"
    numbers = [
        theory.Number("μ", best.mu, read("value"), 1e-6, allowed, **about),
        theory.Number("ω", best.omega, read("key_query"), 1e-6, allowed, **about),
        theory.Number("loss at the end", best.loss, lambda run: (2.0 * float(run.loss[-1]), 1e-12),
                      1e-9, "square of what μ and ω are allowed", **about),
    ]  # fmt: skip
    table = theory.compare(run, theory.Prediction.of(*numbers))
    report.compare("softmax.heads1", table, "One softmax head, at rest")
    return 2.0 * float(run.loss[-1])


def law(heads: int, t: np.ndarray) -> np.ndarray:
    r"""`softmax_creep` with its next order, E(1 + Kz), z = (2cd³Ht)^{−2/3}.

        K = 2(1 + cd)²H² + 4½ cd³/(1 + cd) − 3d²/20

    In p = Hμω the flow is p' = Hω²(1 − p(a + β/3)) + Hμ²(1 − p(a + β)), ω' = μ(1 − p(a + β)) with
    a = 1 + cd, β = ½cd³ω⁴, hence in the valley ω' = −⅔Hβω³ (1 − ω⁴H²a² − 4β/a + d²ω⁴/10).
    """
    return icl.softmax_creep(heads, *SOFTMAX, t) * (1.0 + next_order(heads, t))


def next_order(heads: int, t: np.ndarray) -> np.ndarray:
    d, length, noise = SOFTMAX
    c = (1.0 + noise) / length
    a, z = 1.0 + c * d, (2.0 * c * d**3 * heads * t) ** (-2.0 / 3.0)
    return z * (2.0 * a**2 * heads**2 + 4.5 * c * d**3 / a - 0.15 * d**2)


def creep(heads: int, run: gflow.Trajectory, end: float) -> theory.Curve:
    """Excess × t^{2/3} from t = 1000 on: a constant, up to orders z² and the time of arrival."""
    middle = 0.5 * (float(run.loss[0]) + 0.5 * end)
    arrived = float(run.t[int(np.argmax(run.loss < middle))])

    def read(run: gflow.Trajectory) -> theory.Reading:
        scale = np.maximum(run.t, 1.0) ** (2.0 / 3.0)
        bar = 2.0 * np.asarray(run.error["loss"]) + 1e-14
        return theory.Reading((2.0 * run.loss - end) * scale, bar * scale)

    def value(t: np.ndarray) -> np.ndarray:
        return law(heads, t) * t ** (2.0 / 3.0)

    def tolerance(t: np.ndarray) -> np.ndarray:
        relative = next_order(heads, t) ** 2 + 2.0 / 3.0 * 2.0 * arrived / t
        return value(t) * relative

    return theory.Curve(
        "excess × t^(2/3)", value, tolerance,
        "the square of its next order, and twice the time at which the loss is half-way",
        regime=(1e3, math.inf), read=read, source=HE, validity="± pairs of one size, late",
        constant=True,
    )  # fmt: skip
