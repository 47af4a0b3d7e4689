"""A staircase and none; small starts; conditioning."""

import numpy as np
from matplotlib.figure import Figure

from theory import exact_linear, odelora

from ... import style
from ...style import COLOURS, EXACT, MARKERS, MEASURED, SIMULATED, TIME
from .measure import END, START, VALUES, Conditioning, Staircase, Starts


def ranks_figure(stairs: Staircase, starts: Starts, conditions: Conditioning) -> Figure:
    figure, axes = style.figure(2, 2)
    grid = np.linspace(0.0, END, 800)
    shapes = {
        "LoRA": (stairs.lora, exact_linear.mode_strength(START, VALUES, grid[:, None])),
        "ODELoRA": (stairs.odelora, odelora.aligned(VALUES, START, grid)),
    }
    left, right = axes[0]
    for dashes, (name, ((t, modes), exact)) in zip(("-", (0, (1, 1))), shapes.items(), strict=True):
        for k, value in enumerate(VALUES):
            label = f"$d = {value:g}$" if dashes == "-" else None
            left.plot(
                t, modes[:, k] / value, color=COLOURS[k], **SIMULATED | {"ls": dashes}, label=label
            )
            left.plot(grid, exact[:, k] / value, **EXACT)
        loss, predicted = (0.5 * np.sum((np.array(VALUES) - x) ** 2, -1) for x in (modes, exact))
        style.entry(left, name, {"color": "0.4", **SIMULATED, "ls": dashes})
        right.semilogy(t, loss, color="0.4", **SIMULATED | {"ls": dashes}, label=name)
        right.semilogy(grid, predicted, **EXACT)
    for ax in (left, right):
        style.entry(ax, "predicted", EXACT)
        ax.set(xlabel=TIME, xlim=(0.0, END))
        ax.legend(fontsize="x-small", loc="lower right" if ax is left else "upper right")
    left.set(ylabel=r"mode over target $s_i/d_i$", title="a staircase, and all ranks at once")
    right.set(ylabel="loss", ylim=(1e-6, 20.0), title="the loss of the two")
    ax = axes[1, 0]
    for seed, row in enumerate(starts.distances):
        ax.loglog(starts.sizes, row, MARKERS[seed % 5], color=COLOURS[seed], **MEASURED)
    first = starts.distances[:, :1] * (starts.sizes / starts.sizes[0]) ** starts.power
    ax.loglog(starts.sizes, np.median(first, axis=0), **EXACT)
    style.entry(ax, "measured, a colour a start", {"color": "0.4", **MEASURED}, "o")
    style.entry(ax, r"slope $1 - \sigma_{r+1}/\sigma_r$", EXACT)
    ax.set(xlabel="size $s_0$ of the start", ylabel=r"$\|W - (1 - e^{-t})M_r\|$")
    ax.set_title("rank 2 of 4, random starts, $t = 1/2$")
    ax.legend(fontsize="x-small", loc="upper left")
    ax = axes[1, 1]
    pairs = (("LoRA", conditions.lora, 0.05), ("ODELoRA", conditions.odelora, 1.0))
    for k, (name, (t, left), rate) in enumerate(pairs):
        ax.semilogy(t, left, color=COLOURS[k], **SIMULATED, label=name)
        ax.semilogy(t, left[-1] * np.exp(-rate * (t - t[-1])), **EXACT)
    style.entry(ax, r"$e^{-\sigma_r t}$ and $e^{-t}$", EXACT)
    ax.set(xlabel=TIME, ylabel=r"$\|W - M\|$")
    ax.set_title(r"target of rank 2, $\sigma = (3, 0.05)$")
    ax.legend(fontsize="x-small", loc="upper right")
    return figure
