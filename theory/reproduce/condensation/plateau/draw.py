"""Singular values and alignment in time, length and rank over ε."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ... import style
from ...scales import LOG10
from ...style import COLOURS, EXACT, MEASURED
from .measure import SHOWN, InTime, OverSizes, SecondStage
from .problem import LEVEL

CLOCK = "flow time since the escape"
SIZE = r"$\log_{10} 1/\varepsilon$"


def second_stage(numbers: SecondStage) -> Figure:
    figure, axes = style.figure(2, 2)
    _values(axes[0, 0], numbers.in_time)
    _alignment(axes[0, 1], numbers.in_time, numbers.sigma)
    _lengths(axes[1, 0], numbers.over_sizes, numbers.sigma[0])
    _ranks(axes[1, 1], numbers.over_sizes)
    return figure


def _values(ax: Axes, one: InTime) -> None:
    query, key = one.values
    line: dict = {"lw": 1.6, "alpha": 0.6}
    at = max(len(one.t) // 12, 1)
    for k in range(3):
        ax.plot(one.t, query[:, k], color=COLOURS[k], **line)
        ax.plot(one.t[one.half + 1 :], one.predicted[0][:, k], **EXACT)
        ax.plot(one.t[k::at], key[k::at, k], "osD"[k], color=COLOURS[k], **MEASURED)
    style.entry(ax, "$W_Q$", {"color": "0.3", **line})
    style.entry(ax, "$W_K$", {"color": "0.3", **MEASURED}, "o")
    style.entry(ax, "predicted from mid-plateau", EXACT)
    ax.set(xlabel=CLOCK, ylabel=r"$\log_{10}$ singular value")
    ax.legend(fontsize="x-small")
    ax.set_title(rf"three largest singular values, $\varepsilon = 10^{{-{SHOWN}}}$")


def _alignment(ax: Axes, one: InTime, sigma: np.ndarray) -> None:
    t = one.t
    for angle, name, dash, colour in zip(one.angles, "QK", "-:", COLOURS, strict=False):
        ax.semilogy(t[1:], angle[1:], dash, color=colour, lw=1.6, label=f"$W_{name}$")
    middle = slice(*np.searchsorted(t, np.array([0.3, 0.8]) * one.end))
    fall = np.exp((sigma[1] - sigma[0]) * (t[middle] - t[one.half]))
    line = 0.1 * one.angles[-1][one.half] * fall
    ax.semilogy(t[middle], line, **EXACT, label=r"rate $\sigma_1 - \sigma_2$")
    ax.set(xlabel=CLOCK, ylabel="angle of top singular vectors to $F$")
    ax.legend(fontsize="x-small")
    ax.set_title("alignment")


def _lengths(ax: Axes, sizes: OverSizes, rate: float) -> None:
    x = sizes.exponents
    line = sizes.times[-1] + (x - x[-1]) * LOG10 / rate
    ax.plot(x, sizes.times, "o", color=COLOURS[0], **MEASURED, label="simulated")
    ax.plot(x, line, **EXACT, label=r"slope $1/\sigma_1$, by the last point")
    ax.set(xlabel=SIZE, ylabel=rf"time to $\|W_Q\| = {LEVEL:g}$")
    ax.legend(fontsize="x-small")
    ax.set_title("length of the plateau")


def _ranks(ax: Axes, sizes: OverSizes) -> None:
    for j, name in enumerate("QK"):
        points = {"color": COLOURS[j], **MEASURED, "ms": 7 - 3 * j}
        line = {**EXACT, "ls": ((0, (4, 2)), ":")[j]}
        label = f"$W_{name}$, simulated"
        ax.semilogy(sizes.exponents, sizes.ranks[:, j], "os"[j], label=label, **points)
        label = f"$W_{name}$, predicted"
        ax.semilogy(sizes.exponents, sizes.predicted_ranks[:, j], label=label, **line)
    ax.set(xlabel=SIZE, ylabel="stable rank, less 1")
    ax.legend(fontsize="x-small")
    ax.set_title("rank left at the end of the plateau")
