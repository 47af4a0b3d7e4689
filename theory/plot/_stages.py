"""Losses: the staircase of the limit, and runs at several α on it."""

import math
from collections.abc import Sequence

import numpy as np

from gflow import Trajectory
from gflow.plot import COLOURS, alpha_label, loss as plot_loss, new_axes, tau_label

from ._common import FINITE, LIMIT, Predicted


def staircase(prediction: Predicted, ax=None, end: float = math.nan, **style):
    """The limit staircase: loss of the saddle occupied at τ.

    **Arguments:** `end`: of the axis of τ, by default a little after the last stage. `style`: of
    Matplotlib's line.
    """
    ax = new_axes(ax)
    taus = np.array([s.tau for s in prediction.stages])
    levels = [prediction.start.loss, *(s.loss for s in prediction.stages)]
    if math.isnan(end):
        end = 1.15 * taus[-1] if len(taus) else 1.0
    edges = np.concatenate([[prediction.start.tau], taus[taus < end], [end]])
    ax.step(
        edges,
        [*levels[: len(edges) - 1], levels[len(edges) - 2]],
        where="post",
        **{**LIMIT, "label": r"limit $\alpha \to 0$", **style},
    )
    ax.set(xlabel=tau_label(prediction.order), ylabel="loss")
    return ax


def finite_grid(prediction: Predicted, log_alpha: float, end: float) -> np.ndarray:
    """Values of τ up to `end`, dense around the transitions predicted at `log_alpha`."""
    finite = prediction.at(log_alpha)
    times, local = finite.tau, np.sinh(np.linspace(-7, 7, 161)) / finite.scale
    # a drop that lasts less than τ has digits for is a vertical line
    sides = np.outer(times, [1.0 - 1e-12, 1.0, 1.0 + 1e-12]).ravel()
    grid = np.concatenate([np.linspace(0, end, 201), sides, *(t + local for t in times)])
    return np.unique(grid[(grid >= 0) & (grid <= end)])


def collapse(trajectories: Sequence[Trajectory], prediction: Predicted, ax=None):
    """Loss against τ for several α: the runs, their predicted curves, and the limit.

    **Arguments:** `trajectories`: of one problem; `prediction`: of it. Curves are drawn at an α
    at which every predicted plateau exists.
    """
    ax = new_axes(ax)
    end = max(float(run.tau[-1]) for run in trajectories)
    for i, run in enumerate(trajectories):
        plot_loss(run, ax, color=COLOURS[i % len(COLOURS)], label=alpha_label(run.log_alpha))
    for i, run in enumerate(trajectories):
        if np.all(prediction.at(run.log_alpha).exists):
            tau = finite_grid(prediction, run.log_alpha, end)
            label = "predicted at that α" if i == len(trajectories) - 1 else None
            ax.plot(tau, prediction.at(run.log_alpha).loss(tau), **FINITE, label=label)
    staircase(prediction, ax, end)
    ax.legend(frameon=False, fontsize="x-small")
    return ax
