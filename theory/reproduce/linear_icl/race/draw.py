"""Figure: staircases of order three and four; how offsets come to their limits."""

import math

import numpy as np
from matplotlib.figure import Figure

from theory import plot

from ... import style
from ...style import COLOURS, EXACT, MARKERS, MEASURED, SIMULATED
from .measure import Raced

LABELS = {"heads": "heads v, k, q", "cubes": r"$u^3 - v^3$", "products": r"$abcd$"}


def races(found: dict[str, Raced]) -> Figure:
    """Losses of the smallest start of every family; offsets of heads by size."""
    figure, (left, right) = style.figure(1, 2)
    for colour, (name, one) in zip(COLOURS, found.items(), strict=False):
        size = min(one.runs)
        run, last = one.runs[size], one.prediction.stages[-1].tau
        extended = np.append(run.tau / last, 1.08), np.append(run.loss, run.loss[-1])
        first = run.loss[0]
        left.plot(extended[0], extended[1] / first, color=colour, **SIMULATED, label=LABELS[name])
        tau = plot.finite_grid(one.prediction, math.log(size), 1.08 * last)
        left.plot(tau / last, one.prediction.at(math.log(size)).loss(tau) / first, **EXACT)
    style.entry(left, "predicted", EXACT)
    left.set(xlabel=r"$\varepsilon^{D-2}t$, of the last drop", ylabel="loss, of the start")
    left.set_title(rf"from $\varepsilon = 10^{{{round(math.log10(size))}}}$")
    left.legend(fontsize="x-small")

    heads = found["heads"]
    limits = np.array([s.offset for s in heads.prediction.stages])
    sizes = np.array(sorted(s for s in heads.runs if s > 1e-9))
    rows = [heads.offsets(s) for s in sizes]
    for k in range(1, len(limits)):
        colour, marker = COLOURS[k], MARKERS[k - 1]
        measured = np.abs([row[0][k] - limits[k] for row in rows])
        predicted = np.abs([row[2][k] - limits[k] for row in rows])
        told = np.array([row[1][k] for row in rows]) < 0.1 * predicted
        right.loglog(sizes, predicted, **EXACT)
        right.loglog(sizes[told], measured[told], marker, **{**MEASURED, "mec": colour},
                     label=f"drop {k + 1}")  # fmt: skip
    style.entry(right, "predicted", EXACT)
    right.set(xlabel=r"size $\varepsilon$ of the start", ylabel=r"$|C(\varepsilon) - C|$ (time)")
    right.set_title("offsets of heads")
    right.legend(fontsize="x-small")
    return figure
