"""1 − γ against time, far below the rounding of X."""

import numpy as np
from matplotlib.figure import Figure

from theory import depth_collapse

from ... import style
from ...style import COLOURS, EXACT, MARKERS, MEASURED, TIME
from .measure import TOKENS, Course


def overlaps_figure(courses: list[Course]) -> Figure:
    figure, (ax,) = style.figure(1, 1)
    for k, one in enumerate(courses):
        name = "softmax" if one.kind == "softmax" else "unnormalised"
        ax.plot(one.t, one.log_apart / np.log(10.0), MARKERS[k], color=COLOURS[k], **MEASURED,
                markevery=3, label=rf"{name}, $\beta = {one.beta:g}$")  # fmt: skip
        gamma = depth_collapse.equal_overlap(TOKENS, one.beta, one.t, one.kind)
        near = gamma < 1.0 - 1e-12
        ax.plot(one.t[near], np.log10(1.0 - gamma[near]), **EXACT)
        rate = float(depth_collapse.final_rate(one.beta, one.kind))
        last = np.array([one.t[near][-1], one.t[-1]])
        level = one.log_apart[-1] - rate * (last - last[-1])
        ax.plot(last, level / np.log(10.0), **EXACT)
    style.entry(ax, "predicted", EXACT)
    ax.set(xlabel=TIME, ylabel=r"$\log_{10}(1 - \gamma)$", title=f"{TOKENS} tokens on the sphere")
    ax.legend(fontsize="x-small", loc="upper right")
    return figure
