"""Figure: separate heads of rank one through all of their drops, at any size of the start."""

import math

import numpy as np
from matplotlib.figure import Figure

from ... import style
from ...style import ANY_COLOUR, COLOURS, MARKERS, MEASURED, SIMULATED
from .measure import Separate


def through(separate: Separate) -> Figure:
    """Heads that blow up from the smallest start; and how far drops are off, at every size."""
    figure, (left, right) = style.figure(1, 2)
    size = min(separate.runs)
    run, times = separate.runs[size], separate.times[size]
    inverse = np.exp(math.log(size) - np.asarray(run.leaves["value"]["log_size"]))
    gone = inverse < 1e-3
    order = np.argsort(np.where(gone.any(axis=0), np.argmax(gone, axis=0), len(gone)))
    for number, head in enumerate(order):
        colour = COLOURS[number] if number < len(times) else "0.5"
        label = f"drop {number + 1}" if number < len(times) else "dormant"
        left.plot(size * run.t, inverse[:, head], color=colour, **SIMULATED, label=label)
    left.plot(size * times, np.zeros(len(times)), "x", color="black", ms=6, label="predicted",
              zorder=5, clip_on=False)  # fmt: skip
    left.set(xlim=(0, 1.1 * size * times[-1]), ylim=(0, None), xlabel=r"$\varepsilon\,t$")
    left.set_ylabel(r"$\varepsilon$ over the norm of a head")
    left.set_title(rf"five heads from $\varepsilon = 10^{{{round(math.log10(size))}}}$")
    left.legend(fontsize="x-small")

    decades = [-math.log10(x) for x in separate.misses]
    for m in range(len(times)):
        off = [np.nanmax(np.abs(x[:, m])) for x in separate.misses.values()]
        known = [np.nanmax(x[:, m]) for x in separate.bars.values()]
        right.semilogy(decades, off, MARKERS[m], mec=COLOURS[m], **MEASURED, label=f"drop {m + 1}")
        right.semilogy(decades, known, color=COLOURS[m], **{**SIMULATED, "lw": 1.2})
    style.entry(right, "solver's error bar", {**ANY_COLOUR, "lw": 1.2})
    right.set(xlabel=r"$\log_{10}(1/\varepsilon)$", ylabel=r"$|t/t_{\mathrm{predicted}} - 1|$")
    right.set_title("half-drops, the worst of all seeds")
    right.legend(fontsize="x-small")
    return figure
