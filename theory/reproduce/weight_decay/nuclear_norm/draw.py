"""The paper's Fig. 1: gap and imbalance in time, soft-thresholding, rank, modes that tie."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from theory import weight_decay as theory

from ... import style
from ...style import COLOURS, EXACT, MARKERS, SIMULATED, TIME
from .measure import Course, Figure1, Modes, Sweep
from .problem import TARGET, Problem

#: The loss as a formula.
LOSSES = {"half": r"$\frac{1}{2}\|AB^T - D\|^2$", "full": r"$\|AB^T - D\|^2$"}
LOWER = {**EXACT, "ls": (0, (1, 1.5))}
SLOPE = {**EXACT, "ls": "-"}
AXIS = "singular values of $AB^T$"


def figure_1(numbers: Figure1) -> Figure:
    figure, axes = style.figure(3, 2)
    _in_time(axes[0], numbers.one, numbers.courses)
    _thresholds(axes[1, 0], numbers.one, numbers.sweep)
    _ranks(axes[1, 1], numbers.one, numbers.sweep)
    _modes(axes[2], numbers.one, numbers.modes)
    figure.suptitle(f"loss {LOSSES[numbers.one.loss]}", fontsize=8)
    return figure


def _in_time(axes: np.ndarray, one: Problem, courses: list[Course]) -> None:
    gaps, imbalances = axes
    for course, colour, marker in zip(courses, COLOURS, MARKERS, strict=False):
        t = course.t
        gaps.semilogy(t, course.gap, color=colour, **SIMULATED)
        # bounds belong to the course of their colour and marker
        own = {"color": colour, "marker": marker, "ms": 2.5}
        for bound, line, first in ((course.upper, EXACT, 0.12), (course.lower, LOWER, 0.2)):
            every = np.searchsorted(t, np.linspace(first, 0.9, 4) * t[-1])
            gaps.semilogy(t, bound, **{**line, **own, "markevery": list(np.unique(every))})
        imbalances.semilogy(t, course.imbalance, color=colour, **SIMULATED)
        imbalances.semilogy(t, course.law, **EXACT)
        at = np.searchsorted(t, np.linspace(0.1, 0.8, 4) * t[-1])
        points = {"mfc": "white", "mec": colour, "ms": 4.5}
        label = rf"$\lambda = {course.decay:g}$"
        gaps.plot(t[at], course.gap[at], marker, label=label, **points)
        imbalances.plot(t[at], course.imbalance[at], marker, label=label, **points)
        if course.decay:
            late = np.array([0.35, 0.6]) * t[-1]
            if course.decay >= 0.3:
                late = np.array([6.0, 12.0]) / one.clock
            anchor = np.searchsorted(t, late[0])
            line = 8.0 * course.gap[anchor] * np.exp(course.slope * (late - t[anchor]))
            gaps.plot(late, line, **SLOPE)
    style.entry(gaps, "simulated", style.ANY_COLOUR)
    for label, line in (("upper bound", EXACT), ("lower bound", LOWER), ("late slope", SLOPE)):
        style.entry(gaps, label, line)
    style.entry(imbalances, r"$e^{-2\lambda t}$", EXACT)
    for ax in axes:
        ax.legend(fontsize="x-small", ncols=2, loc="upper right")
        ax.set(xlabel=TIME, xlim=(0, 100 / one.clock))
    gaps.set(ylabel=r"$\frac{1}{2}\|A\|^2+\frac{1}{2}\|B\|^2-\|AB^T\|_*$", ylim=(1e-13, 1e5))
    gaps.set_title("(i) gap to the nuclear norm")
    imbalances.set(ylabel=r"$\|A^TA - B^TB\|$", ylim=(1e-7, 1e4))
    imbalances.set_title("(ii) imbalance of the factors")


def _thresholds(ax: Axes, one: Problem, sweep: Sweep) -> None:
    decays, found = sweep.decays, sweep.found
    grid = np.linspace(0.0, decays[-1], 1000)
    exact = np.linalg.svdvals(theory.soft_threshold(TARGET, grid, one.loss))
    for k in range(5):
        ax.plot(decays, found[:, 4 - k], color=COLOURS[k], **SIMULATED)
        ax.plot(grid, exact[:, 4 - k], **EXACT)
        at = slice(3 * k, None, 9)
        points = {"mfc": "white", "mec": COLOURS[k], "ms": 4.5}
        ax.plot(decays[at], found[at, 4 - k], MARKERS[k], **points)
    style.entry(ax, f"simulated, $t = {sweep.end:g}$", style.ANY_COLOUR)
    half = "/2" * (one.clock > 1)
    style.entry(ax, rf"$\max(d_i - \lambda{half}, 0)$", EXACT)
    ax.set(xlabel=r"weight decay $\lambda$", ylabel=AXIS)
    ax.legend(fontsize="x-small")
    ax.set_title("(iii) soft-thresholding, 64 decays in one call")


def _ranks(ax: Axes, one: Problem, sweep: Sweep) -> None:
    decays, tied, rank = sweep.decays, sweep.tied, sweep.rank
    grid = np.linspace(0.0, decays[-1], 1000)
    predicted = theory.predicted_rank(TARGET, grid, loss=one.loss).rank
    ax.plot(decays[~tied], rank[~tied], "o", color=COLOURS[0], ms=3, label="simulated")
    label = rf"ties, still $1/{2 * one.clock:g}t$ above 0"
    ax.plot(decays[tied], rank[tied], "s", mfc="white", mec=COLOURS[1], ms=5, label=label)
    ax.step(grid, predicted, where="post", **EXACT, label="predicted")
    ax.set(xlabel=r"weight decay $\lambda$", ylabel=r"rank, $\#\{s_i > 10^{-4}\}$")
    ax.legend(fontsize="x-small")
    ax.set_title("(iii) rank at the end")


def _modes(axes: np.ndarray, one: Problem, modes: Modes) -> None:
    linear, logarithmic = axes
    t, d = modes.t, np.diag(TARGET)
    for k in range(5):
        tie = " (tie)" if abs(d[k] - modes.decay / one.clock) < 1e-12 else ""
        for ax in axes:
            ax.plot(t, modes.found[:, k], color=COLOURS[k], **SIMULATED)
            ax.plot(t, modes.exact[:, k], **EXACT)
        at = np.searchsorted(t, np.array([2.0, 6.0, 12.0]) * 1.12**k)
        points = {"mfc": "white", "mec": COLOURS[k], "ms": 4.5}
        linear.plot(t[at], modes.found[at, k], MARKERS[k], label=f"$d = {d[k]:g}${tie}", **points)
    style.entry(linear, "exact", EXACT)
    linear.legend(fontsize="x-small", ncols=2)
    linear.set(xlabel=TIME, ylabel=AXIS, xlim=(0, 20), ylim=(0, 1.15))
    linear.set_title(rf"(iv) $\lambda = {modes.decay:g}$, aligned start")
    logarithmic.set(xlabel=TIME, ylabel=AXIS, xscale="log", yscale="log")
    logarithmic.set(ylim=(1e-8, 2), xlim=(0.1, t[-1]))
    style.entry(logarithmic, "exact", EXACT)
    logarithmic.set_title("the tie dies as a power of time")
    logarithmic.legend(fontsize="x-small")
