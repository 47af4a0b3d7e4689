"""Cosines to the max-margin solutions: along the flow, and by step."""

import numpy as np
from matplotlib.figure import Figure

from ... import style
from ...style import COLOURS, SIMULATED, TIME
from .measure import NORMALISED, RATE, Stage


def stages(found: list[Stage]) -> Figure:
    figure, (left, right) = style.figure(1, 2)
    titles = {"ov": r"$W_{OV}$ on pairs", "kq": r"$W_{KQ}$ on sentences"}
    for n, one in enumerate(found):
        colour = COLOURS[n]
        late = one.flow.t > 1.0
        left.loglog(
            one.flow.t[late], one.flow.observables["angle"][late], color=colour, **SIMULATED
        )
        at = np.searchsorted(one.flow.t, 10.0 ** np.arange(1.0 + 7.0 * n, 100.0, 15.0))
        left.loglog(
            one.flow.t[at],
            one.flow.observables["angle"][at],
            "os"[n],
            mec=colour,
            mfc="white",
            ms=4.5,
            label=f"flow, {titles[one.name]}",
        )
        left.loglog(
            one.descent.t[1:], one.descent.observables["angle"][1:], color="black", lw=0.9, ls=":"
        )
        for run, line in ((one.normalised, "-"), (one.rounded, (0, (3, 1.5)))):
            step = run.t / NORMALISED
            right.loglog(
                step[1:],
                run.observables["angle"][1:],
                color=colour,
                ls=line,
                lw=1.3,
                marker="os"[n],
                mfc="white",
                ms=3.5,
                markevery=(3, 60),
            )
        right.plot(
            [],
            [],
            color=colour,
            marker="os"[n],
            mfc="white",
            ms=3.5,
            lw=1.3,
            label=titles[one.name],
        )
    style.entry(left, f"gradient descent, rate {RATE:g}", {"color": "black", "ls": ":", "lw": 0.9})
    left.set(xlabel=f"{TIME}, or rate × steps", ylabel="angle to the max-margin solution [rad]")
    left.set_title(r"flow and descent: as $1/\log t$")
    left.legend(fontsize="x-small")
    style.entry(
        right,
        "softmax, log_softmax as usual",
        {"color": "0.4", "ls": (0, (3, 1.5)), "lw": 1.3},
    )
    right.set(xlabel="step", ylabel="angle to the max-margin solution [rad]")
    right.set_title("normalised descent")
    right.legend(fontsize="x-small", loc="lower left")
    return figure
