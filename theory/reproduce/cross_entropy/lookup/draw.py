"""The logit through its decays, on a linear and on a logarithmic axis."""

import numpy as np
from matplotlib.figure import Figure

from ... import style
from ...style import COLOURS, DOTTED, EXACT, SIMULATED, TIME
from .measure import DECAYS, END, K, Lookup, course


def course_figure(numbers: Lookup) -> Figure:
    figure, (left, right) = style.figure(1, 2)
    grid = np.linspace(0.0, END, 1500)
    for ax in (left, right):
        ax.plot(numbers.run.t, numbers.a, color=COLOURS[0], **SIMULATED, label="simulated")
        ax.plot(grid, course(grid), **EXACT, label="predicted")
        for start, _ in DECAYS[1:]:
            ax.axvline(start, color="0.8", lw=0.8, zorder=0)
        ax.set(xlabel=TIME, xlim=(0, END))
    ends = [start for start, _ in DECAYS[1:]] + [END]
    for (start, rate), end, rest in zip(DECAYS, ends, numbers.rests, strict=True):
        left.plot([start, end], [rest, rest], color="0.35", **DOTTED)
        at = 0.5 * (start + end)
        left.text(at, 4.75, rf"$\lambda = {rate:g}$", ha="center", fontsize="x-small", rotation=60)
    style.entry(left, r"rest of each $\lambda$", {"color": "0.35", **DOTTED})
    left.set(ylabel="logit $a$", ylim=(-0.2, 5.6))
    left.legend(fontsize="x-small", loc="lower right")
    left.set_title(f"softmax lookup of {K} tokens")
    right.set_yscale("log")
    right.set(ylabel="logit $a$")
    right.set_title(r"it dies where $\lambda > 1/K$, and comes back")
    right.legend(fontsize="x-small", loc="lower right")
    return figure
