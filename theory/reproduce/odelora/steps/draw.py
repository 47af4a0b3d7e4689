"""How far the first step is thrown, and what becomes of it."""

import numpy as np
from matplotlib.figure import Figure

from theory import odelora

from ... import style
from ...style import COLOURS, EXACT, MARKERS, MEASURED
from .measure import END, SHARES, START, TARGET, Steps


def steps_figure(numbers: Steps) -> Figure:
    figure, (left, right) = style.figure(1, 2)
    left.loglog(SHARES, numbers.first, "o", color=COLOURS[0], **MEASURED, label="Euler")
    left.loglog(SHARES, numbers.predicted, **EXACT, label="predicted")
    left.axvline(1.0, color="0.8", lw=0.8, zorder=0)
    left.set(xlabel=r"step over $2s_0/d$", ylabel="mode after a step, over the flow's")
    left.set_title(f"the first step from $s_0 = 10^{{{int(np.log10(START))}}}$")
    left.legend(fontsize="x-small")
    for k, (step, path) in enumerate(numbers.paths.items()):
        t, every = step * np.arange(len(path)), max(len(path) // 40, 1)
        style_of = {"color": COLOURS[k], **MEASURED, "label": rf"$\eta = {step:g}$"}
        right.semilogy(t[::every], path[::every], MARKERS[k], **style_of)
    grid = np.linspace(0.0, END, 300)
    right.semilogy(grid, odelora.aligned([TARGET], START, grid)[:, 0], **EXACT, label="the flow")
    right.set(xlabel=r"$\eta \times$ steps", ylabel="mode $s$")
    right.set_title(f"target $d = {TARGET:g}$")
    right.legend(fontsize="x-small", loc="lower right")
    return figure
