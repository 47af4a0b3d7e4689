"""Which modes carry a plateau, each judged on its own scale.

A mode is an entry of a leaf or a singular value of a product of matrices, and what is read of
it is its log-size log|θ|.

- It has *left its initial scale*, where the leaf starts at a known α, when log|θ|/log α < ½.
  An entry of a plain leaf has when it is a factor of 30 above the largest entry that its leaf
  starts from, and half-way in the logarithm to the farthest that an entry of this leaf ever gets;
  a plain leaf that never gets so far away is active from the start, and nothing in it switches.
  A plain leaf that starts from zero has the scale of the other plain leaves, or where they all do
  that of the largest it gets.
- Or it *makes its own transition*: of what the loss falls by between the plateaus a hundredth
  or more of the largest part is its own, ∫ g dθ. So a weight whose rest is below √α is active
  there, as it would be in other units.
- It *rests* when log|θ| changes by less than one, either over the whole plateau at the speed
  it has there, or up to the next transition.

It activates on the first plateau where it rests, thirtyfold above the least it has been since the
start or since it was switched off, and has left its scale or makes the transition. It is
deactivated when it falls by a factor e or more over a plateau, or rests far below where it was.
"""

import dataclasses
import math

import numpy as np

from ..coordinates._record import LeafRecord
from ._record import Record

#: Growth, in e-folds, beyond which a weight of order one has become another one.
GREW = math.log(30.0)

#: Share of the largest part of the loss released that makes a transition a mode's own.
OWN = 1e-2

Active = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Course:
    """Log-sizes of one leaf's modes over time, and what they are measured by.

    `scale`: log-size that a mode starts from; `threshold`: beyond which it has left it;
    `active`: whether it has from the start; `small`: whether the leaf starts at a known α.
    """

    logs: np.ndarray
    scale: np.ndarray
    threshold: np.ndarray
    active: np.ndarray
    small: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Courses:
    """The courses of all leaves, the recorded times, and the time of every step."""

    t: np.ndarray
    widths: np.ndarray
    leaves: dict[str, Course]


def courses(trajectory: Record) -> Courses:
    """The log-sizes of all modes of a run and the scale each is judged by."""
    logs = {n: _logs(trajectory, n) for n in trajectory.leaves}
    plain = [n for n, leaf in trajectory.leaves.items() if not leaf.product]
    largest = max((float(np.max(logs[n][0], initial=-math.inf)) for n in plain), default=-math.inf)
    found = {}
    for name, log in logs.items():
        start = log[0]
        if name not in plain and trajectory.log_alpha < 0:
            threshold = np.full(start.shape, 0.5 * trajectory.log_alpha)
            found[name] = Course(log, start, threshold, start > threshold, True)
            continue
        scale = start
        if name in plain:
            # of its start, or of the other plain weights, or where all start from zero what it gets
            tops = (float(np.max(x, initial=-math.inf)) for x in (start, largest, log))
            scale = np.full(start.shape, next((top for top in tops if top > -math.inf), 0.0))
        with np.errstate(invalid="ignore"):
            reach = float(np.nanmax(log - scale, initial=0.0))
            threshold = np.asarray(scale + max(GREW, 0.5 * reach))
        found[name] = Course(log, scale, threshold, np.full(start.shape, reach < GREW), False)
    return Courses(trajectory.t, trajectory.widths, found)


def _logs(trajectory: Record, name: str) -> np.ndarray:
    record = trajectory.leaves[name]
    if not (record.spectral or record.entrywise):
        return record.log_modes()
    key = f"{name}.log_singular" if record.spectral else f"{name}.log_abs"
    return trajectory.observables[key] if key in trajectory.observables else record.log_modes()


def _slopes(widths: np.ndarray, logs: np.ndarray) -> np.ndarray:
    """d log|θ|/dt over every step; NaN where a weight is exactly zero."""
    width = widths.reshape(-1, *[1] * (logs.ndim - 1))
    with np.errstate(invalid="ignore"):
        slopes = np.diff(logs, axis=0) / width
    return np.where(np.isfinite(slopes), slopes, np.nan)


def growth_events(found: Courses, dip: float) -> list[tuple[int, np.ndarray]]:
    """Where modes leave their scale for a rest of their own, with the height of their descent.

    The descent of one mode is |θ|(d log|θ|/dt)² up to a number; its peak is an event when the
    mode has grown thirtyfold up to there, its descent falls by twice `dip` e-folds afterwards and
    it rests in the end.
    """
    t = found.t
    events = []
    if len(t) < 3:
        return events
    for course in found.leaves.values():
        logs = course.logs.reshape(len(t), -1)
        slopes = _slopes(found.widths, logs)
        with np.errstate(divide="ignore", invalid="ignore"):
            heights = 0.5 * (logs[1:] + logs[:-1]) + 2.0 * np.log(np.abs(slopes))
        heights = np.where(np.isfinite(heights), heights, -math.inf)
        rising = np.where(slopes > 0.0, heights, -math.inf)
        peaks = np.argmax(rising, axis=0)
        begun, scale = course.active.ravel(), course.scale.ravel()
        for i, p in enumerate(peaks.tolist()):
            grown = logs[p + 1, i] >= scale[i] + GREW
            if begun[i] or not grown or p + 2 >= len(t) or not np.isfinite(heights[p, i]):
                continue
            height = np.append(heights[:, i], heights[-1, i]) - heights[p, i]
            later = np.min(np.abs(slopes[p + 1 :, i]) * (t[-1] - t[p + 1]))
            if np.min(height[p + 1 :]) < -2.0 * dip and later < 1.0:
                events.append((p, height))
    return events


def states(
    trajectory: Record, found: Courses, plateaus: list[int], transitions: list[int]
) -> list[Active]:
    """Which modes are active on each plateau, the first one being the start.

    `transitions[k]` lies between `plateaus[k]` and `plateaus[k + 1]`; one more may follow.
    """
    now = {name: course.active for name, course in found.leaves.items()}
    since = {name: np.zeros(x.shape, int) for name, x in now.items()}
    out = [now]
    for k, step in enumerate(plateaus[1:], 1):
        ends = transitions[k - 1], transitions[k] if k < len(transitions) else None
        own = _Own(trajectory, plateaus[k - 1], step)
        was, now = now, {}
        for name, course in found.leaves.items():
            rows = np.arange(step + 1).reshape(-1, *[1] * (course.logs.ndim - 1))
            past = np.where(rows >= since[name], course.logs[: step + 1], math.inf)
            grown = course.logs[step] >= np.min(past, axis=0) + GREW
            now[name] = _judged(found, course, was[name], grown, step, ends, own, name)
            since[name] = np.where(was[name] & ~now[name], step, since[name])
        out.append(now)
    return out


def _judged(
    found: Courses, course: Course, was, grown, step, ends, own: "_Own", name: str
) -> np.ndarray:
    t, logs, here = found.t, course.logs, course.logs[step]
    before, after = ends
    beside = slice(max(step - 1, 0), step + 2)
    slopes = _slopes(found.widths[beside.start : step + 1], logs[beside])
    slopes = np.where(np.isnan(slopes), np.inf, slopes)  # exactly zero is no rest of its own
    slope = np.take_along_axis(slopes, np.argmin(np.abs(slopes), axis=0)[None], axis=0)[0]
    with np.errstate(invalid="ignore"):  # of a unit that has no part in this leaf
        change = slope * (t[-1 if after is None else after] - t[before])
    rests = np.abs(change) < 1.0
    if after is not None:
        with np.errstate(invalid="ignore"):
            rests |= np.abs(logs[after] - here) < 1.0
    with np.errstate(invalid="ignore"):
        fallen = here <= np.max(logs[: step + 1], axis=0) - GREW
    ready = ~was & rests & grown
    left = here > course.threshold
    if np.any(ready & ~left):
        left = left | own.makes(name)
    on = ready & left
    below = here <= course.threshold
    if not course.small:
        below = here <= course.threshold - np.maximum(GREW, course.threshold - course.scale)
    falling = (change <= -1.0) & ~rests & (~course.active | fallen | course.small)
    return np.asarray((was | on) & ~(was & (falling | (rests & fallen & below))))


class _Own:
    """The part of the fall of the loss between two plateaus that every mode releases."""

    def __init__(self, trajectory: Record, start: int, stop: int):
        self.leaves, self.rows = trajectory.leaves, slice(start, stop + 1)
        self.parts: dict[str, np.ndarray] = {}

    def makes(self, name: str) -> np.ndarray:
        """Whether the modes of a leaf make the transition their own."""
        if not self.parts:
            self.parts = {n: self._released(leaf) for n, leaf in self.leaves.items()}
        largest = max(float(np.max(x, initial=0.0)) for x in self.parts.values())
        return np.asarray(self.parts[name] >= OWN * largest)

    def _released(self, leaf: LeafRecord) -> np.ndarray:
        sizes, forces = leaf.at(self.rows).modes()
        middle = 0.5 * (forces[1:] + forces[:-1])
        return np.asarray(np.sum(middle * np.diff(sizes, axis=0), axis=0))
