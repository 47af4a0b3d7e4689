"""Figures of a run. Each takes `ax=None` and returns the axes."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ._time_unit import tau_label as tau_label
from .results._observables import above_sqrt_alpha
from .results._record import Record

__all__ = [
    "COLOURS",
    "LEAF_DASHES",
    "ONE_COLUMN",
    "STYLE",
    "TWO_COLUMNS",
    "alpha_label",
    "loss",
    "new_axes",
    "rank_curve",
    "ranks",
    "tau_label",
    "time_axis",
    "weights",
]


def __dir__() -> list[str]:
    return __all__


#: Okabe–Ito: distinguishable without colour vision, ordered by contrast to white.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]

#: Leaves differ in dashes as well as in colour.
LEAF_DASHES: list[Any] = ["-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5))]
#: Inches, of a figure for one column of a page of two, and for the width of the page.
ONE_COLUMN, TWO_COLUMNS = 3.4, 7.0

#: For `matplotlib.rc_context`: legible at one column's width.
STYLE: Any = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


def new_axes(ax=None, width: float = ONE_COLUMN, height: float = 2.4) -> Any:
    """`ax`, or the axes of a figure of `width` × `height` inches, by default of one column."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    _, ax = plt.subplots(figsize=(width, height), layout="constrained")
    return ax


def time_axis(trajectory: Record) -> tuple[np.ndarray, str]:
    """Times and axis label: τ where α is known, flow time otherwise."""
    if trajectory.log_alpha < 0:
        return trajectory.tau, tau_label(trajectory.order)
    return trajectory.t, "flow time $t$"


def alpha_label(log_alpha: float) -> str:
    """α as a power of ten."""
    return rf"$\alpha = 10^{{{log_alpha / np.log(10):.4g}}}$"


def loss(trajectory: Record, ax=None, **style):
    """Loss against time. **Arguments:** `style`: of Matplotlib's line."""
    ax = new_axes(ax)
    x, label = time_axis(trajectory)
    ax.plot(x, trajectory.loss, **{"color": COLOURS[0], "lw": 1.5, **style})
    ax.set(xlabel=label, ylabel="loss")
    return ax


def weights(
    trajectory: Record,
    leaf: str,
    ax=None,
    threshold: float = 1e-3,
    names: Mapping[int, str] | None = None,
    **style,
):
    """Effective weights of one leaf against time; the ones that never move in grey.

    **Arguments:** `leaf`: its name. `threshold`: share of the largest weight below which one never
    moves. `names`: of entries by their number (flat), in the legend that is drawn then. `style`: of
    Matplotlib's lines.
    """
    ax, trajectory = new_axes(ax), trajectory.whole
    x, label = time_axis(trajectory)
    values = trajectory.observables[leaf].reshape(len(x), -1)
    shape = trajectory.observables[leaf].shape[1:]
    moving = np.max(np.abs(values), axis=0) > threshold * np.max(np.abs(values))
    order = 0
    for flat in range(values.shape[1]):
        if not moving[flat]:
            ax.plot(x, values[:, flat], color="0.8", lw=0.8, zorder=1)
            continue
        index = ", ".join(str(int(i)) for i in np.unravel_index(flat, shape))
        dashes = LEAF_DASHES[(order // len(COLOURS)) % 3]
        ax.plot(
            x,
            values[:, flat],
            **{
                "color": COLOURS[order % len(COLOURS)],
                "ls": dashes,
                "lw": 1.4,
                "label": f"[{index}]" if names is None else names.get(flat, f"[{index}]"),
                **style,
            },
        )
        order += 1
    ax.set(xlabel=label, ylabel=f"entries of {leaf}")
    if names is not None:
        ax.legend(frameon=False, fontsize="xx-small", ncols=2)
    return ax


def rank_curve(trajectory: Record, leaf: str) -> tuple[np.ndarray, np.ndarray]:
    """Time and number of modes above √α, all heads together, between recorded steps as well.

    On a plateau steps are long while log|s| and log|d| are straight lines, so these are
    interpolated.
    """
    trajectory = trajectory.whole
    x, _ = time_axis(trajectory)
    grid = np.union1d(x, np.linspace(x[0], x[-1], 2000))
    record = trajectory.leaves[leaf]

    def between(values):
        columns = values.reshape(len(x), -1).T
        return np.stack([np.interp(grid, x, column) for column in columns], axis=-1)

    logs = record.chart.interpolated(record, between)
    return grid, above_sqrt_alpha(logs, trajectory.log_alpha)


def ranks(trajectory: Record, leaf: str, ax=None, **style):
    """Number of weights |θ| > √α of a leaf, or of singular values s > √α, against time.

    A weight passes √α half-way up from the size α² it starts at, before its stage: at three
    quarters of the time where it starts at rest.

    **Arguments:** `leaf`: its name. `style`: of Matplotlib's line.
    """
    ax = new_axes(ax)
    _, label = time_axis(trajectory)
    x, counts = rank_curve(trajectory, leaf)
    ax.step(x, counts, where="post", **{"color": COLOURS[0], "lw": 1.5, **style})
    counted = (
        r"singular values $s_i > \sqrt{\alpha}$"
        if trajectory.leaves[leaf].spectral
        else r"entries $|\theta_i| > \sqrt{\alpha}$"
    )
    ax.set(xlabel=label, ylabel=f"number of {counted}")
    ax.yaxis.get_major_locator().set_params(integer=True)
    return ax
