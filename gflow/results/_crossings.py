"""When a recorded quantity crosses a level: bracketed, re-solved, with an error bar."""

import dataclasses
import math
from typing import Any

import numpy as np
from scipy import interpolate

from ..integrate._bars import spread
from ._bracket import bracketed_root
from ._labels import Index
from ._record import Record


@dataclasses.dataclass(frozen=True)
class Quantity:
    """A scalar read off a record: the loss, one weight or an observable, times a sign."""

    leaf: str | None = None
    index: Index = ()
    sign: float = 1.0
    observable: str | None = None

    def of(self, record: dict[str, Any]) -> Any:
        """Value, from one record or from stacked ones."""
        if self.observable is not None:
            return self.sign * record["observables"][self.observable]
        if self.leaf is None:
            return self.sign * record["loss"]
        return self.sign * record["leaves"][self.leaf]["value"][(..., *self.index)]

    def log_abs(self, record: dict[str, Any]) -> Any:
        assert self.leaf is not None
        return record["leaves"][self.leaf].log_entries()[(..., *self.index)]


@dataclasses.dataclass(frozen=True)
class Crossing:
    """Flow time of a crossing, its error bar, and the recorded step just before it."""

    t: float
    error: float
    step: int


def first_crossing(
    trajectory: Record, quantity: Quantity, level: float, start: int = 0, stop: int | None = None
) -> Crossing | None:
    """First recorded step in [start, stop) after which quantity rises through `level`."""
    stacked = {
        "loss": trajectory.loss,
        "leaves": trajectory.leaves,
        "observables": trajectory.observables,
    }
    values = np.asarray(quantity.of(stacked))
    stop = len(values) if stop is None else stop
    above = values[start:stop] >= level
    rises = np.flatnonzero(~above[:-1] & above[1:])
    if rises.size == 0:
        return None
    i = start + int(rises[0])
    t, resolution = _root(trajectory, quantity, level, values, i)
    return Crossing(t, resolution + _bar(trajectory, quantity, stacked, i), i)


def _root(
    trajectory: Record, quantity: Quantity, level: float, values: np.ndarray, i: int
) -> tuple[float, float]:
    left, right = float(trajectory.times[i]), float(trajectory.times[i + 1])
    ulp = 4.0 * np.spacing(right)
    if trajectory.resolver is None:
        return _interpolated_root(trajectory.times, values, level, i)

    def gap(span: float) -> float:
        if span == 0.0:
            return float(values[i]) - level
        if span == right - left:
            return float(values[i + 1]) - level
        return float(quantity.of(trajectory.after(i, span))) - level

    span = bracketed_root(gap, right - left)
    return left + span, ulp


def _interpolated_root(t, values, level, i) -> tuple[float, float]:
    """Without the flow: a cubic spline.

    Twice its distance from a monotone cubic and from the cubic of the nearest four steps,
    whichever is farther, is the error bar; one of them alone may agree by accident.
    """

    def root(curve: Any, reach: int) -> float:
        window = slice(max(i - reach, 0), i + reach + 2)
        return bracketed_root(curve(t[window] - t[i], values[window] - level), t[i + 1] - t[i])

    spline = root(interpolate.CubicSpline, 3)
    others = root(interpolate.PchipInterpolator, 3), root(interpolate.CubicSpline, 1)
    return float(t[i]) + spline, 2.0 * max(abs(spline - other) for other in others)


def _bar(trajectory: Record, quantity: Quantity, stacked: dict[str, Any], i: int) -> float:
    """The error bar over the speed, at the two ends of the bracket.

    And the rounding of the logarithm of a weight that has come from far below: an ulp a step,
    which add up like a random walk.
    """
    if trajectory.refined is None:
        return float("nan")
    at = slice(i, i + 2)
    read = quantity.of if quantity.leaf is None else quantity.log_abs
    main, companion = np.asarray(read(stacked)), np.asarray(read(trajectory.refined))
    bar = np.max(spread(trajectory.times, main, companion)[at])
    speed = abs(main[i + 1] - main[i]) / (trajectory.times[i + 1] - trajectory.times[i])
    farthest = np.max(np.abs(main[: i + 1]), where=np.isfinite(main[: i + 1]), initial=0.0)
    rounding = math.sqrt(i + 1) * np.spacing(farthest)
    return float((bar + rounding) / speed)
