"""Rank, balance, gap, accuracy and loss against λ, means over seeds with 95 % intervals."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ... import style
from ...style import COLOURS, EXACT
from .heads import PRODUCTS, THRESHOLD
from .measure import Recall, Text

COUNT = rf"$\#\{{s_i > {THRESHOLD:g}\}}$"


def recall(numbers: Recall) -> Figure:
    decays, members, table, time = numbers
    figure, axes = style.figure(3, 2)
    labels = {
        "rank": f"rank, {COUNT}",
        "imbalance": r"$\|A^TA - B^TB\|$ / start",
        "gap": "gap to the nuclear norm / start",
    }
    for column, (name, inside) in enumerate(members.items()):
        x = decays[name]
        for ax, quantity in zip(axes[:, column], labels, strict=True):
            for product, colour, marker in zip(PRODUCTS, COLOURS, "os", strict=False):
                means = table[f"{product} {quantity}"][:, inside]
                _curve(ax, x, means, colour, marker, PRODUCTS[product])
            _decay_axis(ax, labels[quantity], x)
        if name == "AdamW":
            grid = np.linspace(0.0, x[-1], 200)
            label = r"$e^{-2\lambda t}$ of gradient flow"
            axes[1, 0].plot(grid, np.exp(-2.0 * grid * time), **EXACT, label=label)
        for at, value in zip(x, table["accuracy"][0][inside], strict=True):
            axes[0, column].text(at, 19.4, f"{100 * value:.0f} %", ha="center", fontsize="xx-small")
        axes[0, column].set(ylim=(0, 20.5), yticks=range(0, 17, 4))
        axes[0, column].set_title(f"{name}; accuracy above")
        for ax in axes[1:, column]:
            ax.set(yscale="log", ylim=(1e-4, 3))
        for ax in axes[:, column]:
            ax.legend(fontsize="x-small", loc="lower left")
    return figure


def text(numbers: Text) -> Figure:
    decays, members, table = numbers
    figure, axes = style.figure(2, 2)
    shown = {
        "kq rank": f"rank of {PRODUCTS['kq']}, {COUNT}",
        "vo rank": f"rank of {PRODUCTS['vo']}, {COUNT}",
        "loss": "held-out loss (nats a character)",
        "vo gap": f"gap of {PRODUCTS['vo']} / gap at the start",
    }
    for ax, (quantity, label) in zip(axes.flat, shown.items(), strict=True):
        for (name, inside), colour, marker in zip(members.items(), COLOURS, "os", strict=False):
            means = table[quantity][:, inside]
            _curve(ax, decays, means, colour, marker, rf"$\lambda$ on {name}")
        _decay_axis(ax, label, decays)
        ax.legend(fontsize="x-small")
    for ax in axes.flat[:2]:
        ax.set(ylim=(0, 17), yticks=range(0, 17, 4))
    axes.flat[3].set(yscale="log", ylim=(3e-3, 2))
    figure.suptitle("characters of the Python reference, AdamW, two layers", fontsize=8)
    return figure


def _curve(
    ax: Axes, decays: np.ndarray, table: np.ndarray, colour: str, marker: str, label: str
) -> None:
    """Means and intervals of `collected` against λ."""
    mean, low, high = table
    line = {"color": colour, "marker": marker, "ms": 4.5, "mfc": "white", "lw": 1.4, "capsize": 2}
    ax.errorbar(decays, mean, [mean - low, high - mean], label=label, **line)


def _decay_axis(ax: Axes, ylabel: str, decays: np.ndarray) -> None:
    """λ with a place for 0, marked where it was run."""
    ax.set_xscale("symlog", linthresh=decays[1], linscale=0.5)
    powers = [rf"$10^{{{math.log10(x):.0f}}}$" if 0 < x < 1e-3 else f"{x:g}" for x in decays]
    ax.set_xticks(decays, powers)
    ax.minorticks_off()
    ax.set(xlabel=r"weight decay $\lambda$", ylabel=ylabel)
