"""How long a start of size ε takes to leave zero: 1/ε with three factors, ln(1/ε) with two."""

import math
from typing import NamedTuple

import numpy as np
from scipy import optimize

import gflow
from theory import linear_icl as icl

from ... import Report
from .. import problem
from ..heads.measure import RTOL, levels, merged_time, passing
from ..problem import CONTEXT, FOUR, ZHANG
from ..settings import Settings

#: The norm of the value weights up to which separate heads are followed, and one on the way.
LEVEL, LOWER = 0.1, 0.05
#: Accuracy of the closed forms, relative.
CLOSED = 1e-11


class Escapes(NamedTuple):
    """By size: times of separate heads to LEVEL, of merged ones half-way."""

    sizes: np.ndarray
    separate: np.ndarray
    separate_predicted: np.ndarray
    merged: np.ndarray
    merged_predicted: np.ndarray


def escapes(report: Report, settings: Settings) -> Escapes:
    """Both clocks over a hundred decades, and their laws in ε."""
    sizes = settings.escape_sizes
    separated = [separate(report, size) for size in sizes]
    merge = [merged(report, size) for size in sizes]
    times, expected, errors = np.array(separated).T
    laws(report, np.array(sizes), times, errors, np.array(merge)[:, [0, 2]])
    return Escapes(np.array(sizes), times, expected, *np.array(merge).T[:2])


def separate(report: Report, size: float) -> tuple[float, float, float]:
    """Of the head that blows up first: T − 1/(λ²v) + v²/(2λ²κ³) to v = LEVEL; measured, predicted.

    Corrections: v⁵ of the saturation; ρ² of the other directions that the head has, and (ε/v)² of
    what v² − ‖K‖² conserves, on what is left of the time. The rise from LOWER to LEVEL is read
    backwards from the end, with all digits. The bar of a time is what a finer run changes.
    """
    model = problem.separate(size)
    out, finer = (
        gflow.escape(model, problem.objective(), level=LEVEL, rtol=rtol)
        for rtol in (RTOL, 0.01 * RTOL)
    )
    v, k, q = problem.heads(model)
    blow_up = float(np.min(icl.head_times(v, k, q, FOUR)))
    start = float(np.max(np.sqrt(v**2 + np.sum(k**2 + q**2, axis=(1, 2)))))
    left, slack = ahead(LEVEL, start)
    before, more = ahead(LOWER, start)
    time = float(finer.t[-1])
    bar = abs(time - float(out.t[-1]))
    report.add(
        f"size{size:g}.separate.time", size * (blow_up - left), size * time,
        size * (slack + CLOSED * blow_up), size * bar, unit="time × ε", paper=ZHANG,
        text=f"time to norm {LEVEL:g}, by the clock of the first head, less 1/(λ²v)",
    )  # fmt: skip
    if slack + more < 0.1 * (before - left):
        report.add(
            f"size{size:g}.separate.rise", before - left, finer.at_norm(LOWER).remaining,
            slack + more, 4.0 * RTOL * before, unit="t", paper=ZHANG,
            text=f"time from norm {LOWER:g} to {LEVEL:g}, whatever the start",
        )  # fmt: skip
    return time, blow_up - left, bar


def ahead(v: float, start: float) -> tuple[float, float]:
    """How long before its blow-up the growing head is at v ≪ κ, and how far off that may be."""
    force = FOUR[0] ** 2
    kappa = float(icl.one_head(FOUR[0], sum(FOUR), CONTEXT, v, math.inf))
    x = v / kappa
    share = (start / v) ** (1.0 - (FOUR[1] / FOUR[0]) ** 2)
    other = (x**5 / (5.0 * (1.0 - x**3))) / (force * kappa)
    return (1.0 / x - 0.5 * x**2) / (force * kappa), other + (share**2 + (start / v) ** 2) / (
        force * v
    )


def merged(report: Report, size: float) -> tuple[float, float, float]:
    """When the loss of merged heads is half-way: measured, predicted and the error bar."""
    model = problem.merged(size)
    run = gflow.simulate(model, problem.objective(), t1=merged_time(size), rtol=RTOL)
    middle = 0.5 * (levels(FOUR)[0] + levels(FOUR)[-1])
    measured, bar = passing(run, float(middle))
    v, u = np.asarray(model.value.value), np.asarray(model.key_query.value)

    def above(t: float) -> float:
        return 0.5 * float(icl.merged_from(v, u, FOUR, CONTEXT, t).loss) - middle

    found = optimize.root_scalar(above, bracket=(0.0, merged_time(size)), xtol=1e-12, rtol=1e-14)
    expected = float(found.root)
    # the square of the start beside the growing mode, over the slope of the drop
    step = 1e-3 * expected
    slope = abs(above(expected + step) - above(expected - step)) / (2.0 * step)
    beside = float(np.sum(v**2) + np.sum(u**2))
    allowed = beside / slope + 10.0 * CLOSED * expected
    report.add(
        f"size{size:g}.merged.time", expected, measured, max(allowed, 2.0 * bar), bar, unit="t",
        paper=ZHANG, text="time at which the loss is half-way",
    )  # fmt: skip
    return measured, expected, bar


def laws(report: Report, sizes: np.ndarray, times: np.ndarray, errors: np.ndarray, two) -> None:
    """The power of 1/ε, and the slope in ln(1/ε), between the two smallest sizes."""
    x = np.log(1.0 / sizes[-2:])
    exponent = np.diff(np.log(times[-2:]))[0] / (x[1] - x[0])
    bar = float(np.sum(errors[-2:] / times[-2:]) / (x[1] - x[0]))
    lag = ahead(LEVEL, float(sizes[-2]))[0] / times[-2]
    report.add(
        "law.separate.exponent", 1.0, float(exponent), 2.0 * lag / (x[1] - x[0]) + max(CLOSED, bar),
        bar, paper=ZHANG,
        text=f"power of 1/ε in the escape time from {sizes[-2]:g} to {sizes[-1]:g}",
    )  # fmt: skip
    rate = float(np.linalg.norm(np.square(FOUR)))
    slope = float(np.diff(two[-2:, 0])[0] / (x[1] - x[0]))
    bar = float(np.sum(two[-2:, 1]) / (x[1] - x[0]))
    # what the start has beside the growing mode shifts the drop by O(ε)
    report.add(
        "law.merged.slope", 1.0 / rate, slope, max(10.0 * float(sizes[-2]), 2.0 * bar), bar,
        unit="t/ln(1/ε)", paper=ZHANG,
        text=f"1/‖Λ²‖, the time that a factor e in ε costs, from {sizes[-2]:g} to {sizes[-1]:g}",
    )  # fmt: skip
