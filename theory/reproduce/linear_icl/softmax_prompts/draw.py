"""Figure: a softmax pair on prompts beside its first order and linear attention."""

import numpy as np
from matplotlib.figure import Figure

from ... import style
from ...style import COLOURS, DOTTED, EXACT, SIMULATED, TIME
from .measure import SMALL, Beside


def prompts(runs: dict[int, Beside]) -> Figure:
    """Losses for one length of prompts; how the first order is left, and where it ends, for all."""
    figure, (left, middle, right) = style.figure(1, 3, width=3.1)
    context = sorted(runs)[len(runs) // 2]
    one = runs[context]
    left.plot(one.softmax.t, one.softmax.loss, color=COLOURS[0], **SIMULATED, label="softmax pair")
    left.plot(one.first.t, one.first.loss, **EXACT, label="its first order, by itself")
    left.plot(one.linear.t, one.linear.loss, color="0.35", **DOTTED, label="linear attention")
    left.set(xlabel=TIME, ylabel="loss on the sample", ylim=(0, None), xlim=(0, one.softmax.t[-1]))
    left.set_title(f"prompts of {context} pairs")
    left.legend(fontsize="x-small")

    for colour, (n, found) in zip(COLOURS, sorted(runs.items()), strict=False):
        seen = found.apart > 1e-12
        line = {"color": colour, **SIMULATED, "label": f"{n} pairs"}
        middle.loglog(found.logits[seen], found.apart[seen], **line)
        right.semilogx(*found.ladder, **line)
    told = one.apart > 0.0
    ends = np.array([SMALL[0], 10.0 * SMALL[1]])
    level = float(np.interp(SMALL[1], one.logits[told], one.apart[told]))
    middle.loglog(ends, level * (ends / SMALL[1]) ** 2, **EXACT, label="square of the logits")
    logits = r"standard deviation of the logits $x^\top W x_q$"
    middle.set(xlabel=logits, xlim=(SMALL[0], 1.0), ylabel="off the first order, of the drop")
    middle.set_title("on the way")
    middle.legend(fontsize="x-small")
    right.axhline(1.0, **EXACT, label="first order")
    right.set(xlabel=logits, ylabel="loss of the best pair, of the first order's", ylim=(0.8, 2.0))
    right.set_title("where the linear theory ends")
    right.legend(fontsize="x-small")
    return figure
