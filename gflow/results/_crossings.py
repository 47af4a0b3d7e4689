"""When a recorded quantity crosses a level: bracketed, re-solved, with an error bar."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .._eager import on_device
from ..flow._decay import sampled
from ..integrate._bars import spread
from ..programs._closure import Traced
from ._between import roots
from ._bracket import bracketed_root
from ._labels import Index
from ._record import Record
from ._side_by_side import after_each

#: Share of a step up to which an error bar, as a time, is taken for that of a straight line.
SMALL = 0.1


@dataclasses.dataclass(frozen=True)
class Quantity:
    """A scalar read off a record: the loss, one weight or an observable, times a sign."""

    leaf: str | None = None
    index: Index = ()
    sign: float = 1.0
    observable: str | None = None
    #: Whether it is the flow time, of a run in another clock.
    time: bool = False

    def of(self, record: dict[str, Any]) -> Any:
        """Value, from one record or from stacked ones."""
        if self.time:
            return self.sign * record["elapsed"]
        if self.observable is not None:
            return self.sign * record["observables"][self.observable]
        if self.leaf is None:
            return self.sign * record["loss"]
        return self.sign * record["leaves"][self.leaf]["value"][(..., *self.index)]

    def log_abs(self, record: dict[str, Any]) -> Any:
        assert self.leaf is not None
        return record["leaves"][self.leaf].log_entries()[(..., *self.index)]


@dataclasses.dataclass(frozen=True, eq=False)
class Rise:
    """That a quantity of a run rises through a level within a recorded step."""

    run: Record
    quantity: Quantity
    level: float
    step: int

    @functools.cached_property
    def values(self) -> np.ndarray:
        """The quantity at the recorded steps."""
        return np.asarray(self.quantity.of(_stacked(self.run)))


@dataclasses.dataclass(frozen=True)
class Crossing:
    """Flow time of a crossing, its error bar, and the recorded step just before it.

    `clock`: the time that the run was integrated in, which is t for most.
    """

    t: float
    error: float
    step: int
    clock: float


def bar_of_time(trajectory: Record, found: Crossing) -> float:
    """The error bar of the flow time of a crossing, whose own is of the clock."""
    if trajectory.clock is None:
        return found.error
    i = found.step
    times, widths = trajectory.times, trajectory.remaining[i] - trajectory.remaining[i + 1]
    late = 0.0
    if trajectory.lapses is not None:
        # a dormant unit of which an ulp of ℓ is lost a step, which adds up like a random walk
        sizes = [np.max(np.abs(leaf["log_size"][: i + 1])) for leaf in trajectory.leaves.values()]
        late = math.sqrt(i + 1) * float(np.spacing(max(sizes))) * abs(float(trajectory.t[i + 1]))
        widths = trajectory.widths[i]
    if trajectory.resolver is None:  # anywhere in the step
        late += float(widths)
    bar = np.max(trajectory.error["t"][i : i + 2]) if "t" in trajectory.error else math.nan
    return float(found.error * widths / (times[i + 1] - times[i]) + bar + late)


def first_crossing(
    trajectory: Record, quantity: Quantity, level: float, start: int = 0, stop: int | None = None
) -> Crossing | None:
    """When quantity first rises through `level`, from recorded steps in [start, stop) on."""
    found = first_in_clock(trajectory, quantity, level, start, stop)
    return None if found is None else in_flow_time(trajectory, found)


def first_in_clock(
    trajectory: Record, quantity: Quantity, level: float, start: int = 0, stop: int | None = None
) -> Crossing | None:
    """`first_crossing` in the time that the run was integrated in."""
    step = first_rise(trajectory, quantity, level, start, stop)
    return None if step is None else in_clock([Rise(trajectory, quantity, level, step)])[0]


def in_flow_time(trajectory: Record, found: Crossing) -> Crossing:
    """A crossing with its flow time and the bar of that, from one in the run's own time."""
    if trajectory.clock is None:
        return found
    t = trajectory.flow_time(found.step, found.t)
    return Crossing(t, bar_of_time(trajectory, found), found.step, found.clock)


def first_rise(
    trajectory: Record, quantity: Quantity, level: float, start: int = 0, stop: int | None = None
) -> int | None:
    """The step in [start, stop) within which quantity first rises through `level`."""
    values = np.asarray(quantity.of(_stacked(trajectory)))
    above = values[start:stop] >= level
    rises = np.flatnonzero(~above[:-1] & above[1:])
    return start + int(rises[0]) if rises.size else None


def crossings(rises: Sequence[Rise]) -> list[Crossing]:
    """When they are, all sought side by side."""
    return [in_flow_time(x.run, found) for x, found in zip(rises, in_clock(rises), strict=True)]


def in_clock(rises: Sequence[Rise]) -> list[Crossing]:
    """`crossings` in the time that the runs were integrated in."""
    found: list[tuple[float, float]] = [(math.nan, math.nan)] * len(rises)
    solved = [k for k, rise in enumerate(rises) if rise.run.resolver is not None]
    if solved:
        for k, root in zip(solved, _roots([rises[k] for k in solved]), strict=True):
            found[k] = root
    for k, rise in enumerate(rises):
        if rise.run.resolver is None:
            found[k] = _interpolated_root(rise.run.times, rise.values, rise.level, rise.step)
    return [
        Crossing(t, resolution + _bar(rise), rise.step, t)
        for (t, resolution), rise in zip(found, rises, strict=True)
    ]


def _stacked(trajectory: Record) -> dict[str, Any]:
    return {
        "loss": trajectory.loss,
        "leaves": trajectory.leaves,
        "observables": trajectory.observables,
        "elapsed": trajectory.t,
    }


def _roots(rises: Sequence[Rise]) -> list[tuple[float, float]]:
    """Times of the crossings and what they are known to, by the runs' own methods."""
    runs, steps = [rise.run for rise in rises], np.array([rise.step for rise in rises], int)
    start, end, left, right = np.array(
        [(*x.run.times[x.step : x.step + 2], *x.values[x.step : x.step + 2]) for x in rises]
    ).T
    levels = np.array([rise.level for rise in rises])

    def gap(shares: np.ndarray) -> np.ndarray:
        records = after_each(runs, steps, shares * (end - start)[:, None])
        rows = [np.asarray(rise.quantity.of(records))[k] for k, rise in enumerate(rises)]
        return np.array(rows) - levels[:, None]

    shares, doubt = roots(gap, left - levels, right - levels, np.abs(levels))
    resolution = 4.0 * np.spacing(end) + doubt * (end - start)
    return list(zip((start + shares * (end - start)).tolist(), resolution.tolist(), strict=True))


def _interpolated_root(t, values, level, i) -> tuple[float, float]:
    """Without the flow: a cubic spline.

    Twice its distance from a monotone cubic and from the cubic of the nearest four steps,
    whichever is farther, is the error bar; one of them alone may agree by accident.
    """

    from scipy import interpolate  # of a loaded run only, and slow to import

    def root(curve: Any, reach: int) -> float:
        window = slice(max(i - reach, 0), i + reach + 2)
        return bracketed_root(curve(t[window] - t[i], values[window] - level), t[i + 1] - t[i])

    spline = root(interpolate.CubicSpline, 3)
    others = root(interpolate.PchipInterpolator, 3), root(interpolate.CubicSpline, 1)
    return float(t[i]) + spline, 2.0 * max(abs(spline - other) for other in others)


def _shifted(trajectory: Record, i: int) -> float:
    """What a decay λ(t) of times held to half an ulp can move ∫λ by, up to step i.

    That is half an ulp of what λ goes up and down by, the same for a run and its companion.
    """
    if trajectory.resolver is None:
        return 0.0
    flow, times, moved = trajectory.resolver.flow, trajectory.t[: i + 1], [0.0]
    room = (1 << i.bit_length()) - i  # compiled once for numbers up to a power of two
    for rate in flow.decay:
        if isinstance(rate, Traced):
            padded = np.pad(times, (0, room - 1), mode="edge").astype(flow.dtype)
            values = np.asarray(sampled(rate, on_device(padded)))[: i + 1]
            moved.append(float(np.sum(np.abs(np.diff(values)) * 0.5 * np.spacing(times[1:]))))
    return max(moved)


def _apart(times: np.ndarray, companion: np.ndarray, level: float, i: int) -> float:
    """How far from step i the companion crosses the level, at most; zero in the same step."""
    there = np.flatnonzero((companion[:-1] < level) & (companion[1:] >= level))
    if not there.size:  # by the end it has not
        return float(times[-1] - times[i])
    j = int(there[np.argmin(np.abs(there - i))])
    first, last = min(i, j), max(i, j) + 1
    return float(times[last] - times[first]) if i != j else 0.0


def _bar(rise: Rise) -> float:
    """The error bar over the speed, at the two ends of the bracket.

    Where that is no small part of the step the companion may be before or behind all of a fast
    change, of which the bar then is no more than the height: the time is known no better than to
    twice the distance of the two crossings. To it comes the rounding of the logarithm of a weight
    that has come from far below: an ulp a step, which add up like a random walk. Of what is no
    weight, such as the loss, the time of whose falls is that of weights, it is taken for as many
    ulp of the time. And what `_shifted` says of a decay that moves.
    """
    trajectory, quantity, i = rise.run, rise.quantity, rise.step
    if trajectory.refined is None:
        return float("nan")
    at = slice(i, i + 2)
    read = quantity.of if quantity.leaf is None else quantity.log_abs
    if quantity.time:  # to which it is asked for
        return 0.0
    main = rise.values if quantity.leaf is None else np.asarray(read(_stacked(trajectory)))
    companion = np.asarray(read(trajectory.refined))
    bar = np.max(spread(trajectory.times, main, companion)[at])
    width = trajectory.times[i + 1] - trajectory.times[i]
    speed = abs(main[i + 1] - main[i]) / width
    farthest = np.max(np.abs(main[: i + 1]), where=np.isfinite(main[: i + 1]), initial=0.0)
    rounding = math.sqrt(i + 1) * np.spacing(farthest)
    shift, late = _shifted(trajectory, i), 0.0
    if quantity.leaf is not None:
        rounding += 2.0 * shift
    else:
        late = math.sqrt(i + 1) * np.spacing(trajectory.times[i + 1])
        if trajectory.log_alpha < 0.0:  # which the weights that make it fall have come in that time
            late += shift * trajectory.times[i + 1] / trajectory.scale
    error = (bar + rounding) / speed + late
    if error > SMALL * width:
        own = np.asarray(quantity.of(trajectory.refined))
        error = max(error, 2.0 * _apart(trajectory.times, own, rise.level, i))
    return float(error)
