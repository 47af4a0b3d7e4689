"""Where a run rests: plateaus, and the transitions between them."""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from ._activity import Courses, growth_events
from ._between import minima
from ._record import Record
from ._side_by_side import after_each

#: A transition is a peak of the descent, the rate at which loss + (λ/2)‖factors‖² falls,
#: that stands this factor above the plateaus on both sides.
DIP = 30.0

#: Descent below this share of its maximum is a plateau, whatever rounding does to it.
_FLOOR = 1e-14

#: Below this share a weight is nowhere off its rest by more than 10⁻¹³: the descent is its square.
FLAT = 1e-26

#: To what share of the steps beside it the lowest point of a valley is known: to the root of the
#: rounding of its height, and no better.
LOCATED = 1e-5


def prominent(height: np.ndarray, least: float) -> list[int]:
    """Where a series has a peak that it falls from by `least` on both sides before it is higher.

    Both ends are taken for the foot of one; of equal heights the first counts.
    """
    peaks, rising = [], True
    top, low = 0, math.inf
    for i, here in enumerate(height.tolist()):
        if rising:
            if here > height[top]:
                top = i
            elif here <= height[top] - least:
                peaks.append(top)
                rising, low = False, here
        elif here >= low + least:
            rising, top = True, i
        else:
            low = min(low, here)
    return [*peaks, top] if rising and len(height) else peaks


def _peaks(descent: np.ndarray) -> list[int]:
    """Recorded steps at which the logarithm of the descent has a peak that stands out."""
    if not np.max(descent, initial=0.0) > 0.0:  # nothing moves where no weight feels a force
        return []
    height = np.log(np.maximum(descent, _FLOOR * np.max(descent)))
    return [p for p in prominent(height, math.log(DIP)) if p < len(height) - 1]


def plateau_steps(descent: np.ndarray) -> list[int]:
    """Recorded steps resting on a plateau: before, between and after the transitions.

    What the flow minimises falls at a rate that varies over hundreds of orders of magnitude; on its
    logarithm a transition is a peak and a plateau the valley between two.
    """
    edges = [*_peaks(descent), len(descent) - 1]
    valleys = [a + int(np.argmin(descent[a : b + 1])) for a, b in itertools.pairwise(edges)]
    return [0, *valleys]  # below the floor too


def thinned(descent: np.ndarray) -> np.ndarray:
    """Half of the recorded steps: all where a plateau or a transition is, else every other."""
    valleys = plateau_steps(descent)
    peaks = [a + int(np.argmax(descent[a : b + 1])) for a, b in itertools.pairwise(valleys)]
    marked = np.add.outer([*valleys, *peaks, len(descent) - 1], [-1, 0, 1]).ravel()
    marked = marked[(marked >= 0) & (marked < len(descent))]
    return np.union1d(np.arange(0, len(descent), 2), marked)


@dataclasses.dataclass(frozen=True, eq=False)
class Transition:
    """A peak of the descent, or of that of single modes where the whole is below rounding.

    `height`: logarithm of its descent over that of the peak, step by step; `plateau`: the
    recorded step that rests after it; `visible`: whether the descent of all shows it.
    """

    step: int
    height: np.ndarray
    visible: bool
    plateau: int = -1


def transitions(descent: np.ndarray, courses: Courses) -> list[Transition]:
    """The transitions of a run in order, each with the plateau after it.

    Peaks of the descent, and below its rounding the modes' own: what a mode of effect e adds
    to the descent is e³ or less, while the solver moves weights that rest by its tolerance, so
    that an effect of 10⁻⁵ is a transition of that mode's logarithm alone.
    """
    with np.errstate(divide="ignore"):
        total = np.log(np.maximum(descent, _FLOOR * np.max(descent)))
    found = [Transition(p, total - total[p], True) for p in _peaks(descent)]
    hidden = descent < DIP * _FLOOR * np.max(descent)
    for step, height in growth_events(courses, math.log(DIP)):
        if hidden[step]:
            found.append(Transition(step, height, False))
    united: list[Transition] = []
    for new in sorted(found, key=lambda x: x.step):
        last = united[-1] if united else None
        if last is None or (last.visible and new.visible) or _rests_between(last, new):
            united.append(new)
        elif not new.visible:
            height = np.maximum(last.height, new.height)
            united[-1] = dataclasses.replace(last, height=height)
        else:
            united[-1] = dataclasses.replace(new, height=np.maximum(last.height, new.height))
    out = []
    for i, here in enumerate(united):
        later = united[i + 1] if i + 1 < len(united) else None
        stop = len(descent) if later is None else later.step + 1
        height = descent
        if not (here.visible and (later is None or later.visible)):
            height = here.height if later is None else np.maximum(here.height, later.height)
        plateau = here.step + int(np.argmin(height[here.step : stop]))
        out.append(dataclasses.replace(here, plateau=plateau))
    return out


def _rests_between(one: Transition, other: Transition) -> bool:
    between = slice(one.step, other.step + 1)
    return bool(np.min(np.maximum(one.height, other.height)[between]) < -math.log(DIP))


@dataclasses.dataclass(frozen=True, eq=False)
class Plateau:
    """Where a plateau is flattest: a recorded step, and time and record of the minimum.

    `located`: to what share of the steps beside it that is known.
    """

    step: int
    t: float
    record: dict[str, Any]
    located: float = 1.0


def flattest(
    runs: Sequence[Record], steps: Sequence[list[int]], visible: Sequence[list[bool]]
) -> list[list[Plateau]]:
    """The minima of the descent next to recorded steps, of every run.

    At finite α a plateau slopes, and which recorded step lies lowest is an accident of the
    run; its value, and with it the level of the transition, must not be. All valleys are
    searched side by side, on either side of the lowest step from one record, so that the minimum
    is one of a smooth function.
    """
    plateaus = [
        [Plateau(s, float(run.t[s]), _record(run, s)) for s in own]
        for run, own in zip(runs, steps, strict=True)
    ]
    lanes = [
        (r, k, base)
        for r, run in enumerate(runs)
        for k in _valleys(run, plateaus[r], visible[r])
        for base in (steps[r][k] - 1, steps[r][k])
    ]
    if not lanes:
        return plateaus
    base = np.array([step for *_, step in lanes])
    width, left, right = np.array([
        (runs[r].times[i + 1] - runs[r].times[i], *runs[r].descent[i : i + 2]) for r, _, i in lanes
    ]).T  # fmt: skip

    def records(rows: np.ndarray, share: np.ndarray) -> dict[str, Any]:
        own = [runs[lanes[i][0]] for i in rows.tolist()]
        return after_each(own, base[rows], share * width[rows, None])

    def height(rows: np.ndarray, share: np.ndarray) -> np.ndarray:
        return np.asarray(records(rows, share)["descent"])

    rows, share = minima(height, left, right, np.repeat(np.arange(len(lanes) // 2), 2))
    found = jax.tree.map(lambda x: x[:, 0], records(rows, share[:, None]))
    for i, row in enumerate(rows.tolist()):
        r, k, step = lanes[row]
        here, run = plateaus[r][k], runs[r]
        if found["descent"][i] < here.record["descent"]:
            record = {
                "loss": found["loss"][i],
                "descent": found["descent"][i],
                "leaves": {n: x.at(i) for n, x in found["leaves"].items()},
            }
            t = run.flow_time(step, float(run.times[step] + share[i] * width[row]))
            plateaus[r][k] = Plateau(here.step, t, record, LOCATED)
    return plateaus


def _valleys(run: Record, plateaus: list[Plateau], visible: list[bool]) -> list[int]:
    """Which plateaus are valleys within a run, marked as located, whose minima are sought."""
    if run.resolver is None:
        return []
    sought, floor = [], FLAT * np.max(run.descent)
    for k, (here, seen) in enumerate(zip(plateaus, visible, strict=True)):
        if not 0 < here.step < len(run.t) - 1:
            continue
        plateaus[k] = dataclasses.replace(here, located=LOCATED)
        if seen and run.descent[here.step] >= floor:
            sought.append(k)
    return sought


def _record(trajectory: Record, step: int) -> dict[str, Any]:
    return {
        "loss": trajectory.loss[step],
        "descent": trajectory.descent[step],
        "leaves": {n: x.at(step) for n, x in trajectory.leaves.items()},
    }
