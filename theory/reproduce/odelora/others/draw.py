"""Half-times against decades of the start."""

import numpy as np
from matplotlib.figure import Figure

from ... import style
from ...style import COLOURS, EXACT, MARKERS, MEASURED
from .measure import DECADES, LASTS, Others


def others_figure(numbers: Others) -> Figure:
    figure, (ax,) = style.figure(1, 1)
    decades = np.array(DECADES, float)
    names = {"momentum": f"momentum, $T = {LASTS:g}$", "gradient": "gradient flow",
             "sign": "sign flow", "projected": "projected flow"}  # fmt: skip
    for k, (name, label) in enumerate(names.items()):
        t = numbers.times[name]
        ax.plot(decades, t, MARKERS[k], color=COLOURS[k], **MEASURED, label=label)
        ax.plot(decades, t[-1] + numbers.slopes[name] * (decades - decades[-1]), **EXACT)
    style.entry(ax, "predicted slope", EXACT)
    ax.set(xlabel=r"$\log_{10} 1/s_0$", ylabel="half-time (flow time)")
    ax.set_ylim(bottom=0.0, top=1.5 * ax.get_ylim()[1])
    ax.set_title("one mode under four velocities")
    ax.legend(fontsize="x-small", loc="upper left", ncols=2)
    return figure
