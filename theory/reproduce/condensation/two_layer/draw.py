"""Alignment of the tanh network in time; angles at escape against angles at the start."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ... import style
from ...style import COLOURS, EXACT, SIMULATED, TIME
from .measure import Angles, Course, TwoLayers

FORMULAS = {1: r"$\tanh z$", 2: r"$z\,\tanh z$", 3: r"$z^2\tanh z$"}
CRITICAL = {"color": "0.5", "lw": 1.1, "ls": (0, (1, 1.5))}


def two_layer(numbers: TwoLayers) -> Figure:
    figure, axes = style.figure(2, 2)
    _courses(axes[0, 0], numbers.courses)
    for ax, one in zip(axes.flat[1:], numbers.angles, strict=True):
        _angles(ax, one)
    return figure


def _courses(ax: Axes, courses: list[Course]) -> None:
    for one, colour in zip(courses, COLOURS, strict=False):
        label = rf"$\varepsilon = 10^{{{round(math.log10(one.epsilon))}}}$"
        ax.semilogy(one.t, one.found, color=colour, **SIMULATED, label=label)
        ax.semilogy(one.t, one.exact, **EXACT)
    style.entry(ax, "closed form", EXACT)
    ax.set(xlabel=TIME, ylabel=r"$1 - |\cos(w_j, g)|$, median over $j$")
    note = "the closed form holds while $w^3 \\ll \\varepsilon$"
    corner = {"ha": "right", "va": "top", "fontsize": "x-small", "transform": ax.transAxes}
    ax.text(0.98, 0.97, note, **corner)
    ax.legend(fontsize="x-small", ncols=2, loc="lower left")
    ax.set_title(rf"$p = 1$: {FORMULAS[1]}")


def _angles(ax: Axes, one: Angles) -> None:
    degrees = 180 / math.pi
    start, found, predicted = (degrees * x for x in (one.start, one.found, one.predicted))
    for value, attracts in zip(one.limits.angle, one.limits.attracts, strict=True):
        ax.axhline(value * degrees, **(EXACT if attracts else CRITICAL), zorder=0)
    for side, marker, colour in ((1, "^", COLOURS[0]), (-1, "v", COLOURS[1])):
        here = np.isfinite(found) & (one.sign == side)
        label = rf"$a {'>' if side > 0 else '<'} 0$"
        ax.plot(start[here], found[here], marker, color=colour, ms=4, label=label)
    ax.plot(start, predicted, "o", mfc="none", mec="black", ms=7, mew=0.7, label="predicted")
    ax.set(xlim=(0, 360), ylim=(0, 360), xticks=range(0, 361, 90), yticks=range(0, 361, 90))
    ax.set(xlabel="angle of $w_j$ at the start (°)", ylabel="angle at its escape (°)")
    if one.p == 1:
        style.entry(ax, "orientation that attracts", EXACT)
        style.entry(ax, "critical, does not attract", CRITICAL)
        ax.legend(fontsize="x-small", loc="lower left", ncols=2, columnspacing=1.0)
    ax.set_title(rf"$p = {one.p}$: {FORMULAS[one.p]}")
