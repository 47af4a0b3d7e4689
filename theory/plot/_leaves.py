"""Weights, singular values and ranks of leaves, with what is predicted of them."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from gflow import Trajectory
from gflow.plot import COLOURS, LEAF_DASHES, new_axes, ranks as plot_ranks, tau_label, weights

from ._common import FINITE, PREDICTED, Predicted

#: Where a stage of the limit algorithm comes.
_STAGE: dict[str, Any] = {"color": "black", "ls": (0, (4, 2)), "zorder": 0}


def weights_with_times(
    trajectory: Trajectory,
    prediction: Predicted,
    leaf: str,
    ax=None,
    names: Mapping[int, str] | None = None,
):
    """Simulated entries of a leaf with the predicted transitions and saddle values.

    **Arguments:** `trajectory`, `prediction`: a run and what is predicted of it. `leaf`: a name.
    `names`: of its entries by number (flat), for a legend of those that move.
    """
    ax = weights(trajectory, leaf, ax, names=names)
    finite = prediction.at(trajectory.log_alpha)
    ends = [*finite.tau[1:], float(trajectory.tau[-1])]
    for tau, end, stage in zip(finite.tau, ends, prediction.stages, strict=True):
        if tau > trajectory.tau[-1]:
            break
        here = any(name == leaf for name, _ in stage.activated)
        ax.axvline(tau, lw=0.9 if here else 0.4, **_STAGE)
        values = np.ravel(stage.value[leaf])
        values = values[values != 0]
        middle = np.full(values.shape, 0.5 * (tau + min(end, trajectory.tau[-1])))
        ax.plot(middle, values, **PREDICTED, ms=4)
    return ax


def spectrum_with_times(
    trajectory: Trajectory,
    prediction: Predicted,
    ax=None,
    logarithmic: bool = False,
    labels: Mapping[str, str] | None = None,
):
    """Singular values of every factored leaf, simulated, and predicted times and values.

    **Arguments:** `logarithmic`: their logarithms, with those that are dormant, and √α, from which
    on one counts in a rank. `labels`: leaf ↦ name in the legend.
    """
    ax = new_axes(ax)
    grid = np.linspace(0.0, float(trajectory.tau[-1]), 1500)
    finite = prediction.at(trajectory.log_alpha)
    times = [t for t in finite.tau if t <= trajectory.tau[-1]]
    for t in times:
        ax.axvline(t, lw=0.5, **_STAGE)
    middles = 0.5 * (np.array(times) + np.append(times[1:], trajectory.tau[-1]))
    for i, leaf in enumerate(prediction.start.value):
        logs = trajectory.observables[f"{leaf}.log_singular"]
        logs = logs.reshape(len(logs), -1) / math.log(10.0)
        for j, column in enumerate(logs.T):
            label = _label(leaf, labels) if j == 0 else None
            values = column if logarithmic else 10.0**column
            ax.plot(trajectory.tau, values, **_line(i), label=label)
        if logarithmic:
            predicted = finite.log_singular(leaf, grid) / math.log(10.0)
            ax.plot(grid, predicted, **{**FINITE, "lw": 0.8}, label=None)
            continue
        for middle, stage in zip(middles, prediction.stages, strict=False):
            values = np.ravel(np.linalg.svdvals(stage.value[leaf]))
            values = values[values > 1e-6 * np.max(values, initial=1e-300)]
            ax.plot(np.full(len(values), middle), values, **PREDICTED, ms=4)
    if logarithmic:
        threshold = 0.5 * trajectory.log_alpha / math.log(10.0)
        ax.axhline(threshold, color="0.35", lw=1.0, ls=(0, (1, 1.5)))
        ax.text(
            0.99, threshold, r"$\sqrt{\alpha}$ ", ha="right", va="bottom", fontsize="small",
            transform=ax.get_yaxis_transform(),
        )  # fmt: skip
        ax.plot([], [], **{**FINITE, "lw": 0.8}, label="predicted")
    else:
        ax.plot([], [], **PREDICTED, ms=4, label="predicted")
    ax.set(
        xlabel=tau_label(prediction.order),
        ylabel=r"$\log_{10}$ singular values" if logarithmic else "singular values",
    )
    _legend(ax)
    return ax


def ranks_with_times(
    trajectory: Trajectory,
    prediction: Predicted,
    ax=None,
    labels: Mapping[str, str] | None = None,
):
    """Modes of each leaf above √α, all heads together: simulated count and predicted jumps.

    A mode passes √α on its way up, before the loss falls; thin vertical lines are where it falls.

    **Arguments:** `labels`: leaf ↦ name in the legend.
    """
    ax = new_axes(ax)
    end = float(trajectory.tau[-1])
    finite = prediction.at(trajectory.log_alpha)
    for k, t in enumerate(t for t in finite.tau if t <= end):
        ax.axvline(t, lw=0.5, **_STAGE, label="loss falls (predicted)" if k == 0 else None)
    grid = np.linspace(0.0, end, 1500)
    ranks = finite.above_sqrt_alpha(grid)
    for i, leaf in enumerate(prediction.start.value):
        plot_ranks(trajectory, leaf, ax, **_line(i), label=f"{_label(leaf, labels)}, simulated")
    for leaf in prediction.start.value:
        predicted = ranks[leaf].reshape(len(grid), -1).sum(axis=1)
        jumps = np.flatnonzero(np.diff(predicted))
        middle = 0.5 * (predicted[jumps] + predicted[jumps + 1])
        ax.plot(0.5 * (grid[jumps] + grid[jumps + 1]), middle, **PREDICTED, ms=4.5)
    ax.plot([], [], **PREDICTED, ms=4.5, label="jump, predicted")
    _legend(ax)
    return ax


def _line(i: int) -> dict[str, Any]:
    """Of leaf i: later ones are thinner and lie on top, so that equal curves stay apart."""
    return {
        "color": COLOURS[i % len(COLOURS)],
        "ls": LEAF_DASHES[i % len(LEAF_DASHES)],
        "lw": (2.6, 1.7, 1.5, 1.3)[min(i, 3)],
    }


def _label(leaf: str, labels: Mapping[str, str] | None) -> str:
    return leaf if labels is None else labels.get(leaf, leaf)


def _legend(ax) -> None:
    """On white, so that no line runs through it."""
    legend = ax.legend(frameon=True, framealpha=1.0, edgecolor="none", fontsize="x-small")
    legend.set_zorder(6)
