"""The mode in every head along the flow; what shares leave out over α."""

import numpy as np
from matplotlib.figure import Figure

from ... import style
from ...style import COLOURS, EXACT, MARKERS, MEASURED, SIMULATED, TIME
from ..problem import SIGMA
from .measure import Split


def split_figure(numbers: Split) -> Figure:
    figure, (left, right) = style.figure(1, 2)
    t, modes, shares = numbers.course
    for k, share in enumerate(shares):
        left.plot(t, modes[:, k], color=COLOURS[k], **SIMULATED, label=f"head {k + 1}")
        left.axhline(SIGMA * share, **EXACT)
    style.entry(left, r"share of the start $\times\,\sigma$", EXACT)
    left.set(xlabel=TIME, ylabel="mode $u^T W_h v$", xlim=(t[-1] - 20.0, t[-1]))
    left.set_title(rf"$\alpha = 10^{{-{numbers.exponents[-1]:g}}}$")
    left.legend(fontsize="x-small")
    alphas = 10.0**-numbers.exponents
    seen = numbers.exponents <= 10.0
    for k, (found, beside) in enumerate(zip(numbers.off, numbers.beside, strict=True)):
        right.loglog(alphas[seen], found[seen], MARKERS[k], color=COLOURS[0], **MEASURED)
        right.loglog(alphas[seen], beside[seen], MARKERS[k], color=COLOURS[1], **MEASURED)
    grid = np.geomspace(alphas[seen].min(), alphas.max(), 60)
    near = int(np.argmin(np.abs(numbers.exponents - 2.0)))
    unit = alphas[near] ** 2 * -np.log(alphas[near])
    right.loglog(grid, np.median(numbers.off[:, near]) * grid**2 * -np.log(grid) / unit, **EXACT)
    right.loglog(grid, np.median(numbers.beside[:, near]) * grid / alphas[near], **EXACT)
    style.entry(right, "share, off by", {"color": COLOURS[0], **MEASURED}, "o")
    style.entry(right, "$W_h$ beside the mode", {"color": COLOURS[1], **MEASURED}, "o")
    style.entry(right, r"$\alpha^2\ln(1/\alpha)$ and $\alpha$", EXACT)
    right.set(xlabel=r"size $\alpha$ of the start", ylabel="what the limit leaves out")
    right.set_ylim(1e-17, 10.0)
    right.set_title("at rest, a marker a start")
    right.legend(fontsize="x-small", loc="lower right")
    return figure
