"""Curves and numbers beside a run."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gflow import Trajectory
from gflow.plot import COLOURS, ONE_COLUMN, new_axes

from .._arguments import Numbers, times
from .._closed_form import Curve, reading
from ._common import FINITE, TIME_LABEL, Judged, Measured, Predicted
from ._stages import collapse

#: Entries of one curve that are drawn.
_ENTRIES = 12


def comparison(result: Judged, ax=None):
    """One run against its prediction: its staircase, or a panel for each of its curves.

    **Arguments:** `result`: a `theory.Comparison`. With `ax` all curves share these axes.
    """
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
    """A curve in its regime, dashed, over what the run says; of arrays the first entries.

    **Arguments:** `trajectory`: the run. `curve`: a `theory.Curve`, read as in a comparison.
    """
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
    """Measured over predicted of every number (measured itself where 0 is), with two bars.

    **Arguments:** `rows`: those of the numbers, of `comparison.closed_forms`.
    """
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
    size = (ONE_COLUMN * columns, 2.4 * rows)
    _, grid = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for spare in grid.ravel()[count:]:
        spare.remove()
    return list(grid.ravel()[:count])
