"""Plateaus and transitions of a finished run, and what switched at each of them."""

import dataclasses
import functools
import itertools
import math
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import PyTree

from .._blas import one_thread
from .._display import Displayed, Summary
from ..integrate._bars import spread
from ._activity import Active, Courses, courses, states
from ._crossings import (
    Crossing,
    Quantity,
    Rise,
    first_rise,
    in_clock,
    in_flow_time,
)
from ._labels import (
    Coordinate,
    Index,
    rank_label,
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


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class MeasuredStage(Displayed):
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

    def __repr__(self) -> str:
        """One line: stages come in lists."""
        said = "; ".join(f"{name} {value}" for name, value in self._facts())
        return f"MeasuredStage({self.label}: {said})"

    __str__ = __repr__

    def _summary(self) -> Summary:
        return Summary(f"Stage {self.label}", self._facts())

    def _facts(self) -> list[tuple[str, str]]:
        tau = "" if math.isnan(self.tau) else f", τ = {self.tau:.8g}"
        return [
            ("at", f"t = {self.t:.10g} ± {self.error:.0e}{tau}"),
            ("loss", f"{self.loss:.6g}"),
            ("rank", rank_label(self.rank)),
        ]


@one_thread
def find_stages(runs: Sequence[Record]) -> list[list[MeasuredStage]]:
    """The stages of runs, of each in order of time, all sought side by side."""
    whole = [run.whole for run in runs]
    passed = [history(run)[1] for run in whole]
    steps = [[0, *(p.plateau for p in own)] for own in passed]
    seen = [[True, *(p.visible for p in own)] for own in passed]
    plateaus = flattest(whole, steps, seen)
    changes = [
        [_change(run, was_now, ends) for was_now, ends in zip(switches, between, strict=True)]
        for run, switches, between in zip(
            whole,
            (itertools.pairwise(history(run)[2]) for run in whole),
            map(itertools.pairwise, plateaus),
            strict=True,
        )
    ]
    times = iter(in_clock([x.rise for own in changes for x in own if x.rise is not None]))
    stages = []
    for run, own in zip(runs, changes, strict=True):
        found = [x.stage(_steepest(x) if x.rise is None else next(times)) for x in own]
        if run.checkpoints is not None:
            rows = run.checkpoints
            found = [dataclasses.replace(x, step=int(rows[x.step])) for x in found]
        stages.append(found)
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


@dataclasses.dataclass(frozen=True, eq=False)
class _Change:
    """From one plateau to the next: what switches, and the level that says when.

    `active`: which modes are on the plateau after it; `made_of`: the plateaus that the level is
    half of. Without a `rise` rounding hides the level.
    """

    run: Record
    start: Plateau
    plateau: Plateau
    on: list[Coordinate]
    off: list[Coordinate]
    active: Active
    level: tuple[Any, float] | None = None
    rise: Rise | None = None
    made_of: tuple[Plateau, ...] = ()

    def stage(self, crossing: Crossing) -> MeasuredStage:
        run, plateau, leaves = self.run, self.plateau, self.plateau.record["leaves"]
        if self.rise is not None:
            crossing = _widened(self.rise, crossing, *self.made_of)
        passed_at = in_flow_time(run, crossing)
        return MeasuredStage(
            t=passed_at.t,
            tau=passed_at.t / run.scale if run.log_alpha < 0 else math.nan,
            error=passed_at.error,
            activated=self.on,
            deactivated=self.off,
            value={n: np.asarray(leaves[n]["value"]) for n in run.leaves},
            loss=float(plateau.record["loss"]),
            rank={n: np.asarray(np.sum(x, axis=-1)) for n, x in self.active.items()},
            step=plateau.step,
            clock=crossing.clock,
            level=self.level,
            build=functools.partial(_model, run, leaves, plateau.t),
        )


def _change(run: Record, was_now: tuple[Active, Active], ends: tuple[Plateau, Plateau]) -> _Change:
    (was, now), (start, plateau) = was_now, ends
    on = [c for n in now for c in _coordinates(n, np.asarray(now[n] & ~was[n]))]
    off = [c for n in now for c in _coordinates(n, np.asarray(was[n] & ~now[n]))]
    change = _Change(run, start, plateau, on, off, now)
    before, after = start.step, plateau.step
    leaves = plateau.record["leaves"]
    winner, value = None, 0.0
    for name, index in on:
        size = float(leaves[name].modes()[0][index])
        if abs(size) > abs(value) * (1.0 + 1e-6):  # of equal ones the first
            winner, value = (name, index), size
    if winner is not None and leaves[winner[0]].entrywise:
        quantity, half = Quantity(*winner, float(np.sign(value))), 0.5 * abs(value)
        step = first_rise(run, quantity, half, before, after + 1)
        if step is not None:
            rise, level = Rise(run, quantity, half, step), (winner, 0.5 * value)
            return dataclasses.replace(change, level=level, rise=rise, made_of=(plateau,))
    middle = 0.5 * (float(start.record["loss"]) + float(plateau.record["loss"]))
    quantity = Quantity(sign=-1.0)
    step = first_rise(run, quantity, -middle, before, after + 1)
    if step is None:
        return change
    rise = Rise(run, quantity, -middle, step)
    return dataclasses.replace(change, level=("loss", middle), rise=rise, made_of=ends)


def _steepest(change: _Change) -> Crossing:
    """A transition whose fall is lost in the rounding of the loss: its steepest step."""
    before, after, run = change.start.step, change.plateau.step, change.run
    step = before + int(np.argmax(run.descent[before : after + 1]))
    times = run.times
    width = times[min(step + 1, after)] - times[max(step - 1, before)]
    return Crossing(float(times[step]), float(width), step, float(times[step]))


def _widened(rise: Rise, crossing: Crossing, *plateaus: Plateau) -> Crossing:
    """The error bar with what the level, half of the plateaus' values, is uncertain by.

    The lowest point of a valley is known to the root of the rounding of its height, 10⁻⁸ of
    the steps beside it, and where two of these meet to what the solver's error moves it by.
    Without the flow it lies anywhere between the steps beside the lowest. And the values there
    have error bars of their own.
    """
    run, values = rise.run, rise.values
    own = np.zeros(len(values))
    if run.refined is not None:
        own = spread(run.times, values, rise.quantity.of(run.refined))
    doubt = sum(own[p.step] for p in plateaus)
    doubt += sum(
        p.located * abs(values[p.step + 1] - values[p.step - 1])
        for p in plateaus
        if 0 < p.step < len(values) - 1
    )
    i = crossing.step
    speed = (values[i + 1] - values[i]) / (run.times[i + 1] - run.times[i])
    return dataclasses.replace(crossing, error=float(crossing.error + 0.5 * doubt / speed))


def _model(trajectory: Record, leaves: dict[str, Any], t: float) -> PyTree:
    return None if trajectory.like is None else trajectory.model_at(leaves, None, t)
