"""Five singular values vanish together at λ = 1/K; their courses."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from theory import weight_decay as theory

from ... import style
from ...style import COLOURS, EXACT, SIMULATED, TIME
from .measure import Course, Ends
from .problem import TOKENS


def lookup(ends: Ends, courses: list[Course]) -> Figure:
    figure, (left, right) = style.figure(1, 2)
    _ends(left, ends)
    _courses(right, courses)
    return figure


def _ends(ax: Axes, ends: Ends) -> None:
    k, grid = TOKENS, np.linspace(0.015, 0.31, 400)
    decays, found = ends
    ax.plot(grid, theory.lookup_logit(k, grid), **EXACT, label=r"$\ln(1/\lambda - K + 1)$")
    ax.plot(decays, found[:, 0], "o", color=COLOURS[0], ms=4, label="largest singular value")
    ax.plot(decays, found[:, k - 2], "s", mfc="none", mec=COLOURS[1], ms=7, label="fifth")
    ax.plot(decays, found[:, k - 1], "x", color=COLOURS[2], ms=5, label="sixth")
    ax.axvline(1 / k, color="0.5", **style.DOTTED)
    ax.text(1 / k, 2.0, r" $\lambda = 1/K$", fontsize="x-small")
    ax.set(xlabel=r"weight decay $\lambda$", ylabel="singular values of $W_K^TW_Q$")
    ax.legend(fontsize="x-small")
    ax.set_title("five singular values vanish together")


def _courses(ax: Axes, courses: list[Course]) -> None:
    for one, colour, marker in zip(courses, COLOURS, "osD^", strict=False):
        fine = np.linspace(0.0, one.t[-1], 600)
        ax.semilogy(one.t, one.a, color=colour, **SIMULATED)
        ax.semilogy(fine, theory.lookup_course(one.small, TOKENS, one.decay, fine), **EXACT)
        at = np.unique(np.searchsorted(one.t, np.array([8.0, 30.0, 70.0, 110.0])))
        points = {"mfc": "white", "mec": colour, "ms": 4.5}
        ax.plot(one.t[at], one.a[at], marker, label=rf"$\lambda = {one.decay:g}$", **points)
    style.entry(ax, "simulated", style.ANY_COLOUR)
    style.entry(ax, "exact", EXACT)
    ax.set(xlabel=TIME, ylabel=r"$a$ of $W_K^TW_Q = a(I - 11^T/K)$", ylim=(1e-4, 50))
    ax.legend(fontsize="x-small", ncols=3, loc="upper right")
    ax.set_title("from a simplex start")
