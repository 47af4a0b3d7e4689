"""Figures: simulated curves under their exact ones, and what separates the two."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from theory import exact_linear as exact

from .. import style
from ..style import COLOURS, EXACT, SIMULATED, TIME
from .measure import Hierarchy, Lazy, LazyAndRich, RandomNetworks
from .problem import Balanced
from .runs import MARGIN, RTOL, Run


def hierarchy(numbers: Hierarchy) -> Figure:
    one, start, s, strengths, sigmoids, levels = numbers
    figure, (left, right) = style.figure(1, 2)
    for colour, marker, level in zip(COLOURS, "osD^", levels, strict=False):
        k = int(np.argmin(np.abs(s - level)))
        left.plot(one.t, strengths[:, k], color=colour, **SIMULATED, zorder=1)
        grid = np.linspace(0, one.t[-1], 400)
        left.plot(grid, exact.mode_strength(start, level, grid), **EXACT)
        half = exact.mode_time(start, level / 2, level)
        label = f"$s = {level:.3g}$"
        left.plot(half, level / 2, marker, mfc="white", mec=colour, ms=5, label=label)
        error = _visible(np.abs(strengths[:, k] - sigmoids[:, k]) / s[0])
        points = {"marker": marker, "markevery": (7, 25), "ms": 3.5, "mfc": "white"}
        right.semilogy(one.t, error, color=colour, lw=1.0, **points)
    style.entry(left, "simulated", style.ANY_COLOUR)
    style.entry(left, "sigmoid, exact", EXACT)
    left.legend(fontsize="x-small", loc="upper left", bbox_to_anchor=(0.0, 1.0))
    left.set(xlabel=TIME, ylabel="strength of the mode", ylim=(-0.05, 1.12 * s[0]))
    left.set_title("a hierarchy is learned level by level")
    _tolerance_line(right, one.bar)
    right.set(xlabel=TIME, ylabel="|simulated − exact| / $s_1$")
    right.set_title("error of the simulated strengths")
    return figure


def balances(numbers: list[tuple[Balanced, Run]]) -> Figure:
    figure, axes = style.figure(2, 2)
    (entries, first), (second, errors) = axes
    shown = numbers[0][1]
    for n in range(12):
        entry = shown.simulated.reshape(-1, 12)[:, n]
        entries.plot(shown.t, entry, color=COLOURS[n % 6], **SIMULATED)
        entries.plot(shown.t, shown.exact.reshape(-1, 12)[:, n], **EXACT)
    entries.set(xlabel=TIME, ylabel="entries of $W_2W_1$", xlim=(0, 12))
    entries.set_title(r"4–5–3, $\lambda = 0$, $\sigma = 0.15$")
    for n, ((one, run), marker) in enumerate(zip(numbers, "osD^v", strict=True)):
        ax, colour, label = (first if n < 2 else second), COLOURS[n], one.label.split(", ")[1]
        ax.plot(run.t, run.trajectory.loss, color=colour, **SIMULATED)
        grid = np.linspace(0.0, 20.0, 7) + 0.5 + 0.8 * (n % 3)
        if ax is second:
            grid = np.geomspace(0.02, 16.0, 7) * 1.3 ** (n % 3)
        at = np.searchsorted(run.t, grid[grid < run.t[-1]])
        ax.plot(run.t, run.loss, **EXACT)
        ax.plot(run.t[at], run.loss[at], marker, mec=colour, mfc="white", ms=4.5, label=label)
        points = {"marker": marker, "markevery": (3 * n, 30), "ms": 3.5, "mfc": "white"}
        errors.semilogy(run.t, _visible(run.error), color=colour, lw=1.0, label=label, **points)
    for ax in (first, second):
        style.entry(ax, "simulated", style.ANY_COLOUR)
        style.entry(ax, "exact", EXACT)
        ax.set(xlabel=TIME, ylabel="loss", ylim=(0, None))
        ax.legend(fontsize="x-small")
    first.set(xlim=(0, 20))
    first.set_title(r"4–5–3, $\lambda = 0$, two scales")
    second.set(xscale="log", xlim=(0.01, 20))
    second.set_title(r"4–4–4, $\lambda$-balanced, $\sigma = 0.1$")
    _tolerance_line(errors, None)
    errors.set(xlabel=TIME, ylabel=r"|simulated − exact| / max|$\Sigma$|")
    errors.legend(fontsize="x-small", ncols=2, loc="lower right")
    errors.set_title("error of all five runs")
    return figure


def random_networks(numbers: RandomNetworks) -> Figure:
    figure, (left, right) = style.figure(1, 2)
    bins = np.arange(-34, -5, 1.0)
    tolerances = reversed(numbers.sizes)
    for colour, hatch, marker, rtol in zip(COLOURS, ("///", "..."), "os", tolerances, strict=False):
        label = rf"flow, rtol = $10^{{{math.log10(rtol):.0f}}}$"
        size, gap = numbers.sizes[rtol], np.maximum(numbers.deviations[rtol], 1e-34)
        left.hist(
            np.log10(gap), bins, facecolor="white", edgecolor=colour, hatch=hatch, label=label
        )
        right.loglog(size, gap, marker, mec=colour, mfc="none", ms=4, label=label)
    left.axvspan(-15, math.log10(5e-6), color="0.9", zorder=0)
    right.axhspan(1e-15, 5e-6, color="0.9", zorder=0)
    left.set_xlabel(r"$\log_{10}$ mean squared deviation of the loss")
    left.set(ylabel="networks", xlim=(-30, -4), ylim=(0, 1.45 * left.get_ylim()[1]))
    note = {"va": "top", "fontsize": "x-small"}
    top = 0.98 * left.get_ylim()[1]
    left.text(-10.1, top, "gradient descent,\npublished", ha="center", **note)
    left.yaxis.get_major_locator().set_params(integer=True)
    left.legend(fontsize="x-small", loc="upper left")
    right.set(xlabel="entries of $W_2W_1$", ylabel="mean squared deviation")
    right.set(xlim=(3, 3000), ylim=(1e-30, 1e-4))
    right.text(3.5, 1e-6, "gradient descent, published", **note)
    right.legend(fontsize="x-small", loc="lower left")
    left.set_title("simulated against exact losses")
    right.set_title("the same by size of the network")
    return figure


def lazy_and_rich(numbers: LazyAndRich) -> Figure:
    figure, (left, right) = style.figure(1, 2)
    for colour, marker, one in zip(COLOURS, "osD^", numbers.runs, strict=False):
        _strengths(left, numbers.s, one, colour, marker)
    style.entry(left, "simulated, its steps", {"color": "0.4", "ls": "", "ms": 4}, ".")
    style.entry(left, "exact", EXACT)
    left.set(xlabel="time / half-time of the first mode", ylabel="strength / $s$", xlim=(0.1, 15))
    left.legend(fontsize="x-small", loc="upper left")
    left.set_title("rich: one after the other; lazy: together")
    gains = [one.gain for one in numbers.runs]
    for k, marker in enumerate("os"):
        right.loglog(numbers.grid, numbers.curves[:, k], **EXACT, label="exact" if k else None)
        halves = [one.measured[k] for one in numbers.runs]
        points = {"mec": COLOURS[k], "mfc": "white", "ms": 5}
        right.loglog(gains, halves, marker, label=f"simulated, $s = {numbers.s[k]:g}$", **points)
    limit = math.log(2) / (2 * numbers.grid)
    right.loglog(numbers.grid, limit, color="0.5", **style.DOTTED, label=r"lazy limit, $\ln 2/2g$")
    right.set(xlabel="gain $g$ of the start", ylabel="flow time at half strength")
    right.set_ylim(0.02, 60)
    right.legend(fontsize="x-small")
    right.set_title("when each mode is half learned")
    return figure


def _strengths(ax: Axes, s: np.ndarray, one: Lazy, colour: str, marker: str) -> None:
    half = one.predicted[0]
    x = one.run.t / half
    grid = np.geomspace(0.03, x[-1], 200)
    curve = exact.lazy_to_rich(np.diag(s), one.gain, grid * half)
    for k in range(2):
        # at the steps alone: between them straight lines would not be the run
        ax.semilogx(x[1:], one.strengths[1:, k] / s[k], ".", color=colour, ms=4, alpha=0.7)
        ax.semilogx(grid, curve[:, k, k] / s[k], **EXACT)
    near = [int(np.argmin(np.abs(one.run.t - time))) for time in one.predicted]
    label = rf"$g = 10^{{{math.log10(one.gain):.0f}}}$"
    points = {"mec": colour, "mfc": "white", "ms": 5}
    ax.plot(x[near], one.strengths[near, [0, 1]] / s, marker, label=label, **points)


def _visible(error: np.ndarray) -> np.ndarray:
    """Errors for a logarithmic axis, not below rounding."""
    return np.maximum(error, 1e-17)


def _tolerance_line(ax: Axes, bar: float | None) -> None:
    note: dict = {"ha": "right", "va": "bottom", "fontsize": "x-small"}
    there = ax.get_yaxis_transform()
    ax.axhline(MARGIN * RTOL, color="0.35", **style.DOTTED)
    ax.text(0.98, MARGIN * RTOL, "tolerance ", transform=there, **note)
    if bar is not None:
        ax.axhline(bar, color="0.35", ls=(0, (5, 2)), lw=0.8)
        ax.text(0.98, bar, "solver's error bar ", transform=there, **note)
    ax.set_ylim(1e-17, 1e-6)
