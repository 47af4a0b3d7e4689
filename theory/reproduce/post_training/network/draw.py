"""Every matrix beside its own null model."""

import numpy as np
from matplotlib.figure import Figure

from ... import style
from ...style import COLOURS, MARKERS, MEASURED
from .measure import WHAT, Beside

LABELS = {
    "coordination": "cosine of left and right rotations",
    "spread": r"spread of $\ln(\sigma'/\sigma)$ over modes",
}


def network_figure(found: dict[str, dict[str, Beside]]) -> Figure:
    figure, axes = style.figure(1, len(WHAT))
    for ax, what in zip(axes, WHAT, strict=True):
        first = 0
        for k, (name, rows) in enumerate(found.items()):
            row = rows[what]
            order = np.argsort(row.null[:, 1])
            places = first + np.arange(len(order))
            low, _, high = row.null[order].T
            ax.vlines(places, low, high, color="0.6", lw=2.0)
            ax.plot(places, row.measured[order], MARKERS[k], color=COLOURS[k], **MEASURED)
            ax.plot([], [], MARKERS[k], color=COLOURS[k], **MEASURED, label=f"{name}, tuned")
            first += len(order) + 2
        ax.vlines([], [], [], color="0.6", lw=2.0, label="random change, 90 %")
        ax.set(xlabel="weight matrix, by its null", ylabel=LABELS[what])
        ax.set_xticks([])
    axes[1].set_yscale("log")
    axes[1].legend(fontsize="x-small", loc="lower right")
    return figure
