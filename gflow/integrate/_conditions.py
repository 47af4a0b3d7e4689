"""Conditions of the user under way: read along with a run, and the moment at which one is met."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from ..results._crossings import Quantity, bar_of_time, first_in_clock
from ..results._resolver import joined
from ..results._trajectory import Trajectory
from ..stop import DirectionRests, Ending, Stop, direction_rests
from ._status import Status

#: What the readings of conditions are recorded as.
PREFIX = "stop"


@dataclasses.dataclass(frozen=True)
class Condition:
    """A stop, and the observable that holds its reading (None: the loss).

    Or the end of runs in another clock than t, `times` of all members.
    """

    stop: Stop
    observable: str | None
    times: np.ndarray | None = None

    @classmethod
    def at_times(cls, times: np.ndarray) -> "Condition":
        """The ends of runs that are integrated in another clock than t."""
        return cls(Stop(None, float(times[0]), True, "the end came"), None, times)

    def of(self, i: int) -> "Condition":
        """That of one member."""
        if self.times is None:
            return self
        return self.at_times(self.times[i : i + 1])

    def met(self, values: np.ndarray, members: np.ndarray) -> np.ndarray:
        """Whether it holds at these readings of some members."""
        return self.stop.met(values) if self.times is None else values >= self.times[members]

    @property
    def time(self) -> bool:
        """Whether it is the end of a run."""
        return self.times is not None

    @property
    def sign(self) -> float:
        return 1.0 if self.stop.rising else -1.0

    @property
    def quantity(self) -> Quantity:
        """What it reads, rising towards its level."""
        return Quantity(sign=self.sign, observable=self.observable, time=self.time)

    def values(self, record: dict[str, Any]) -> np.ndarray:
        """Its readings in a record."""
        if self.time:
            return np.asarray(record["elapsed"])
        if self.observable is None:
            return np.asarray(record["loss"])
        return np.asarray(record["observables"][self.observable])


def conditions(stop: Any) -> list[Condition]:
    """Those given as `stop`: one, several, or None.

    **Raises:** ValueError for what is no condition.
    """
    given = [x for x in _given(stop) if isinstance(x, Stop)]
    names = [PREFIX] if len(given) == 1 else [f"{PREFIX}.{i}" for i in range(len(given))]
    return [
        Condition(x, None if x.read is None else name) for x, name in zip(given, names, strict=True)
    ]


def resting_direction(stop: Any, endless: bool, in_units: bool) -> float:
    """The angle from its direction at which a run to infinity ends.

    **Raises:** ValueError for several, and where the run has an end or is one of units.
    """
    found = [x for x in _given(stop) if isinstance(x, DirectionRests)]
    if len(found) > 1:
        raise ValueError("stop has several direction_rests, of which one would do.")
    if found and not endless:
        raise ValueError(
            "gflow.stop.direction_rests ends runs that have no other end: leave out t1 and tau1."
        )
    if found and in_units:
        raise ValueError(
            "gflow.stop.direction_rests is not looked at in runs of units, which end at rest: give "
            "t1, or leaves without units."
        )
    return (found[0] if found else direction_rests()).tolerance


def _given(stop: Any) -> list[Ending]:
    """**Raises:** ValueError for what is no condition."""
    given = [] if stop is None else [stop] if isinstance(stop, Ending) else stop
    if not isinstance(given, list | tuple) or not all(isinstance(x, Ending) for x in given):
        raise ValueError(
            f"stop = {stop!r} is no condition. Make one of gflow.stop, such as "
            "gflow.stop.loss_below(1e-6) or gflow.stop.above(function, level), or a list of them."
        )
    return list(given)


def with_readings(observables: Any, found: list[Condition]) -> Any:
    """`observables` and what the conditions read.

    **Raises:** ValueError for an observable of the name of a reading.
    """
    read = {x.observable: x.stop.read for x in found if x.observable is not None}
    if not read or not isinstance(observables, Mapping | None):
        return observables
    if taken := sorted(set(read) & set(observables or {})):
        raise ValueError(
            f"An observable is called {taken[0]!r}, under which the reading of a condition to stop "
            "at is recorded. Choose another name."
        )
    return {**(observables or {}), **read}


def check_unmet(found: list[Condition], first: dict[str, Any]) -> None:
    """**Raises:** ValueError for a condition that is no number, or is met at the start."""
    for condition in found:
        if condition.time:  # later than the start, as all ends
            continue
        value = condition.values(first)
        if value.ndim != 1:
            raise ValueError(
                f"A condition to stop at reads one number off the model; this one returned an "
                f"array of shape {value.shape[1:]}."
            )
        if not np.all(np.isfinite(value)):
            raise ValueError(
                f"A condition to stop at reads {value[~np.isfinite(value)][0]} at the start, so "
                "that it could never be told when it is met."
            )
        if np.any(condition.stop.met(value)):
            bound = "at or above" if condition.stop.rising else "at or below"
            raise ValueError(
                f"The run would end at once: at the start the condition reads "
                f"{value[condition.stop.met(value)][0]:g}, "
                f"{bound} its level {condition.stop.level:g}."
            )


def ended_at(trajectory: Trajectory, found: list[Condition]) -> Trajectory:
    """A run that went one step beyond a condition, cut where the first of them was met."""
    last, met = len(trajectory.t) - 2, []
    before = trajectory.checkpoints
    held = np.zeros(0, int) if before is None else before[before <= last]
    for i, condition in enumerate(found):
        level = condition.sign * condition.stop.level
        crossing = first_in_clock(trajectory, condition.quantity, level, last)
        if crossing is not None:
            bar = crossing.error if trajectory.lapses is None else bar_of_time(trajectory, crossing)
            met.append((crossing.t, i, bar))
    t, first, error = min(met)
    reached, name = found[first].time, found[first].stop.name

    def cut(kept: dict[str, Any], companion: bool) -> dict[str, Any]:
        end = trajectory.record_at_clock(np.array([t]), companion)
        rows = {n: jax.tree.map(lambda x: x[: last + 1], x) for n, x in kept.items()}
        if before is not None:  # weights are kept at these
            rows["leaves"] = jax.tree.map(lambda x: x[: len(held)], kept["leaves"])
        return joined([rows, {n: end[n] for n in kept}])

    own = trajectory.own_records()
    records = cut(own, False)
    if reached:  # the clock tells it to a rounding of its own
        records["elapsed"] = np.append(records["elapsed"][:-1], found[first].stop.level)
    refined = None if trajectory.refined is None else cut(trajectory.refined, True)
    return Trajectory.from_records(
        model=trajectory.like,
        t=np.append(trajectory.times[: last + 1], t),
        records=records,
        refined=refined,
        checkpoints=None if before is None else np.append(held, last + 1),
        log_alpha=trajectory.log_alpha,
        log_alpha_conflict=trajectory.log_alpha_conflict,
        order=trajectory.order,
        status=Status.reached if reached else Status.stopped,
        cause="" if reached else name,
        method=trajectory.method,
        statistics=trajectory.statistics | ({} if reached else {"stop_error": float(error)}),
        resolver=trajectory.resolver,
    )
