"""Open dimensions over the rank of W_O."""

import numpy as np
from matplotlib.figure import Figure

from ... import style
from ...style import COLOURS, DOTTED, EXACT, MEASURED
from .measure import COUNT, TOKENS, WIDTH, Ambiguity


def ambiguity_figure(numbers: Ambiguity) -> Figure:
    figure, (ax,) = style.figure(1, 1)
    ranks = np.arange(0, COUNT * WIDTH + 1)
    ax.plot(ranks, TOKENS * (COUNT * WIDTH - ranks), **EXACT, label=r"$n(Hd_k - \mathrm{rank})$")
    ax.axhline(TOKENS * (COUNT - 1) * WIDTH, color="0.4", **DOTTED, label="$n(H - 1)d_k$")
    rank, _, found = np.array(numbers.rows).T
    ax.plot(rank, found, "o", color=COLOURS[0], **MEASURED, label="between ends of flows")
    ax.set(xlabel="rank of $W_O$", ylabel="open dimensions of the heads")
    ax.set_title(f"$n = {TOKENS}$ tokens, $H = {COUNT}$ heads of width {WIDTH}")
    ax.legend(fontsize="x-small")
    return figure
