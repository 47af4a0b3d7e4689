"""What first order leaves out; coordination of left and right beside the null model."""

import numpy as np
from matplotlib.figure import Figure

from ... import style
from ...style import COLOURS, EXACT, MARKERS, MEASURED
from .measure import WHAT, Coordinations, Orders


def turning_figure(orders: Orders, numbers: Coordinations) -> Figure:
    figure, (left, right) = style.figure(1, 2)
    names = {"values": "singular values", "left": "left vectors", "right": "right vectors"}
    for k, what in enumerate(WHAT):
        column = orders.left_out[:, k]
        left.loglog(
            orders.changes, column, MARKERS[k], color=COLOURS[k], **MEASURED, label=names[what]
        )
        left.loglog(
            orders.changes, column[-1] * (orders.changes / orders.changes[-1]) ** 2, **EXACT
        )
    style.entry(left, "second order", EXACT)
    left.set(xlabel="change of the target", ylabel="what first order leaves out")
    left.set_title("first order in the change, $t = 1/2$")
    left.legend(fontsize="x-small")
    places = np.arange(len(numbers.null), dtype=float)
    right.boxplot(
        list(numbers.null.values()), positions=places, widths=0.5, whis=(2.5, 97.5), sym="",
        medianprops={"color": "0.4"}, boxprops={"color": "0.6"}, whiskerprops={"color": "0.6"},
        capprops={"color": "0.6"},
    )  # fmt: skip
    for place, rows in zip(places, numbers.found.values(), strict=True):
        for k, kind in enumerate(("random", "rank one")):
            own = [(expected, measured) for name, expected, measured in rows if name == kind]
            at = place + 0.12 * (2 * k - 1) * np.ones(len(own))
            right.plot(at, [m for _, m in own], MARKERS[k], color=COLOURS[k], **MEASURED)
            right.plot(at, [e for e, _ in own], "_", color="black", ms=9)
    for k, kind in enumerate(("random change", "change of rank one")):
        style.entry(right, kind, {"color": COLOURS[k], **MEASURED}, MARKERS[k])
    style.entry(right, "predicted", {"color": "black", "ls": "", "ms": 9}, "_")
    style.entry(right, "null model, 95 %", {"color": "0.6"})
    right.set_xticks(places, [str(size) for size in numbers.null])
    right.set(xlabel="size of the matrix", ylabel="cosine of left and right rotations")
    right.set_title("left and right turn together")
    right.legend(fontsize="x-small", loc="lower right")
    return figure
