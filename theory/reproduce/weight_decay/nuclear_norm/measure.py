"""Gap, imbalance, singular values and rank under decay, judged by their closed forms."""

import dataclasses
import functools
import math
from typing import NamedTuple

import numpy as np

import gflow
import theory
from theory import weight_decay as decayed

from ... import Report
from ..pairs import RTOL, factors, flows, product, singular_values
from .problem import TARGET, Loss, Problem, aligned

#: End of the sweep over λ, in the clock of the "half" loss, and shares of it that are recorded.
END, SAVED = 400.0, (0.25, 0.5, 0.87, 1.0)
#: A singular value above this counts.
THRESHOLD = 1e-4


class Course(NamedTuple):
    """One decay in time: the gap to the nuclear norm, its bounds, the imbalance and its law."""

    decay: float
    t: np.ndarray
    gap: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    imbalance: np.ndarray
    law: np.ndarray
    #: Predicted late slope of log(gap); NaN without decay.
    slope: float


class Sweep(NamedTuple):
    """Singular values and rank at `end` by decay; whether a mode ties with the decay."""

    end: float
    decays: np.ndarray
    found: np.ndarray
    rank: np.ndarray
    tied: np.ndarray


class Modes(NamedTuple):
    """Modes in time from an aligned start, beside their exact courses."""

    decay: float
    t: np.ndarray
    found: np.ndarray
    exact: np.ndarray


class Figure1(NamedTuple):
    """All panels of one convention of the loss."""

    one: Problem
    courses: list[Course]
    sweep: Sweep
    modes: Modes


def figure_1(report: Report, one: Problem) -> Figure1:
    """The paper's Fig. 1, the rank, and the modes that tie with the decay."""
    half = "½" * (one.loss == "half")
    report.say(f"Fig. 1 with the loss {half}‖ABᵀ − D‖², D = diag(.2 … 1):")
    return Figure1(one, in_time(report, one), against_decay(report, one), modes(report, one))


def in_time(report: Report, one: Problem) -> list[Course]:
    """(i) the gap to the nuclear norm between its bounds, (ii) the imbalance."""
    decays = [one.clock * x for x in (0.0, 0.05, 0.13, 0.5)]
    shown = [40.0 / one.clock] + [min(14.0 / d, 100.0 / one.clock) for d in decays[1:]]
    end = 100.0 / one.clock
    runs = flows(one.start, one.objective, decays, end, save=np.linspace(0.0, end, 400))
    courses = []
    for decay, last, run in zip(decays, shown, runs, strict=True):
        prediction = decayed.predict(one.start, one.objective, decay=decay)
        table = theory.compare(run, prediction)
        report.compare(f"fig1.{one.loss}.lambda{decay:g}", table, f"λ = {decay:g}, from the start:")
        courses.append(_course(run, decay, last, one.loss))
    return courses


def _course(run: gflow.Trajectory, decay: float, last: float, loss: Loss) -> Course:
    """What the figure shows of a run up to a time."""
    inside = run.t <= last
    t, (a, b) = run.t[inside], (x[inside] for x in factors(run))
    gap = decayed.gap(a, b)
    size = np.sum(a**2, axis=(1, 2)) + np.sum(b**2, axis=(1, 2))
    bounds = decayed.gap_bounds(a[0], b[0], decay, t, size)
    law = decayed.imbalance(a[0], b[0], decay, t)
    measured = a.swapaxes(1, 2) @ a - b.swapaxes(1, 2) @ b
    norms = (np.linalg.norm(g, axis=(1, 2)) for g in (measured, law))
    slope = float(decayed.gap_late_slope(TARGET, 5, decay, loss)) if decay else math.nan
    return Course(decay, t, gap, bounds.lower, bounds.upper, *norms, slope)


def against_decay(report: Report, one: Problem) -> Sweep:
    """(iii) 64 decays in one call: soft-thresholding, the rank, and how ties die."""
    decays = 0.02 * one.clock * np.arange(64)
    end = END / one.clock
    # the slowest mode, |d − λ| = 0.02, moves by e^−2 between the last two of these times
    runs = flows(one.start, one.objective, decays, end, save=end * np.array(SAVED))
    predicted = decayed.predicted_rank(TARGET, decays, loss=one.loss)
    tables = [_compared(run, one, decay) for decay, run in zip(decays, runs, strict=True)]
    for key, inside in {"sweep": predicted.ties == 0, "ties": predicted.ties > 0}.items():
        named = {f"λ = {decays[i]:g}": tables[i] for i in np.flatnonzero(inside)}
        words = "a tie" if key == "ties" else "no ties"
        report.compare_worst(f"fig1.{one.loss}.{key}", named, f"{len(named)} decays with {words}:")
    found = np.array([singular_values(*(x[-1] for x in factors(run))) for run in runs])
    rank = np.sum(found > THRESHOLD, axis=1)
    return Sweep(end, decays, found, rank, predicted.ties > 0)


def _compared(run: gflow.Trajectory, one: Problem, decay: float) -> theory.Comparison:
    """All that is said of a decay; without one, that D is learned."""
    prediction = decayed.predict(one.start, one.objective, decay=decay)
    if decay == 0.0:
        prediction = dataclasses.replace(prediction, numbers=(learned(),))
    return theory.compare(run, prediction)


def learned() -> theory.Number:
    """W comes to D, of full rank: it has still to move less than it did since the last record."""
    read = theory.from_weights(product)

    def distance(run: gflow.Trajectory) -> tuple[float, float]:
        reading = read(run)
        w, bar = np.asarray(reading.value), np.asarray(reading.bar)
        moved = np.linalg.norm(w[-1] - w[-2])
        return float(np.linalg.norm(w[-1] - TARGET)), float(np.linalg.norm(bar[-1]) + moved)

    return theory.Number(
        "distance from the target", 0.0, distance, 1e-12, "rounding", "Fukumizu 1998",
        "a target of full rank, late times", size=float(np.linalg.norm(TARGET)),
    )  # fmt: skip


def modes(report: Report, one: Problem) -> Modes:
    """(iv) singular values in time at λ = .4 from an aligned balanced start."""
    decay, small, t1 = 0.4, 0.05, 1000.0
    start = aligned(small)
    run = gflow.simulate(
        start, one.objective, t1=t1, decay=decay, rtol=RTOL, save=np.geomspace(0.05, t1, 200)
    )
    report.data(run, f"fig1_{one.loss}_modes")
    exact = functools.partial(
        decayed.balanced_mode, small, np.diag(TARGET), decay=decay, loss=one.loss
    )
    # the modes are the diagonal of AB^T: the start is diagonal in the bases of D
    curve = theory.Curve(
        "modes",
        lambda t: exact(t=t[:, None]),
        1e-12,
        "rounding of the start, which is diagonal to 1e-15",
        "Saxe et al. 2014 with decay",
        read=theory.from_weights(lambda w: np.diagonal(product(w), axis1=1, axis2=2)),
    )
    prediction = decayed.predict(start, one.objective, decay=decay)
    prediction = dataclasses.replace(prediction, curves=(*prediction.curves, curve))
    table = theory.compare(run, prediction)
    report.compare(f"fig1.{one.loss}.aligned", table, f"λ = {decay:g}, an aligned start:")
    found = np.diagonal(product(run.observables), axis1=1, axis2=2)
    return Modes(decay, run.t, found, exact(t=run.t[:, None]))
