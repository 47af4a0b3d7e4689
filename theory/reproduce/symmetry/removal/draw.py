"""The product at rest over decay; how far it is from first order."""

import numpy as np
from matplotlib.figure import Figure

from theory import symmetry

from ... import style
from ...style import COLOURS, DOTTED, EXACT, MEASURED
from .measure import DECAY, POINT, TARGET, Removal, first_order


def removal_figure(numbers: Removal) -> Figure:
    figure, (left, right) = style.figure(1, 2)
    grid = np.linspace(0.15, 1.05, 721)
    for k, (name, found, point) in enumerate(
        (("towards zero", numbers.plain, (0.0, 0.0)), ("towards a point", numbers.pulled, POINT))
    ):
        left.plot(
            numbers.decays, found, "os"[k], color=COLOURS[k], **MEASURED, label=f"decay {name}"
        )
        left.plot(grid, symmetry.softened_product(TARGET, grid, *point), **EXACT)
    beyond = grid[grid > TARGET + 0.04]
    left.plot(
        beyond, [first_order(TARGET, x, *POINT) for x in beyond], color="0.4", **DOTTED,
        label="first order",
    )  # fmt: skip
    style.entry(left, "predicted", EXACT)
    left.set(xlabel=r"decay $\lambda$", ylabel="product $ab$ at rest", ylim=(-0.01, 0.34))
    left.set_title(f"a collapse at $\\lambda > m = {TARGET:g}$, softened")
    left.legend(fontsize="x-small")
    scales = np.geomspace(numbers.scales.min(), numbers.scales.max(), 60)
    exact = [
        1.0
        - float(symmetry.softened_product(TARGET, DECAY, *(s * x for x in POINT)))
        / first_order(TARGET, DECAY, *(s * x for x in POINT))
        for s in scales
    ]
    right.loglog(numbers.scales, 1.0 - numbers.ratios, "o", color=COLOURS[0], **MEASURED)
    right.loglog(scales, exact, **EXACT)
    style.entry(right, "simulated", {"color": COLOURS[0], **MEASURED}, "o")
    style.entry(right, "predicted", EXACT)
    right.set(xlabel=r"size of the point over $(0.05, 0.02)$", ylabel="1 − ab over first order")
    right.set_title(f"beyond first order, $\\lambda = {DECAY:g}$")
    right.legend(fontsize="x-small")
    return figure
