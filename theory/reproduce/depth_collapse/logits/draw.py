"""Participation against 1/ln n, and the limit."""

import numpy as np
from matplotlib.figure import Figure

from theory import depth_collapse

from ... import style
from ...style import COLOURS, DOTTED, EXACT, MARKERS, MEASURED
from .measure import Logits


def logits_figure(found: Logits) -> Figure:
    figure, (ax,) = style.figure(1, 1)
    x = found.inverse_log
    for k, (beta, y) in enumerate(found.means.items()):
        ax.errorbar(x, y, found.bars[beta], fmt=MARKERS[k], color=COLOURS[k], **MEASURED, lw=0.8,
                    clip_on=False, label=rf"$\beta = {beta:g}$")  # fmt: skip
        limit = float(depth_collapse.participation(beta, 1.0, 0.0))
        ax.plot(0.0, limit, "*", color="black", ms=7, clip_on=False, zorder=5)
        if limit > 0.0:
            slope, start = np.polyfit(x, y, 1, w=1.0 / found.bars[beta])
            ax.plot([0.0, x[0]], [start, start + slope * x[0]], color=COLOURS[k], **DOTTED)
    style.entry(ax, r"predicted, $n \to \infty$", EXACT | {"ls": "", "ms": 7}, "*")
    style.entry(ax, "straight line", {"color": "0.4", **DOTTED})
    ax.set(xlabel=r"$1/\ln n$", ylabel=r"$Y = \mathrm{E}\,\sum_j A_{ij}^2$", xlim=(0.0, None))
    ax.set_ylim(bottom=0.0)
    ax.set_title(r"random logits of size $\beta\sqrt{\ln n}$")
    ax.legend(fontsize="x-small")
    return figure
