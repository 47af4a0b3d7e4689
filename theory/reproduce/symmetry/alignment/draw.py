"""Alignment along the flow; eigenvalues at rest beside the reciprocal power law."""

import numpy as np
from matplotlib.figure import Figure

from theory import symmetry

from ... import style
from ...style import COLOURS, EXACT, MARKERS, MEASURED, SIMULATED, TIME
from .measure import DECAY, END, START, TARGETS, Courses, PowerLaws


def alignment_figure(courses: Courses, laws: PowerLaws) -> Figure:
    figure, (left, right) = style.figure(1, 2)
    grid = np.linspace(0.0, END, 600)
    left.plot(*courses.aligned, color=COLOURS[0], **SIMULATED, label="aligned start")
    for k, course in enumerate(courses.random):
        label = "random starts" if k == 0 else None
        left.plot(*course, color=COLOURS[1], **SIMULATED | {"lw": 1.2, "ls": ":"}, label=label)
    exact = symmetry.alignment(1.0, TARGETS, DECAY, 0.0, grid, START)
    left.plot(grid, exact, **EXACT, label="predicted")
    left.set(xlabel=TIME, ylabel="cosine of $H$ and $G$", xlim=(0.0, END), ylim=(0.3, 1.03))
    left.set_title("alignment lost and regained, white inputs")
    left.legend(fontsize="x-small", loc="lower right")
    sizes = np.geomspace(0.35, 3.0, 50)
    for k, (name, (z, h, g)) in enumerate(laws.found.items()):
        right.loglog(z, g, MARKERS[k], color=COLOURS[k], **MEASURED, label=f"$G$, {name} inputs")
        right.loglog(
            z, h * g, MARKERS[k + 2], color=COLOURS[k], **MEASURED, label=f"$HG$, {name} inputs"
        )
    right.loglog(sizes, DECAY**2 * sizes, **EXACT | {"ls": (0, (1, 1.5))}, label=r"$\lambda^2 Z$")
    right.loglog(sizes, DECAY**2 * sizes**2, **EXACT, label=r"$\lambda^2 Z^2$")
    right.set(xlabel="eigenvalue of $Z$", ylabel="eigenvalues at rest")
    right.set_title("a reciprocal power law, without noise")
    right.legend(fontsize="x-small")
    return figure
