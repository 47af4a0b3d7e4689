"""What a run shows of a prediction: when levels are crossed, and its plateaus."""

import dataclasses
import itertools
import math
from typing import Any

import numpy as np

from gflow import Trajectory
from gflow.internal import Crossing, Quantity, Rise, active_weights, crossings, first_rise

from .._prediction import Prediction

#: What a plateau may still move, over what it moves half-way to its edges.
BEYOND = 3.0
#: A plateau of so many e-folds is not the inside of one orbit.
_RESTS = 12.0


def measure(trajectory: Trajectory, prediction: Prediction) -> list[Crossing | None]:
    """When the run crosses each stage's level; None where it does not."""
    rises: list[Rise | None] = []
    for k, stage in enumerate(prediction.stages):
        if stage.level is None:
            rises.append(None)
            continue
        what, value = stage.level.coordinate, stage.level.value
        start, quantity, height = 0, Quantity(sign=-1.0), -value
        if what is not None:
            for earlier in range(k):
                if what in prediction.stages[earlier].deactivated:
                    switched_off = rises[earlier]
                    start = len(trajectory.t) if switched_off is None else switched_off.step
            quantity = Quantity(what[0], what[1], math.copysign(1.0, value))
            height = abs(value)
        step = first_rise(trajectory, quantity, height, start)
        rises.append(None if step is None else Rise(trajectory, quantity, height, step))
    found = iter(crossings([rise for rise in rises if rise is not None]))
    return [None if rise is None else next(found) for rise in rises]


@dataclasses.dataclass(frozen=True, eq=False)
class Plateau:
    """A run at rest: where it is read, and how far it moves half-way to either edge.

    `values`, `bars`, `moved`: effective weights by leaf, the solver's error and the change over
    the middle half of the plateau; `loss`, `loss_bar`, `loss_moved` likewise. `active`: which
    weights (singular values) carry it, `sizes` theirs.
    """

    t: float
    step: int
    loss: float
    loss_bar: float
    loss_moved: float
    values: dict[str, np.ndarray]
    bars: dict[str, np.ndarray]
    moved: dict[str, np.ndarray]
    active: dict[str, np.ndarray]
    sizes: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Reader:
    """Reads plateaus off a run, whose transitions lie between its `valleys` (recorded steps).

    `peaks`: when the loss falls fastest in each; of several that are one, first and last. All times
    are those that the run was integrated in, which tell before from after where flow time has no
    digits left to. `flow_times`: those of the first peaks. `orbits`: of each transition the number
    of the predicted orbit that it lies on, None where it lies on none that is known.
    """

    trajectory: Trajectory
    valleys: list[int]
    peaks: list[tuple[float, float]]
    flow_times: list[float]
    orbits: list[int | None]

    @classmethod
    def of(cls, trajectory: Trajectory) -> "Reader":
        stages = trajectory.stages()
        valleys = [0, *(s.step for s in stages)]
        peaks = [(s.clock, s.clock) for s in stages]
        return cls(trajectory, valleys, peaks, [s.t for s in stages], [None] * len(stages))

    def joined(self, orbits: list[int | None]) -> "Reader":
        """With the transitions that lie on one predicted orbit as one."""
        number = range(len(orbits))
        first = [i for i in number if not i or orbits[i] is None or orbits[i] != orbits[i - 1]]
        pairs = list(itertools.pairwise([*first, len(orbits)]))
        return Reader(
            self.trajectory,
            [self.valleys[i] for i in (*first, len(orbits))],
            [(self.peaks[a][0], self.peaks[b - 1][1]) for a, b in pairs],
            [self.flow_times[i] for i in first],
            [orbits[i] for i in first],
        )

    @property
    def end(self) -> float:
        return float(self.trajectory.times[-1])

    def next_transition(self, t: float) -> float:
        """When the run leaves the plateau that follows its transition at t; its end if never."""
        times = self.trajectory.times
        for valley, (first, _) in zip(self.valleys[1:], self.peaks[1:], strict=False):
            if times[valley] >= t:
                return first
        return self.end

    def besides(self, known: list[float]) -> list[int]:
        """Numbers of the transitions on no orbit that is known, without any of these times."""
        run, edges = self.trajectory, [float(self.trajectory.times[v]) for v in self.valleys]
        out = []
        for i in range(len(self.peaks)):
            falls = run.loss[self.valleys[i]] - run.loss[self.valleys[i + 1]]
            inside = any(edges[i] < t <= edges[i + 1] for t in known)
            if self.orbits[i] is None and not inside and falls > 1e-13 * abs(run.loss[0]):
                out.append(i)
        return out

    def apart(self, i: int) -> bool:
        """Whether the run rests before and after a transition as on no part of one orbit.

        A plateau of e e-folds falls to e⁻ᵉ of the descent beside it, midway between approaching
        and leaving its saddle; an orbit may pass other saddles, but by no such accident.
        """
        descent = self.trajectory.descent
        highest = [np.max(descent[a : b + 1]) for a, b in itertools.pairwise(self.valleys)]
        sides = [(self.valleys[i], i - 1), (self.valleys[i + 1], i + 1)]
        return all(
            descent[valley] < math.exp(-_RESTS) * min(highest[i], highest[beside])
            for valley, beside in sides
            if 0 <= beside < len(highest)
        )

    def plateau(self, left: float, right: float, at: float | None = None) -> Plateau:
        """The plateau in (left, right), read at `at` or where it is flattest."""
        run = self.trajectory
        if at is None or not left < at < right:
            at = float(run.times[self._flattest(left, right)])
        left = max([left, *(last for _, last in self.peaks if last <= at)])
        right = min([right, *(first for first, _ in self.peaks if first > at)])
        here, *around = self._records([at, self._halfway(left, at), self._halfway(at, right)])
        step = int(np.argmin(np.abs(run.times - at)))
        beside = slice(max(step - 1, 0), step + 2)

        def moved(read):
            return np.max([np.abs(np.asarray(read(x) - read(here))) for x in around], axis=0)

        def bar(read):
            if run.refined is None:
                return np.full(np.shape(read(here)), math.nan)
            pair = [np.asarray(read(x)) for x in (self._stacked(run), run.refined)]
            return 2.0 * np.max(np.abs(pair[0][beside] - pair[1][beside]), axis=0)

        reads = {n: (lambda x, n=n: x["leaves"][n]["value"]) for n in run.leaves}
        return Plateau(
            t=at,
            step=step,
            loss=float(here["loss"]),
            loss_bar=float(bar(lambda x: x["loss"])),
            loss_moved=float(moved(lambda x: x["loss"])),
            values={n: np.asarray(read(here)) for n, read in reads.items()},
            bars={n: bar(read) for n, read in reads.items()},
            moved={n: moved(read) for n, read in reads.items()},
            active=active_weights(run, step),
            sizes={n: np.abs(here["leaves"][n].modes()[0]) for n in run.leaves},
        )

    def _flattest(self, left: float, right: float) -> int:
        run = self.trajectory
        times = run.times
        inside = [s for s in self.valleys if left <= times[s] <= right]
        if not inside:
            inside = [s for s in range(len(times)) if left <= times[s] <= right]
        if not inside:
            return int(np.searchsorted(times, left).clip(0, len(times) - 1))
        return min(inside, key=lambda s: float(run.descent[s]))

    def _halfway(self, left: float, right: float) -> float:
        """Between two times; of a run by lapses the step nearest to the middle in flow time."""
        run = self.trajectory
        if run.lapses is None:
            return 0.5 * (left + right)
        first, last = np.searchsorted(run.times, [left, right])
        passed = np.cumsum(run.lapses[first : last + 1])
        return float(run.times[first + np.argmin(np.abs(passed - 0.5 * passed[-1]))])

    def _records(self, times: list[float]) -> list[dict[str, Any]]:
        """At any times; without the flow at the recorded times nearest."""
        run = self.trajectory
        if run.resolver is None:
            rows = [int(np.argmin(np.abs(run.times - t))) for t in times]
            found = {
                "loss": run.loss[rows],
                "leaves": {n: x.at(rows) for n, x in run.leaves.items()},
            }
        else:
            found = run.record_at_clock(np.array(times))
        leaves = found["leaves"]
        return [
            {"loss": found["loss"][k], "leaves": {n: x.at(k) for n, x in leaves.items()}}
            for k in range(len(times))
        ]

    @staticmethod
    def _stacked(run: Trajectory) -> dict[str, Any]:
        return {"loss": run.loss, "leaves": run.leaves}
