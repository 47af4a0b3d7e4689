"""Escapes against their bounds, blow-up times over widths, condensation against time left."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ... import style
from ...style import COLOURS, EXACT, MARKERS, MEASURED
from .measure import Energy, Escapes, Rates, Widths
from .problem import WIDTH

LEFT = r"time left $\tau = T^* - \bar t$"


def escapes(numbers: Escapes) -> Figure:
    figure, axes = style.figure(2, 2)
    _energies(axes[0, 0], numbers.energies)
    _widths(axes[0, 1], numbers.widths)
    _distances(axes[1, 0], numbers.rates)
    _cosines(axes[1, 1], numbers.rates)
    return figure


def _energies(ax: Axes, energies: list[Energy]) -> None:
    for one, marker, colour in zip(energies, MARKERS, COLOURS, strict=False):
        ax.plot(one.course_t, one.course_energy ** (-1 / 3), color=colour, lw=1)
        ax.plot(one.t[::2], one.energy[::2] ** (-1 / 3), marker, color=colour, **MEASURED)
        ax.plot([0, one.bound], [one.bound, 0], **EXACT)
        ax.plot(one.blow_up, 0, "|", color=colour, ms=14, mew=1.6, clip_on=False)
    style.entry(ax, "simulated", {"color": "0.3", **MEASURED}, "o")
    style.entry(ax, "reduced to $2d$ numbers", {"color": "0.3", "lw": 1})
    style.entry(ax, r"bound, $E_0^{-1/3} - t$", EXACT)
    blow_up = {"color": "0.3", "ms": 9, "mew": 1.6}
    style.entry(ax, r"predicted blow-up $T^*$", blow_up, "|")
    ax.set(xlabel=r"rescaled time $\bar t = \varepsilon m t$", ylabel=r"$E^{-1/3}$", ylim=(0, None))
    ax.set_xlim(0, 1.15 * max(one.t[-1] for one in energies))
    ax.legend(fontsize="x-small")
    ax.set_title(f"escape of three starts, $d = {WIDTH}$")


def _widths(ax: Axes, widths: Widths) -> None:
    low, middle, high = widths.quartiles
    points = {"fmt": "o", "color": COLOURS[0], "mfc": "white", "ms": 4.5, "capsize": 2.5}
    label = f"median, quartiles of {widths.starts}"
    ax.errorbar(widths.sizes, middle, [middle - low, high - middle], label=label, **points)
    ax.axhline(middle[-1], **EXACT, label=f"{middle[-1]:.2f}")
    ax.set_xscale("log", base=2)
    ax.set(xlabel="width $d$", ylabel=r"$\bar T^*\sqrt{d}$", ylim=(0, 1.15 * np.max(high)))
    ax.legend(fontsize="x-small")
    ax.set_title("blow-up times of Gaussian starts")


def _distances(ax: Axes, rates: Rates) -> None:
    for i, (rate, size) in enumerate(zip(rates.rates, (4.5, 7.0, 3.5), strict=True)):
        points = {**MEASURED, "ms": size}
        ax.loglog(rates.tau, rate.found, MARKERS[i], color=COLOURS[i], **points, label=rate.label)
        ax.loglog(rates.tau, rate.factor * rates.tau**2, **EXACT)
    style.entry(ax, r"predicted, $\propto\tau^2$", EXACT)
    ax.set(xlabel=LEFT, ylabel="distance from rank one")
    ax.legend(fontsize="x-small")
    ax.set_title("condensation")


def _cosines(ax: Axes, rates: Rates) -> None:
    line = {"color": "0.6", "lw": 0.8}
    points = {"color": COLOURS[0], "mfc": "white", "ms": 3, "ls": ""}
    for k in range(WIDTH):
        ax.semilogx(rates.tau, rates.predicted[:, k], **line)
        ax.semilogx(rates.tau[::3], rates.simulated[::3, k], "o", **points)
    style.entry(ax, "predicted", line)
    style.entry(ax, "simulated", points, "o")
    ax.invert_xaxis()
    ax.set(xlabel=LEFT, ylabel="cosine with $v$")
    ax.legend(fontsize="x-small", loc="center right")
    ax.set_title("columns of $W_V$ turn to $\\pm v$")
