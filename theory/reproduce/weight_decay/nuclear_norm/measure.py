"""Gap, imbalance, singular values and rank under decay, judged by their closed forms."""

import itertools
from typing import NamedTuple

import numpy as np

import gflow
from theory import weight_decay as theory

from ... import Report
from ..pairs import MARGIN, RTOL, factors, flows, singular_values
from .problem import TARGET, Problem, aligned

#: End of the sweep over λ, in the clock of the "half" loss.
END = 400.0
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
    left, right = np.asarray(one.start.left), np.asarray(one.start.right)
    ends = [40.0 / one.clock] + [min(14.0 / d, 100.0 / one.clock) for d in decays[1:]]
    grid = np.linspace(0.0, max(ends), 800)
    courses = []
    for decay, run in zip(
        decays, flows(one.start, one.objective, decays, ends, save=grid), strict=True
    ):
        key = f"fig1.{one.loss}.lambda{decay:g}"
        a, b = factors(run)
        size = np.sum(a**2, axis=(1, 2)) + np.sum(b**2, axis=(1, 2))
        gap = np.array([theory.gap(x, y) for x, y in zip(a, b, strict=True)])
        bounds = theory.gap_bounds(left, right, decay, run.t, size)
        outside = np.maximum(bounds.lower - gap, gap - bounds.upper)
        # gap is right to 1e-14·sqrt(gap)·norm, the factors to rtol each
        report.add(
            f"{key}.gap-bounds",
            0.0,
            max(0.0, float(np.max(outside / size))),
            MARGIN * RTOL,
            text="largest excursion of the gap from its bounds / norm²",
        )
        law = theory.imbalance(left, right, decay, run.t)
        measured = a.swapaxes(1, 2) @ a - b.swapaxes(1, 2) @ b
        error = np.linalg.norm(measured - law, axis=(1, 2)) / size
        report.add(
            f"{key}.imbalance",
            0.0,
            float(np.max(error)),
            MARGIN * RTOL,
            text="largest ‖G − e^(−2λt)G(0)‖ / (‖A‖² + ‖B‖²)",
        )
        slope = float("nan")
        if decay:
            slope = float(theory.gap_late_slope(TARGET, 5, decay, one.loss))
            found, bar = late_slope(run.t, gap)
            report.add(
                f"{key}.late-slope",
                slope,
                found,
                0.01 * abs(slope),
                bar,
                unit="1/flow time",
                text="late slope of log(gap)",
            )
            report.say(f"  λ = {decay:g}: slope of log(gap) {slope:.5f}, measured {found:.5f}")
        norms = (np.linalg.norm(g, axis=(1, 2)) for g in (measured, law))
        courses.append(Course(decay, run.t, gap, bounds.lower, bounds.upper, *norms, slope))
    return courses


def late_slope(t: np.ndarray, gap: np.ndarray) -> tuple[float, float]:
    """Slope of log(gap) over the last half of the decades above rounding, and its drift."""
    lowest = max(gap[-1], 1e-13)
    ends = [t[np.searchsorted(-gap, -lowest * 10.0**k)] for k in (4.0, 2.0, 0.0)]
    fits = [
        np.polyfit(t[inside], np.log(gap[inside]), 1)[0]
        for low, high in itertools.pairwise(ends)
        for inside in [(t >= low) & (t <= high)]
    ]
    return float(fits[1]), float(abs(fits[1] - fits[0]))


def against_decay(report: Report, one: Problem) -> Sweep:
    """(iii) 64 decays in one call: soft-thresholding, and the rank."""
    decays = 0.02 * one.clock * np.arange(64)
    end = END / one.clock
    runs = flows(one.start, one.objective, decays, end, save=[end / 2, end])
    found = np.array([singular_values(*factors(run))[-1] for run in runs])
    half = np.array([singular_values(*factors(r))[np.searchsorted(r.t, end / 2)] for r in runs])
    limit = np.linalg.svd(theory.soft_threshold(TARGET, decays, one.loss), compute_uv=False)
    predicted = theory.predicted_rank(TARGET, decays, loss=one.loss)
    tied = predicted.ties > 0
    # every mode relaxes at 2|d − λ| in the clock of "half"; the grid keeps |d − λ| ≥ 0.02
    tolerance = 10.0 * np.exp(-2.0 * 0.02 * END)
    report.add(
        f"fig1.{one.loss}.soft-threshold",
        0.0,
        float(np.max(np.abs(found - limit)[~tied])),
        tolerance,
        text=f"largest |s_i − soft threshold| over {np.sum(~tied)} decays without ties",
    )
    rank = np.sum(found > THRESHOLD, axis=1)
    report.add(
        f"fig1.{one.loss}.ranks",
        float(np.sum(predicted.rank[~tied])),
        float(np.sum(rank[~tied])),
        0.0,
        text="sum of the ranks at those decays",
    )
    d = np.diag(TARGET)[::-1]
    for i in np.flatnonzero(tied):
        k = int(np.argmin(np.abs(d - decays[i] / one.clock)))
        course = theory.balanced_mode(half[i, k], d[k], end / 2, d[k] * one.clock, one.loss)
        report.add(
            f"fig1.{one.loss}.lambda{decays[i]:g}.tie",
            float(course),
            found[i, k],
            float(1e-6 * course),
            text=f"s({end:g}) from s({end / 2:g}), tie with d = {d[k]:g}",
        )
    return Sweep(end, decays, found, rank, tied)


def modes(report: Report, one: Problem) -> Modes:
    """(iv) singular values in time at λ = .4 from an aligned balanced start."""
    decay, small, t1 = 0.4, 0.05, 1000.0
    run = gflow.simulate(
        aligned(small),
        one.objective,
        t1=t1,
        decay=decay,
        rtol=RTOL,
        save=np.geomspace(0.05, t1, 200),
    )
    report.data(run, f"fig1_{one.loss}_modes")
    a, b = factors(run)
    # the modes are the diagonal of AB^T: the start is diagonal in the bases of D
    found = np.diagonal(a @ b.swapaxes(1, 2), axis1=1, axis2=2)
    exact = theory.balanced_mode(small, np.diag(TARGET), run.t[:, None], decay, one.loss)
    report.add(
        f"fig1.{one.loss}.lambda{decay:g}.modes",
        0.0,
        float(np.max(np.abs(found - exact))),
        MARGIN * RTOL,
        2 * float(np.max(run.error["left"])) * float(np.max(np.abs(a))),
        text="largest |s_i(t) − exact| over all times and modes",
    )
    return Modes(decay, run.t, found, exact)
