"""Cosines of input weights, then loss, changes, ranks and norms by step."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from theory import condensation as co

from ... import style
from ...style import COLOURS
from .measure import ATTENTION, MATRICES, OUTER, Anchor
from .problem import PAPER_WIDTH, WIDTH

DASHED = (0, (6, 1.5))
DASHES = {"value": "-", "inner": DASHED, "outer": (0, (2, 1)), "query": "-", "key": DASHED}


def cosines(numbers: Anchor) -> Figure:
    """Cosines of the neurons' input weights, reordered: the paper's Fig. 1(a)."""
    run, onset = numbers.runs[0], numbers.onsets[0]
    moments = [0.0, float(np.mean(onset)), 4 * onset[0], run.steps[-1]]
    names = ["start", "onset", "plateau", "end"]
    picked = [int(np.argmin(np.abs(run.steps - m))) for m in moments]
    figure, axes = plt.subplots(5, 4, figsize=(3.4, 4.5), layout="constrained")
    for row, (matrix, symbol) in zip(axes, MATRICES.items(), strict=True):
        for ax, i in zip(row, picked, strict=True):
            # a column of W holds the input weights of one neuron
            shown = co.ordered_cosines(run.weights[matrix][i].T)
            ax.imshow(shown, vmin=-1, vmax=1, cmap="cividis", interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
        row[0].set_ylabel(symbol)
    for ax, name, i in zip(axes[0], names, picked, strict=True):
        ax.set_title(f"{name}\nstep {run.steps[i]:.0f}", fontsize=7)
    label = "cosine of the input weights of two neurons"
    bar = {"location": "bottom", "shrink": 0.7, "aspect": 30}
    figure.colorbar(axes[0, 0].images[0], ax=axes, label=label, **bar)
    return figure


def courses(numbers: Anchor) -> Figure:
    """Loss, relative change, effective rank and norms by step: Figs. 1(b), 1(c) and 2(c)."""
    runs = numbers.runs
    steps = runs[0].steps[1:]
    figure, axes = style.figure(2, 2)
    (losses, changes), (ranks, norms) = axes
    for run in runs:
        losses.semilogx(steps, run.loss[1:], color=COLOURS[0], lw=0.9, alpha=0.7)
    groups = {"$W_V, W_1, W_2$": (OUTER, "-"), "$W_Q, W_K$": (ATTENTION, DASHED)}
    for (label, (names, dash)), colour in zip(groups.items(), COLOURS, strict=False):
        table = np.array([np.mean([r.changes[n] for n in names], axis=0) for r in runs])
        low, high = table.min(axis=0), table.max(axis=0)
        changes.loglog(steps, table.mean(axis=0), color=colour, ls=dash, label=label)
        changes.fill_between(steps, low, high, color=colour, alpha=0.2, lw=0)
    for name, symbol in MATRICES.items():
        line = {"color": COLOURS[0 if name in OUTER else 1], "ls": DASHES[name], "lw": 1.2}
        rank = np.mean([r.ranks[name] for r in runs], axis=0)
        norm = np.mean([r.norms[name] for r in runs], axis=0)
        ranks.semilogx(steps, rank[1:], label=symbol, **line)
        norms.loglog(steps, norm[1:], label=symbol, **line)
    onsets = numbers.onsets.mean(axis=0)
    for ax in axes.flat:
        for onset, dash in zip(onsets, [(0, (1, 1.5)), (0, (4, 2))], strict=True):
            ax.axvline(onset, color="0.5", lw=0.8, ls=dash, zorder=0)
        ax.set_xlabel("step of AdamW")
    losses.set_ylabel("loss (nats)")
    note = "rank begins to fall:\ndotted: $W_V, W_1, W_2$\ndashed: $W_Q, W_K$"
    losses.text(0.03, 0.05, note, transform=losses.transAxes, fontsize="x-small")
    changes.set_ylabel(r"relative change $\|\Delta W\|/\|W\|$ a step")
    ranks.set(ylabel="effective rank", ylim=(0, 65))
    norms.set_yticks([1, 2, 5, 10], ["1", "2", "5", "10"], minor=False)
    norms.tick_params(axis="y", which="minor", labelleft=False)
    norms.set_ylabel(r"Frobenius norm $\|W\|$")
    for ax in (changes, ranks, norms):
        ax.legend(fontsize="x-small", ncols=2 if ax is ranks else 1)
    figure.suptitle(
        f"anchor function, one layer, d = {WIDTH} for the paper's {PAPER_WIDTH}; AdamW, hence "
        "without the wait 1/ε of gradient flow",
        fontsize=8,
    )
    return figure
