"""Angles to the separator against 1/log t, and against steps."""

import numpy as np
from matplotlib.figure import Figure

from gflow.internal import angle

from ... import style
from ...style import ANY_COLOUR, COLOURS, EXACT, MARKERS, MEASURED, SIMULATED
from .measure import Course


def angles(found: list[Course]) -> Figure:
    figure, (left, right) = style.figure(1, 2)
    for n, one in enumerate(found):
        late = one.flow.t > 1e4
        x, y = 1.0 / np.log(one.flow.t[late]), one.flow.observables["angle"][late]
        left.plot(x, y, color=COLOURS[n], **SIMULATED)
        times = np.geomspace(1e4, one.flow.t[-1], 60)
        law = [angle(one.late.at(t), one.goal.weights) for t in times]
        left.plot(1.0 / np.log(times), law, **EXACT)
        at = np.searchsorted(-x, -0.1 + 0.015 * n)
        label = one.data.name.replace("-", " ")
        left.plot(x[at], y[at], MARKERS[n % 5], mec=COLOURS[n], **MEASURED, label=label, zorder=3)
        run = one.normalised
        step = run.t / (run.t[-1] / run.statistics["steps"])
        line = {"color": COLOURS[n], "marker": MARKERS[n % 5], "mfc": "white", "ms": 3.5, "lw": 1.0}
        right.loglog(step[1:], run.observables["angle"][1:], **line, markevery=0.25)
        run = one.descent
        step = run.t / (run.t[-1] / run.statistics["steps"])
        right.loglog(step[1:], run.observables["angle"][1:], color=COLOURS[n], ls=":", lw=1.2)
    style.entry(left, "flow", ANY_COLOUR)
    style.entry(left, r"law, $\hat W\log t + \tilde W$", EXACT)
    left.set(xlim=(0.0, None), ylim=(0.0, None), ylabel="angle to the separator [rad]")
    left.set_xlabel(r"$1/\log t$")
    left.set_title(r"flow: directions arrive as $1/\log t$")
    left.legend(fontsize="x-small")
    line = {"color": "0.4", "lw": 1.0, "marker": "o", "mfc": "white", "ms": 3.5}
    style.entry(right, "normalised descent", line)
    style.entry(right, "gradient descent", {"color": "0.4", "ls": ":", "lw": 1.2})
    right.axhline(np.arccos(0.999), color="0.6", lw=0.8, zorder=0)
    note = {"ha": "right", "va": "bottom", "fontsize": "x-small"}
    right.text(
        0.99, np.arccos(0.999), "cosine 0.999", transform=right.get_yaxis_transform(), **note
    )
    right.set(xlabel="step", ylabel="angle to the separator [rad]")
    right.set_title("descent, and normalised descent")
    right.legend(fontsize="x-small", loc="lower left")
    return figure
