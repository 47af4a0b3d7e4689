"""How far measurements are from predictions, in error bars."""

import math

import numpy as np

from gflow import Trajectory
from gflow.plot import COLOURS, new_axes

from .._closed_form import Curve, reading
from ._common import TIME_LABEL, Judged

#: Marker and colour of a verdict.
_VERDICTS = {
    "confirmed": ("o", COLOURS[0]),
    "undecided": ("s", "0.5"),
    "refuted": ("X", COLOURS[1]),
}


def residuals(result: Judged, ax=None):
    """(measured − predicted) over the solver's bar, of every claim that has both.

    Grey bars are what a claim is allowed: two bars, and what is derived for finite α. Markers say
    the verdict. Claims in words, and without a bar, have no residual.

    **Arguments:** `result`: a `theory.Comparison`.

    **Raises:** ValueError where no claim has a bar, as of a run without `error_bars`.
    """
    ax = new_axes(ax)
    shown = [c for c in result.claims if c.bar > 0.0 and math.isfinite(c.miss)]
    if not shown:
        raise ValueError(
            "No claim of this comparison has an error bar to measure its miss in: simulate with "
            "error_bars=True."
        )
    allowed = np.array([2.0 + c.allowance / c.bar for c in shown])
    misses = np.array([c.miss / c.bar for c in shown])
    largest = 3.0 * max(4.0, *np.abs(misses), *allowed[np.isfinite(allowed)])
    allowed = np.where(np.isfinite(allowed), allowed, largest)
    at = np.arange(len(shown))
    ax.bar(at, 2.0 * allowed, 0.7, -allowed, color="0.88", zorder=0, label="allowed")
    for verdict, (marker, colour) in _VERDICTS.items():
        own = np.flatnonzero([c.verdict == verdict for c in shown])
        if own.size:
            ax.plot(own, misses[own], marker, color=colour, ms=4, label=verdict)
    ax.axhline(0.0, color="black", lw=0.6)
    ax.set_yscale("symlog", linthresh=2.0)
    ax.set_ylim(-largest, largest)
    ax.set_xticks(at, [c.key for c in shown], rotation=90, fontsize="xx-small")
    ax.set(ylabel="(measured − predicted) / bar", xlim=(-0.7, len(shown) - 0.3))
    ax.legend(frameon=False, fontsize="x-small", ncols=2)
    return ax


def residual_curve(trajectory: Trajectory, curve: Curve, ax=None):
    """(measured − predicted) over the bar of a curve, at the recorded times of its regime.

    **Arguments:** `trajectory`: a run with error bars. `curve`: a `theory.Curve`; of arrays the
    entry with the largest residual is shown at every time.

    **Raises:** ValueError for a run without error bars.
    """
    ax, read = new_axes(ax), reading(trajectory, curve)
    inside = (trajectory.t >= curve.regime[0]) & (trajectory.t <= curve.regime[1])
    t = trajectory.t[inside]
    value, bar = (np.asarray(x)[inside].reshape(len(t), -1) for x in (read.value, read.bar))
    if not np.any(np.isfinite(bar)):
        raise ValueError("This run has no error bars: simulate with error_bars=True.")
    miss = value - np.asarray(curve.value(t), float).reshape(len(t), -1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(bar > 0.0, miss / bar, np.nan)
    most = np.argmax(np.nan_to_num(np.abs(ratio)), axis=1)
    ax.axhspan(-2.0, 2.0, color="0.88", zorder=0, label="two bars")
    ax.plot(t, ratio[np.arange(len(t)), most], ".", color=COLOURS[0], ms=3, label=curve.label)
    ax.set_yscale("symlog", linthresh=2.0)
    ax.set(xlabel=TIME_LABEL, ylabel="(measured − predicted) / bar")
    ax.legend(frameon=False, fontsize="x-small")
    return ax
