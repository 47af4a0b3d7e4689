"""The block between heads along the flow."""

from matplotlib.figure import Figure

from ... import style
from ...style import COLOURS, EXACT, SIMULATED, TIME
from .measure import END, Blocks


def blocks_figure(numbers: Blocks) -> Figure:
    figure, (ax,) = style.figure(1, 1, width=4.0)
    for k, (size, (t, found, summed)) in enumerate(numbers.runs.items()):
        label = f"key–query factors {size:g}" if size else "one pattern"
        ax.semilogy(t[1:], found[1:], color=COLOURS[k], **SIMULATED, label=label)
        if size:
            ax.semilogy(t[1:], summed[1:], **EXACT)
    style.entry(ax, "integral of the forces' difference", EXACT)
    ax.set(xlabel=TIME, ylabel=r"drift of $A_1^TA_2 - B_1^TB_2$", xlim=(0.0, END))
    ax.set_ylim(1e-17, 30.0)
    ax.set_title("when heads become distinguishable")
    ax.legend(fontsize="x-small", loc="center right")
    return figure
