"""Accuracy and errors of logits over the tokens that are left."""

import numpy as np
from matplotlib.figure import Figure

from ... import style
from ...style import COLOURS, EXACT, MARKERS, MEASURED
from .measure import WAYS, Merging

LABELS = {"counted": r"with $+\ln m$", "forgotten": r"without"}


def merging_figure(found: Merging) -> Figure:
    figure, (left, right) = style.figure(1, 2)
    whole = found.accuracy("counted", 0).mean
    left.axhline(whole, **EXACT, label="no merger")
    for k, way in enumerate(WAYS):
        rows = [found.accuracy(way, number) for number in range(len(found.kept))]
        beside = np.array(found.kept) + 0.15 * k
        line = {**MEASURED, "ls": ("-", ":")[k], "lw": 0.8}
        left.errorbar(
            beside, [r.mean for r in rows], [r.half for r in rows], fmt=MARKERS[k],
            color=COLOURS[k], capsize=2, label=LABELS[way], **line,
        )  # fmt: skip
        sizes = np.mean(found.errors[way], axis=(1, 2))
        right.plot(found.kept[1:], sizes[1:], MARKERS[k], color=COLOURS[k], label=LABELS[way],
                       **line)  # fmt: skip
    for ax in (left, right):
        ax.set_xlabel("tokens left after the last layer")
        ax.legend(fontsize="x-small", loc="lower right" if ax is left else "upper right")
    left.set(ylabel="share of held-out digits right")
    right.set(ylabel="error of the logits", ylim=(0.0, None))
    return figure
