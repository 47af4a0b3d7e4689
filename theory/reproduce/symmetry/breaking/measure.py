"""Times at which a broken permutation shows, over the first displacement, and rates over decay."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

import gflow
from theory import symmetry

from ... import Report
from ..problem import BREAKING, X, Y, equal_heads, heads_loss, swapped
from ..settings import Settings

LEVEL, LEVELS = 1e-2, (0.01, 0.02, 0.04)
#: Decays of the heads at rest, and over the threshold of factors at zero.
DECAYS, SHARES = (0.0, 2e-3, 5e-3, 1e-2), (0.5, 0.9, 1.1, 2.0)


class Escapes(NamedTuple):
    """Displacements, when the level is reached, predicted times; courses; what is beyond first."""

    starts: np.ndarray
    times: np.ndarray
    predicted: np.ndarray
    courses: list[tuple[np.ndarray, np.ndarray]]
    rate: float
    beyond: list[tuple[float, float, float]]


class Decayed(NamedTuple):
    """Decay, predicted and measured rate: of heads at rest, and of factors at zero."""

    resting: np.ndarray
    zero: np.ndarray


def escapes(report: Report, settings: Settings) -> Escapes:
    """ln(level/δ)/μ and its next order, which is the same for every δ."""
    off = gflow.symmetry.breaking(equal_heads(0.0), heads_loss, swapped)
    rate = float(off.rates[0])
    starts = 10.0 ** -np.array(settings.decades, float)
    times, predicted, courses = [], [], []
    for start in starts:
        first = float(symmetry.escape_time(rate, start, LEVEL)) if start < LEVEL else 0.0
        run = _apart(off, start, first + 120.0)
        courses.append((run.t, run.observables["distance"]))
        if start >= LEVEL:
            times.append(0.0)
            predicted.append(0.0)
            continue
        seen = run.crossing(gflow.stop.above(off.distance, LEVEL))
        expected = first + off.correction(start, LEVEL)
        # the order after the next is smaller by the square of the level once more
        report.add(
            f"breaking.time.start{start:g}", expected, seen.t,
            1e-3 * off.correction(start, LEVEL) + 1e-6 * expected, seen.error,
            unit="flow time", paper=BREAKING,
            text=f"two heads {start:g} apart are {LEVEL:g} apart (ln(level/δ)/μ = {first:.4f})",
        )  # fmt: skip
        times.append(seen.t)
        predicted.append(expected)
    beyond = []
    start = 1e-4
    last = off.time(start, LEVELS[-1])
    run = _apart(off, start, last + 5.0)
    for level in LEVELS:
        seen = run.crossing(gflow.stop.above(off.distance, level))
        measured, expected = seen.t - off.time(start, level), off.correction(start, level)
        report.add(
            f"breaking.next_order.level{level:g}", expected, measured, 2.0 * level * expected,
            seen.error, unit="flow time", paper=BREAKING,
            text=f"what the next order adds to the time at level {level:g}",
        )  # fmt: skip
        beyond.append((level, measured, expected))
    return Escapes(starts, np.array(times), np.array(predicted), courses, rate, beyond)


def _apart(off: gflow.symmetry.Breaking, start: float, t1: float) -> gflow.Trajectory:
    return gflow.simulate(
        off.displaced(start), heads_loss, t1=t1, rtol=1e-12,
        observables={"distance": off.distance},
    )  # fmt: skip


def decayed(report: Report) -> Decayed:
    """Decay moves the rest state of the heads; of factors at zero it is taken off the rate."""
    resting = []
    for decay in DECAYS:
        off = gflow.symmetry.breaking(equal_heads(decay), heads_loss, swapped, decay=decay)
        resting.append(_judged(report, f"breaking.rate.decay{decay:g}", off, decay, 100.0))
    nothing = {"a": jnp.zeros(2), "b": jnp.zeros((2, 2))}
    force, zero = float(np.linalg.norm(Y @ X)) / len(Y), []
    for share in SHARES:
        decay = share * force
        off = gflow.symmetry.breaking(nothing, heads_loss, swapped, decay=decay)
        zero.append(_judged(report, f"breaking.zero.share{share:g}", off, decay, 5.0))
        report.add(
            f"breaking.zero.share{share:g}.force", force - decay, float(off.rates[0]),
            1e-13, paper=BREAKING,
            text=f"rate off factors at zero, ‖∇L(0)‖ − λ, at λ = {share:g} ‖∇L(0)‖",
        )  # fmt: skip
    return Decayed(np.array(resting), np.array(zero))


def _judged(
    report: Report, key: str, off: gflow.symmetry.Breaking, decay: float, t1: float
) -> tuple[float, float, float]:
    """The rate of the Hessian beside ln of what a run grows by, over its time."""
    start, rate = 1e-6, float(off.rates[0])
    run = gflow.simulate(
        off.displaced(start), heads_loss, t1=t1, decay=decay, rtol=1e-12,
        observables={"distance": off.distance},
    )  # fmt: skip
    distance, bar = run.observables["distance"], float(run.error["distance"][-1])
    measured = float(np.log(distance[-1] / distance[0])) / t1
    report.add(
        key, rate, measured, 1e-6, 2.0 * bar / float(distance[-1]) / t1, unit="1/flow time",
        paper=BREAKING, text=f"rate at which the heads move apart, λ = {decay:.4g}",
    )  # fmt: skip
    return decay, rate, measured
