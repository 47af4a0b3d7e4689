"""Plateaus and transitions of a finished run, and what switched at each of them."""

import dataclasses
import functools
import itertools
import math
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import PyTree

from .._blas import one_thread
from ..integrate._bars import spread
from ._activity import Active, Courses, courses, states
from ._crossings import (
    Crossing,
    Quantity,
    first_rise,
    in_clock,
    in_flow_time,
)
from ._labels import (
    Coordinate,
    Index,
    switch_label,
)
from ._plateaus import (
    Plateau,
    Transition,
    flattest,
    transitions,
)
from ._record import Record

#: Log-sizes of all modes, the transitions, and what is active on the plateaus between them.
History = tuple[Courses, list[Transition], list[Active]]

#: Share of its peak that the descent has fallen to on a plateau that a failed run has reached.
_ARRIVED = 1e-8


@dataclasses.dataclass(frozen=True, eq=False)
class MeasuredStage:
    """A transition and the plateau after it.

    - `t`, `tau`, `error`: when it happens, with its error bar in flow time.
    - `level`: (observable, value) whose first crossing defines that time, as in a predicted
      stage: (leaf name, index) and half of what the winner, the largest newly active entry, has
      on the plateau; "loss" and the middle between the plateaus where the winner is a singular
      value or nothing becomes active; None where rounding hides the fall of the loss. An entry
      of a plain leaf is a factor of its own, so that it is half of u, not of u·v.
    - `activated`, `deactivated`: (leaf name, index) of what switches. A mode (name, (…, k)) of a
      product of matrices is its k-th singular value. `label` writes them as predictions do.
    - `value`, `loss`, `model`: on the plateau after it, where it is flattest (`build` makes the
      model, when it is first asked for), and `step` the recorded step there.
    - `clock`: `t` in the time that the run was integrated in (`Trajectory.times`).
    - `rank`: number of active modes there along the last axis. `_activity` says when a
      mode is active; the observable `name.above_sqrt_alpha` counts something else.
    """

    t: float
    tau: float
    error: float
    activated: list[Coordinate]
    deactivated: list[Coordinate]
    value: dict[str, np.ndarray]
    loss: float
    rank: dict[str, np.ndarray]
    step: int
    clock: float
    level: tuple[Any, float] | None = None
    build: Callable[[], PyTree] | None = dataclasses.field(repr=False, default=None)

    @functools.cached_property
    def model(self) -> PyTree:
        return None if self.build is None else self.build()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"model": self.model, "build": None}

    @property
    def label(self) -> str:
        """What switches, as `+kq[head 0, 2] −vo[head 0, 1]`."""
        return switch_label(self.activated, self.deactivated)


@one_thread
def find_stages(trajectory: Record) -> list[MeasuredStage]:
    """The stages of a run, in order of time."""
    _, passed, active = history(trajectory)
    steps = [0, *(p.plateau for p in passed)]
    seen = [True, *(p.visible for p in passed)]
    plateaus = flattest(trajectory, steps, seen)
    switches = []
    for was, now in itertools.pairwise(active):
        on = [c for n in now for c in _coordinates(n, np.asarray(now[n] & ~was[n]))]
        off = [c for n in now for c in _coordinates(n, np.asarray(was[n] & ~now[n]))]
        switches.append((on, off, now))
    between = list(itertools.pairwise(plateaus))
    times = _times_of(trajectory, [on for on, *_ in switches], between)
    stages, scale = [], trajectory.scale if trajectory.log_alpha < 0 else math.nan
    for (_, plateau), (on, off, now), (level, crossing) in zip(
        between, switches, times, strict=True
    ):
        passed_at = in_flow_time(trajectory, crossing)
        leaves = plateau.record["leaves"]
        stages.append(
            MeasuredStage(
                t=passed_at.t,
                tau=passed_at.t / scale,
                error=passed_at.error,
                activated=on,
                deactivated=off,
                value={n: np.asarray(leaves[n]["value"]) for n in trajectory.leaves},
                loss=float(plateau.record["loss"]),
                rank={n: np.asarray(np.sum(x, axis=-1)) for n, x in now.items()},
                step=plateau.step,
                clock=crossing.clock,
                level=level,
                build=functools.partial(_model, trajectory, leaves, plateau.t),
            )
        )
    return stages


#: What was read of runs that are still there.
_histories: weakref.WeakKeyDictionary[Record, History] = weakref.WeakKeyDictionary()


def history(trajectory: Record) -> History:
    """Courses, transitions, and which modes are active at the start and after each of them.

    A transition that only single modes show is one if it switches something.
    """
    if trajectory not in _histories:
        found = courses(trajectory)
        _histories[trajectory] = found, *_passed(trajectory, found)
    return _histories[trajectory]


def _passed(trajectory: Record, found: Courses) -> tuple[list[Transition], list[Active]]:
    passed = transitions(trajectory.descent, found)
    if not trajectory.successful:
        passed = [p for p in passed if not _cut(trajectory.descent, p)]
    while True:
        active = _states(trajectory, found, passed)
        idle = [
            p
            for p, (was, now) in zip(passed, itertools.pairwise(active), strict=True)
            if not p.visible and all(np.array_equal(was[n], now[n]) for n in now)
        ]
        if not idle:
            return passed, active
        passed = [p for p in passed if p not in idle]


def _cut(descent: np.ndarray, transition: Transition) -> bool:
    """Whether a transition was under way when the run failed, short of its plateau."""
    at_end = transition.plateau == len(descent) - 1
    return bool(at_end and descent[-1] > _ARRIVED * descent[transition.step])


def _states(trajectory: Record, found: Courses, passed: list[Transition]):
    steps = [0, *(p.plateau for p in passed)]
    return states(trajectory, found, steps, [p.step for p in passed])


def active_weights(trajectory: Record, step: int) -> dict[str, np.ndarray]:
    """Which weights, of a product of matrices which singular values, carry the plateau.

    At a recorded step, which is taken for the plateau after the last transition before it.
    """
    found = courses(trajectory)
    passed = transitions(trajectory.descent, found)
    before = [p for p in passed if p.step < step]
    if not before:
        return _states(trajectory, found, [])[0]
    steps = [0, *(p.plateau for p in before[:-1]), step]
    return states(trajectory, found, steps, [p.step for p in passed[: len(before) + 1]])[-1]


def _coordinates(name: str, where: np.ndarray) -> list[Coordinate]:
    return [(name, _index(i)) for i in np.argwhere(where)]


def _index(row: np.ndarray) -> Index:
    return tuple(int(i) for i in row)


#: What defines a transition: the level, its quantity and height, the step within which it is
#: crossed, and the plateaus that the level is made of.
_Rise = tuple[tuple[Any, float], Quantity, float, int, tuple[Plateau, ...]]


def _times_of(
    trajectory: Record, activated: list[list[Coordinate]], between: list[tuple[Plateau, Plateau]]
) -> list[tuple[tuple[Any, float] | None, Crossing]]:
    """The level that defines each transition, and when it is crossed."""
    rises = [_rise(trajectory, on, *pair) for on, pair in zip(activated, between, strict=True)]
    known = [(quantity, height, step) for _, quantity, height, step, _ in filter(None, rises)]
    found = iter(in_clock(trajectory, known))
    out: list[tuple[tuple[Any, float] | None, Crossing]] = []
    for rise, pair in zip(rises, between, strict=True):
        if rise is None:
            out.append((None, _steepest(trajectory, *pair)))
        else:
            level, quantity, _, _, made_of = rise
            out.append((level, _widened(trajectory, quantity, next(found), *made_of)))
    return out


def _rise(
    trajectory: Record, activated: list[Coordinate], start: Plateau, plateau: Plateau
) -> _Rise | None:
    before, after = start.step, plateau.step
    leaves = plateau.record["leaves"]
    winner, value = None, 0.0
    for name, index in activated:
        size = float(leaves[name].modes()[0][index])
        if abs(size) > abs(value) * (1.0 + 1e-6):  # of equal ones the first
            winner, value = (name, index), size
    if winner is not None and leaves[winner[0]].entrywise:
        quantity, half = Quantity(*winner, float(np.sign(value))), 0.5 * abs(value)
        step = first_rise(trajectory, quantity, half, before, after + 1)
        if step is not None:
            return (winner, 0.5 * value), quantity, half, step, (plateau,)
    middle = 0.5 * (float(start.record["loss"]) + float(plateau.record["loss"]))
    quantity = Quantity(sign=-1.0)
    step = first_rise(trajectory, quantity, -middle, before, after + 1)
    if step is not None:
        return ("loss", middle), quantity, -middle, step, (start, plateau)
    return None


def _steepest(trajectory: Record, start: Plateau, plateau: Plateau) -> Crossing:
    """A transition whose fall is lost in the rounding of the loss: its steepest step."""
    before, after = start.step, plateau.step
    step = before + int(np.argmax(trajectory.descent[before : after + 1]))
    times = trajectory.times
    width = times[min(step + 1, after)] - times[max(step - 1, before)]
    return Crossing(float(times[step]), float(width), step, float(times[step]))


def _widened(
    trajectory: Record, quantity: Quantity, crossing: Crossing, *plateaus: Plateau
) -> Crossing:
    """The error bar with what the level, half of the plateaus' values, is uncertain by.

    The lowest point of a valley is known to the root of the rounding of its height, 10⁻⁸ of
    the steps beside it, and where two of these meet to what the solver's error moves it by.
    Without the flow it lies anywhere between the steps beside the lowest. And the values there
    have error bars of their own.
    """
    values = quantity.of({"loss": trajectory.loss, "leaves": trajectory.leaves})
    own = np.zeros(len(values))
    if trajectory.refined is not None:
        own = spread(trajectory.times, values, quantity.of(trajectory.refined))
    doubt = sum(own[p.step] for p in plateaus)
    doubt += sum(
        p.located * abs(values[p.step + 1] - values[p.step - 1])
        for p in plateaus
        if 0 < p.step < len(values) - 1
    )
    i = crossing.step
    speed = (values[i + 1] - values[i]) / (trajectory.times[i + 1] - trajectory.times[i])
    return dataclasses.replace(crossing, error=float(crossing.error + 0.5 * doubt / speed))


def _model(trajectory: Record, leaves: dict[str, Any], t: float) -> PyTree:
    return None if trajectory.like is None else trajectory.model_at(leaves, None, t)
