"""Figures of predictions and comparisons. Each takes `ax=None` and returns the axes.

Measured curves are solid and coloured; predictions are black: dashed for the curve at
finite α, dotted for the limit α → 0, open circles for predicted values.
"""

import math
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from gflow import Trajectory
from gflow.plot import (
    COLOURS,
    alpha_label,
    loss as plot_loss,
    new_axes,
    ranks as plot_ranks,
    tau_label,
    weights,
)

from ._arguments import Numbers, times
from ._closed_form import Curve, Number, reading
from ._finite_alpha import FiniteAlpha
from ._stage import Stage, Start

__all__ = [
    "COLOURS",
    "FINITE",
    "LIMIT",
    "TIME_LABEL",
    "beside_curve",
    "beside_numbers",
    "collapse",
    "comparison",
    "convergence",
    "curves",
    "finite_grid",
    "ranks_with_times",
    "restarts",
    "spectrum_with_times",
    "staircase",
    "weights_with_times",
]


def __dir__() -> list[str]:
    return __all__


LIMIT = {"color": "0.35", "ls": (0, (1, 1.5)), "lw": 1.2}
FINITE = {"color": "black", "ls": (0, (4, 2)), "lw": 1.0}
#: Entries of one curve that are drawn.
_ENTRIES = 12
TIME_LABEL = "flow time $t$"


@runtime_checkable
class Predicted(Protocol):
    """What figures need of a `theory.Prediction`."""

    @property
    def start(self) -> Start: ...
    @property
    def stages(self) -> list[Stage]: ...
    @property
    def curves(self) -> tuple[Curve, ...]: ...
    @property
    def numbers(self) -> tuple[Number, ...]: ...
    @property
    def staged(self) -> bool: ...
    @property
    def order(self) -> int: ...
    def at(self, log_alpha: float) -> FiniteAlpha: ...


@runtime_checkable
class Measured(Protocol):
    """A number beside a run: a row of a `theory.Comparison`."""

    @property
    def part(self) -> str: ...
    @property
    def predicted(self) -> float: ...
    @property
    def measured(self) -> float: ...
    @property
    def error(self) -> float: ...


@runtime_checkable
class Restarted(Protocol):
    """What figures need of `theory.assumptions.perturb_and_restart`'s result."""

    @property
    def stage(self) -> int: ...
    @property
    def sizes(self) -> np.ndarray: ...
    @property
    def distance(self) -> np.ndarray: ...


@runtime_checkable
class Judged(Protocol):
    """What figures need of a `theory.Comparison`."""

    @property
    def trajectory(self) -> Trajectory: ...
    @property
    def prediction(self) -> Predicted: ...
    @property
    def closed_forms(self) -> Sequence[Measured]: ...


def staircase(prediction: Predicted, ax=None, end: float = math.nan, **style):
    """The limit staircase: loss of the saddle occupied at τ."""
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
    """Values of τ up to `end`, dense around the predicted transitions."""
    finite = prediction.at(log_alpha)
    times, local = finite.tau, np.sinh(np.linspace(-7, 7, 161)) / finite.scale
    # a drop that lasts less than τ has digits for is a vertical line
    sides = np.outer(times, [1.0 - 1e-12, 1.0, 1.0 + 1e-12]).ravel()
    grid = np.concatenate([np.linspace(0, end, 201), sides, *(t + local for t in times)])
    return np.unique(grid[(grid >= 0) & (grid <= end)])


def collapse(trajectories: Sequence[Trajectory], prediction: Predicted, ax=None):
    """Loss against τ for several α: the runs, their predicted curves, and the limit."""
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


def comparison(result: Judged, ax=None):
    """One run against its prediction: its staircase, or a panel for each of its curves."""
    if result.prediction.staged:
        return collapse([result.trajectory], result.prediction, ax)
    drawn, numbers = result.prediction.curves, result.prediction.numbers
    axes = _panels(len(drawn) + bool(numbers), ax)
    for panel, curve in zip(axes, drawn, strict=False):
        beside_curve(result.trajectory, curve, panel)
    if numbers:
        beside_numbers(result.closed_forms[len(drawn) :], axes[-1])
    return axes[0] if len(axes) == 1 or ax is not None else axes


def curves(prediction: Predicted, t: Numbers | None, ax=None):
    """The curves of a prediction at flow times `t`, a panel each unless `ax` is given."""
    if t is None or not prediction.curves:
        raise ValueError(
            "Curves are drawn at flow times: prediction.plot(t=np.linspace(0, 10, 200))."
            if prediction.curves
            else "This prediction has numbers only: print it, or plot its comparison with a run."
        )
    axes, grid = _panels(len(prediction.curves), ax), times(t)
    for panel, curve in zip(axes, prediction.curves, strict=False):
        _dashed(panel, curve, grid)
        panel.set(xlabel=TIME_LABEL, ylabel=curve.label)
    return axes[0] if len(axes) == 1 or ax is not None else axes


def beside_curve(trajectory: Trajectory, curve: Curve, ax=None):
    """A curve in its regime, dashed, over what the run says; of arrays the first entries."""
    ax, read = new_axes(ax), reading(trajectory, curve)
    values = np.asarray(read.value).reshape(len(trajectory.t), -1)[:, :_ENTRIES]
    for i, column in enumerate(values.T):
        label = "simulated" if i == 0 else None
        ax.plot(trajectory.t, column, color=COLOURS[i % 6], lw=2.2, alpha=0.55, label=label)
    inside = (trajectory.t >= curve.regime[0]) & (trajectory.t <= curve.regime[1])
    _dashed(ax, curve, trajectory.t[inside])
    ax.set(xlabel=TIME_LABEL, ylabel=curve.label)
    ax.legend(frameon=False, fontsize="x-small")
    return ax


def _dashed(ax, curve: Curve, t: np.ndarray) -> None:
    values = np.asarray(curve.value(t), float).reshape(len(t), -1)[:, :_ENTRIES]
    for i, column in enumerate(values.T):
        ax.plot(t, column, **FINITE, label="predicted" if i == 0 else None)


def beside_numbers(rows: Sequence[Measured], ax=None):
    """Measured over predicted of every number (measured itself where 0 is), with its bar."""
    ax = new_axes(ax)
    for i, row in enumerate(rows):
        unit = row.predicted or 1.0
        ax.errorbar(i, row.measured / unit, 2.0 * row.error / abs(unit), fmt="o",
                    color=COLOURS[i % 6], ms=4)  # fmt: skip
        ax.plot(i, row.predicted / unit, "o", mfc="none", mec="black", ms=8)
    ax.set_xticks(range(len(rows)), [row.part for row in rows], rotation=20, ha="right")
    ax.set(ylabel="measured / predicted", xlim=(-0.5, len(rows) - 0.5))
    return ax


def _panels(count: int, ax) -> list[Any]:
    """One pair of axes a panel, all the same if `ax` is given."""
    if ax is not None:
        return [ax] * count
    import matplotlib.pyplot as plt

    columns = min(count, 3)
    rows = -(-count // columns)
    size = (3.4 * columns, 2.4 * rows)
    _, grid = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for spare in grid.ravel()[count:]:
        spare.remove()
    return list(grid.ravel()[:count])


def weights_with_times(trajectory, prediction: Predicted, leaf: str, ax=None):
    """Simulated entries of a leaf with the predicted transitions and saddle values."""
    ax = weights(trajectory, leaf, ax)
    finite = prediction.at(trajectory.log_alpha)
    ends = [*finite.tau[1:], float(trajectory.tau[-1])]
    for tau, end, stage in zip(finite.tau, ends, prediction.stages, strict=True):
        if tau > trajectory.tau[-1]:
            break
        here = any(name == leaf for name, _ in stage.activated)
        ax.axvline(tau, color="black", lw=0.9 if here else 0.4, ls=(0, (4, 2)), zorder=0)
        values = np.ravel(stage.value[leaf])
        values = values[values != 0]
        middle = np.full(values.shape, 0.5 * (tau + min(end, trajectory.tau[-1])))
        ax.plot(middle, values, "o", mfc="none", mec="black", ms=4, mew=0.8)
    return ax


def spectrum_with_times(trajectory, prediction: Predicted, ax=None, logarithmic: bool = False):
    """Singular values of every factored leaf, simulated, and predicted times and values."""
    ax = new_axes(ax)
    grid = np.linspace(0.0, float(trajectory.tau[-1]), 1500)
    finite = prediction.at(trajectory.log_alpha)
    times = [t for t in finite.tau if t <= trajectory.tau[-1]]
    for t in times:
        ax.axvline(t, color="black", lw=0.5, ls=(0, (4, 2)), zorder=0)
    middles = 0.5 * (np.array(times) + np.append(times[1:], trajectory.tau[-1]))
    for i, leaf in enumerate(prediction.start.value):
        logs = trajectory.observables[f"{leaf}.log_singular"]
        logs = logs.reshape(len(logs), -1) / math.log(10.0)
        for j, column in enumerate(logs.T):
            style = {"color": COLOURS[i], "lw": 1.5, "ls": ["-", (0, (6, 1.5))][i % 2]}
            label = leaf if j == 0 else None
            ax.plot(trajectory.tau, column if logarithmic else 10.0**column, **style, label=label)
        if logarithmic:
            predicted = finite.log_singular(leaf, grid) / math.log(10.0)
            ax.plot(grid, predicted, **{**FINITE, "lw": 0.8}, label=None)
            continue
        for middle, stage in zip(middles, prediction.stages, strict=False):
            values = np.ravel(np.linalg.svd(stage.value[leaf], compute_uv=False))
            values = values[values > 1e-6 * np.max(values, initial=1e-300)]
            ax.plot(
                np.full(len(values), middle), values, "o", mfc="none", mec="black", ms=4, mew=0.8
            )
    ax.set(
        xlabel=tau_label(prediction.order),
        ylabel=r"$\log_{10}$ singular values" if logarithmic else "singular values",
    )
    ax.legend(frameon=False, fontsize="x-small")
    return ax


def ranks_with_times(trajectory, prediction: Predicted, ax=None):
    """Modes of each leaf above √α, all heads together: simulated count and predicted one."""
    ax = new_axes(ax)
    grid = np.linspace(0.0, float(trajectory.tau[-1]), 1500)
    ranks = prediction.at(trajectory.log_alpha).above_sqrt_alpha(grid)
    for i, leaf in enumerate(prediction.start.value):
        colour = COLOURS[i % len(COLOURS)]
        plot_ranks(trajectory, leaf, ax, color=colour, label=f"{leaf}, simulated")
        predicted = ranks[leaf].reshape(len(grid), -1).sum(axis=1)
        label = "predicted at that α" if i == 0 else None
        ax.step(grid, predicted, where="post", **FINITE, label=label)
    ax.legend(frameon=False, fontsize="x-small")
    return ax


def convergence(scales, measured, errors, prediction: Predicted, limits, ax=None):
    """τ_k − T_k against 1/Λ: runs, the line C_k/Λ, and the extrapolated limit at 0.

    `measured[i, k]`, `errors[i, k]`: stage k of the run with Λ = scales[i]; `limits[k]`.
    """
    ax = new_axes(ax)
    inverse = 1.0 / np.asarray(scales, float)
    line = np.linspace(0.0, 1.05 * inverse.max(), 2)
    markers = "osD^vP*X"
    for k, stage in enumerate(prediction.stages):
        colour = COLOURS[k % len(COLOURS)]
        ax.plot(line, stage.offset * line, color="black", lw=0.7, ls=(0, (4, 2)), zorder=1)
        ax.errorbar(
            inverse,
            np.asarray(measured)[:, k] - stage.tau,
            np.asarray(errors)[:, k],
            fmt=markers[k % len(markers)],
            color=colour,
            ms=4,
            label=f"{k + 1}: {stage.label}",
        )
        ax.plot(0.0, limits[k] - stage.tau, "o", mfc="none", mec=colour, ms=7, clip_on=False)
    ax.axhline(0.0, color="0.7", lw=0.8, zorder=0)
    ax.set(
        xlabel=r"$1/\Lambda = 1/\log(1/\alpha)$",
        ylabel=r"$\tau_k(\alpha) - T_k$",
    )
    ax.legend(frameon=False, fontsize="xx-small", title="stage", title_fontsize="xx-small")
    return ax


def restarts(results: Sequence[Restarted], ax=None):
    """Distance of the saddle reached after a perturbation, by size and stage."""
    ax = new_axes(ax)
    floor = 1e-16
    for i, result in enumerate(results):
        sizes = np.repeat(result.sizes, result.distance.shape[1])
        spread = 10.0 ** (0.04 * (i - 0.5 * (len(results) - 1)))
        distance = np.maximum(result.distance.ravel(), floor)
        ax.loglog(
            sizes * spread,
            distance,
            "osD^vP*X"[i % 8],
            color=COLOURS[i % len(COLOURS)],
            ms=3.5,
            label=f"stage {result.stage + 1}",
        )
    ax.axhline(1e-6, **LIMIT)
    ax.set(
        xlabel=r"size of the perturbation (s.d. of $\log|\theta|$)",
        ylabel="distance of the saddle reached",
        ylim=(floor / 3, 10),
    )
    ax.legend(frameon=False, fontsize="xx-small")
    return ax
