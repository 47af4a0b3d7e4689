"""How far each singular value has been scaled."""

import numpy as np
from matplotlib.figure import Figure

from theory import post_training

from ... import style
from ...style import COLOURS, EXACT, SIMULATED, TIME
from .measure import END, VALUES, Scaling


def scaling_figure(numbers: Scaling) -> Figure:
    figure, axes = style.figure(1, len(numbers.runs))
    grid = np.linspace(0.0, END, 400)
    for ax, (factor, (t, shares)) in zip(axes, numbers.runs.items(), strict=True):
        exact = post_training.scaled(VALUES, factor, grid) / np.array(VALUES)
        for k, value in enumerate(VALUES):
            ax.plot(t, shares[:, k], color=COLOURS[k], **SIMULATED, label=f"$s = {value:g}$")
            ax.plot(grid, exact[:, k], **EXACT)
        style.entry(ax, "predicted", EXACT)
        ax.set(xlabel=TIME, ylabel="$s_i(t)/s_i(0)$", xlim=(0.0, END))
        ax.set_title(f"target {factor:g} times the start")
        ax.legend(fontsize="x-small")
    return figure
