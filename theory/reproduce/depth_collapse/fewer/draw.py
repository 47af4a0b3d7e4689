"""Fewer tokens collapse later; a boost moves the border."""

import numpy as np
from matplotlib.figure import Figure

from ... import style
from ...style import COLOURS, EXACT, MARKERS, MEASURED
from .measure import Mergers, Thresholds


def fewer_figure(mergers: Mergers, thresholds: Thresholds) -> Figure:
    figure, (left, right) = style.figure(1, 2)
    for k, (n, log) in enumerate(mergers.measured.items()):
        layers = np.arange(1, len(log))
        left.semilogy(layers, -log[1:], MARKERS[k], color=COLOURS[k], **MEASURED,
                      label=f"{n} tokens")  # fmt: skip
        left.semilogy(layers, -mergers.predicted[n][1:], **EXACT)
    style.entry(left, "predicted", EXACT)
    left.set(xlabel="layer", ylabel=r"$-\ln \rho$", title="fewer tokens collapse later")
    left.legend(fontsize="x-small")
    for k, (share, log) in enumerate(thresholds.measured.items()):
        layers = np.arange(len(log))
        seen = log > -12.0
        right.plot(layers[seen], log[seen], MARKERS[k], color=COLOURS[k], **MEASURED,
                   label=rf"$\rho_0 = {share:g}\,\rho^*$")  # fmt: skip
        right.plot(layers, thresholds.predicted[share], **EXACT)
    right.axhline(np.log(thresholds.threshold), color="0.8", lw=0.8, zorder=0)
    style.entry(right, "predicted", EXACT)
    right.set(xlabel="layer", ylabel=r"$\ln \rho$", ylim=(-12.0, 6.0))
    right.set_title("attention boosted by a half")
    right.legend(fontsize="x-small", loc="lower left")
    return figure
