"""Gaps over layers and their floors."""

import numpy as np
from matplotlib.figure import Figure

from ... import style
from ...style import COLOURS, DOTTED, EXACT, MARKERS, MEASURED, SIMULATED
from .measure import SAMPLES, Gaps


def norms_figure(gaps: Gaps) -> Figure:
    figure, (left, right) = style.figure(1, 2)
    layers = np.arange(len(gaps.without))
    for k, (width, gap) in enumerate(gaps.with_norm.items()):
        left.semilogy(layers, gap, color=COLOURS[k], **SIMULATED, label=f"BN, $d = {width}$")
    left.semilogy(layers, gaps.without, color="0.3", **DOTTED, label="no norm")
    left.axhline(np.sqrt(1.0 - 1.0 / SAMPLES), **EXACT, label="equal samples")
    left.set(xlabel="layer", ylabel="orthogonality gap", title="deep linear networks")
    left.legend(fontsize="x-small", loc="center right", bbox_to_anchor=(1.0, 0.62))
    widths = np.array([*gaps.floors], float)
    floors, bars = np.array([*gaps.floors.values()]).T
    right.errorbar(widths, floors, bars, fmt=MARKERS[0], color=COLOURS[0], **MEASURED, lw=0.8,
                   label="measured")  # fmt: skip
    right.loglog(widths, floors[0] * np.sqrt(widths[0] / widths), **EXACT, label="slope $-1/2$")
    right.set(xlabel="width $d$", ylabel="floor of the gap", title="the floor")
    right.set_xticks(widths, [f"{w:.0f}" for w in widths])
    right.set_yticks(floors, [f"{x:.3f}" for x in floors])
    right.minorticks_off()
    right.legend(fontsize="x-small")
    return figure
