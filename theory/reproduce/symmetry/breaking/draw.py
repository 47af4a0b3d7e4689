"""The distance between heads, the time to a level, and rates under decay."""

import numpy as np
from matplotlib.figure import Figure

from ... import style
from ...style import COLOURS, EXACT, MARKERS, MEASURED, SIMULATED, TIME
from .measure import LEVEL, Decayed, Escapes


def breaking_figure(escapes: Escapes, decayed: Decayed) -> Figure:
    figure, axes = style.figure(2, 2)
    left, right = axes[0]
    for k, (t, distance) in enumerate(escapes.courses):
        left.semilogy(t, distance, color=COLOURS[k % len(COLOURS)], **SIMULATED)
        grown = escapes.starts[k] * np.exp(escapes.rate * t)
        left.semilogy(t[grown < 1.0], grown[grown < 1.0], **EXACT)
    style.entry(left, "simulated, a colour a start", style.ANY_COLOUR)
    style.entry(left, r"$\delta\,e^{\mu t}$", EXACT)
    left.axhline(LEVEL, color="0.7", lw=0.8)
    left.set(xlabel=TIME, ylabel=r"distance $\Delta$ from equal heads")
    left.set_title("a permutation symmetry breaks")
    left.legend(fontsize="x-small", loc="lower right")
    right.semilogx(escapes.starts, escapes.times, "o", color=COLOURS[0], **MEASURED)
    right.semilogx(escapes.starts, escapes.predicted, **EXACT)
    style.entry(right, "simulated", {"color": COLOURS[0], **MEASURED}, "o")
    style.entry(right, r"$\ln(\mathrm{level}/\delta)/\mu$ and next order", EXACT)
    right.set(xlabel=r"first displacement $\delta$", ylabel=f"flow time to {LEVEL:g}")
    right.set_title("when it shows")
    right.legend(fontsize="x-small")
    left, right = axes[1]
    levels, measured, expected = np.array(escapes.beyond).T
    left.loglog(levels, measured, "o", color=COLOURS[0], **MEASURED, label="simulated")
    left.loglog(levels, expected, **EXACT, label=r"$-c\,\mathrm{level}^2/2\mu^2$")
    left.set(xlabel="level", ylabel=r"time beyond $\ln(\mathrm{level}/\delta)/\mu$")
    left.set_title("the next order")
    left.legend(fontsize="x-small")
    for k, (name, (decay, rate, found)) in enumerate(
        (("heads at rest", decayed.resting.T), ("factors at zero", decayed.zero.T))
    ):
        right.plot(decay, found, MARKERS[k], color=COLOURS[k], **MEASURED, label=name)
        right.plot(decay, rate, **EXACT)
    right.axhline(0.0, color="0.7", lw=0.8)
    style.entry(right, "predicted", EXACT)
    right.set_xscale("symlog", linthresh=1e-2)
    right.set_yscale("symlog", linthresh=1e-2)
    right.set(xlabel=r"decay $\lambda$", ylabel=r"rate off the symmetry")
    right.set_title("decay restores the symmetry")
    right.legend(fontsize="x-small")
    return figure
