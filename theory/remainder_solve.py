"""Deviations from the composite of orbits at one α, from orbit to orbit.

The composite, every orbit at its predicted time, is the flow but for (i) what each orbit leaves
out and (ii) what the orbit before has not finished, and the next has already begun, where one
takes over from the other. Both are followed to first order, one column a cause.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy.linalg import block_diag, expm

from .remainder_orbit import ENTERED, Linear, Path
from .remainder_plateau import Plateau

#: Deviations below this are not told apart when a match is chosen.
_FLOOR = 1e-9
#: Largest log-size of a source: beyond it nothing here means anything, and nothing overflows.
_LARGEST = 30.0
#: Candidates for a match beyond the last node of an orbit.
_BEYOND = 16


@dataclasses.dataclass(frozen=True, eq=False)
class Passed:
    """One stage: by how much it is late, cause by cause, and the plateau after it.

    `second`: causes of second order, without a sign. `lag`: when after the transition the
    plateau is best formed; `weights`, `loss`: bounds there.
    """

    late: np.ndarray
    second: np.ndarray
    lag: float
    weights: np.ndarray
    loss: float


@dataclasses.dataclass(eq=False)
class _Causes:
    """Deviations of the state, a column a cause, of which some are estimates of second order."""

    columns: np.ndarray
    second: np.ndarray

    def add(self, columns: np.ndarray, second: bool = False) -> int:
        """Number of the first one added."""
        first = self.columns.shape[1]
        self.columns = np.concatenate([self.columns, columns], axis=1)
        self.second = np.append(self.second, np.full(columns.shape[1], second))
        return first


def passages(
    paths: Sequence[Path], plateaus: Sequence[Plateau], times: np.ndarray, scale: float
) -> list[Passed]:
    """Stages in order, up to the first that is overtaken; `times`: of the start and of stages."""
    waits = np.diff(times)
    # the start is where the straight tails say, not where the first orbit comes from
    start = -_begun(paths[0], -waits[:1]).T
    causes = _Causes(start, np.zeros(1, bool))
    out: list[Passed] = []
    match, joined = _Match(0.0, 0.0, np.zeros(len(start))), None
    for k, path in enumerate(paths):
        if not waits[k] > 0.0 or np.isnan(path.log_sizes(scale, 0.0)).any():
            break
        following = paths[k + 1] if k + 1 < len(paths) else None
        fallen = np.zeros(len(path.living), bool)
        if k:
            was = np.zeros_like(fallen)
            was[_successor(paths[k - 1])] = paths[k - 1].living
            fallen = was & ~path.living
        place = np.arange(len(fallen)) + causes.add(np.zeros((len(start), len(fallen))))
        if joined is not None:
            place[fallen] = joined
        taken = None
        if following is not None:
            entering = following.living[_successor(path)] & ~path.living
            taken = int(place[entering][0]) if entering.any() else causes.add(np.zeros_like(start))
            place[entering] = taken
        wait, from_s = float(waits[k]), match.lag - float(waits[k])
        if k == 0 and _aligning(path, np.zeros(1)).any():
            first = _first_match(path, wait)
            _followed(causes, place, path, scale, wait, from_s, first.lag - wait)
            from_s = first.lag - wait
            causes.add(_aligning(path, np.array([first.lag])).T)
            causes.add(_second_order(path, first), second=True)
        if k == 0:
            causes.add(_late_turns(None, path, scale, wait), second=True)
        match = _match(path, following, waits[k + 1] if following is not None else math.inf)
        crossing = _followed(causes, place, path, scale, wait, from_s, match.lag)
        joined = causes.add(_unfinished(path, np.array([match.lag])).T)
        sizes = _sizes(plateaus[k].log_sizes(scale, match.lag))
        weights, loss = plateaus[k].bounds(causes.columns, sizes)
        out.append(Passed(crossing, causes.second[: len(crossing)], match.lag, weights, loss))
        if following is None:
            break
        assert taken is not None
        since = np.array([match.lag])
        causes.columns = _carried(path, following) @ causes.columns
        causes.columns[:, taken] -= _begun(following, since - waits[k + 1])[0]
        causes.add(_second_order(following, match), second=True)
        causes.add(_late_turns(path, following, scale, waits[k + 1]), second=True)
    return out


def _late_turns(before: Path | None, following: Path, scale: float, wait: float) -> np.ndarray:
    """What log-sizes gain where a speed changes while an orbit is not over, or has begun.

    A bound, by what is left or begun when the composite says that it changes.
    """
    found = [turn for turn in following.turns(scale, False) if turn[1] < wait]
    out = np.zeros((following.state.shape[1], len(found)))
    for j, (i, when, share) in enumerate(found):
        out[i, j] = share * abs(float(_begun(following, np.array([when - wait]))[0, i]))
        if before is not None:
            out[i, j] += share * abs(float(_unfinished(before, np.array([when]))[0, i]))
    return out


def _sizes(logs: np.ndarray) -> np.ndarray:
    return np.exp(2.0 * np.minimum(logs, _LARGEST))


def _followed(
    causes: _Causes, place: np.ndarray, path: Path, scale: float, wait: float, a: float, b: float
) -> np.ndarray:
    """Follow all columns along an orbit from s = a to b; how late each makes the crossing.

    Source j feeds column `place[j]`.
    """
    columns, s = causes.columns, path.s
    target = np.zeros((len(place), columns.shape[1]))
    target[np.arange(len(place)), place] = 1.0
    if a < s[0]:
        rates = path.rates(path.begin.velocity)
        logs = path.log_sizes(scale, wait + a)
        when, change = path.bends(scale, False)
        bends = when - (wait + a), np.where((when > wait + a) & (when < wait), change, 0.0)
        rates = rates - bends[1]
        columns = _rested(columns, target, path.begin, rates, logs, float(s[0]) - a, bends)
        a = float(s[0])
    entry = path.log_sizes(scale, wait + float(s[0]))
    sizes = _sizes(entry[None] + path.gained)
    sizes[:, path.living] = 0.0
    stop = min(b, float(s[-1]))
    late = np.zeros(columns.shape[1])
    i = max(int(np.searchsorted(s, a, side="right")) - 1, 0)
    while i < len(s) - 1 and a < stop:
        if a <= 0.0 and abs(a) < 1e-14:
            late = _late(path, columns, sizes[i], target)
        over, into = path.over[i], path.into[i]
        amount = sizes[i]
        if a > s[i] or s[i + 1] > stop:
            over, into = path.partial(i, min(float(s[i + 1]), stop) - a)
            amount = sizes[i] * np.exp(2.0 * path.rates(path.between.velocity[i]) * (a - s[i]))
        columns = over @ columns + (into * amount) @ target
        a = min(float(s[i + 1]), stop)
        i += 1
    if b > 0.0:
        columns = path.landed(stop) @ columns
    if b > s[-1]:
        rates = path.rates(path.end.velocity)
        when, change = path.bends(scale, True)
        bends, logs = (when - float(s[-1]), change), entry + path.gained[-1]
        columns = _rested(columns, target, path.end, rates, logs, b - float(s[-1]), bends)
    causes.columns = columns
    return late


def _late(path: Path, columns: np.ndarray, sizes: np.ndarray, target: np.ndarray) -> np.ndarray:
    count = len(columns)
    return -(path.level[:count] @ columns + (path.level[count:] * sizes) @ target)


def _rested(
    columns: np.ndarray,
    target: np.ndarray,
    here: Linear,
    rates: np.ndarray,
    logs: np.ndarray,
    span: float,
    bends: tuple[np.ndarray, np.ndarray],
) -> np.ndarray:
    """Columns after a plateau, from bend to bend of the log-sizes."""
    (when, change), t = bends, 0.0
    past = np.where(when <= 0.0, change, 0.0)
    logs, rates = logs - past * np.where(past != 0.0, when, 0.0), rates + past
    for end in [*np.unique(when[(when > 0.0) & (when < span)]), span]:
        over, into = _at_rest(here, rates, logs, float(end) - t)
        columns = over @ columns + into @ target
        logs, t = logs + rates * (float(end) - t), float(end)
        rates = rates + np.where(when == end, change, 0.0)
    return columns


def _at_rest(
    here: Linear, rates: np.ndarray, logs: np.ndarray, span: float
) -> tuple[np.ndarray, np.ndarray]:
    """Propagators over a plateau, of deviations and of sources of sizes e^{2·logs} at first.

    ∫e^{J(h−u)} b e^{ρu} du = (J − ρ)⁻¹(e^{Jh} − e^{ρh}) b is taken from the end where the source
    is larger, so that nothing overflows on a plateau of any length.
    """
    jacobian, push = here.by_state, here.by_size
    size = len(push)
    into = np.zeros_like(push)
    growth = 2.0 * rates
    there = np.isfinite(logs)
    growing = there & (growth * span > 1e-3)
    still = np.flatnonzero(there & ~growing)
    both = np.zeros((size + len(still), size + len(still)))
    both[:size, :size], both[:size, size:] = jacobian, push[:, still]
    both[np.arange(size, len(both)), np.arange(size, len(both))] = growth[still]
    whole = expm(span * both)
    over, into[:, still] = whole[:size, :size], whole[:size, size:] * _sizes(logs[still])
    for j in np.flatnonzero(growing):
        b = push[:, j]
        right = math.exp(-growth[j] * span) * (over @ b) - b
        into[:, j] = np.linalg.lstsq(jacobian - growth[j] * np.eye(size), right, rcond=None)[0]
    into[:, growing] *= _sizes(logs + rates * span)[growing]
    return over, into


def _unfinished(path: Path, s: np.ndarray) -> np.ndarray:
    """How far an orbit is from its saddle and from its straight tails, at times s."""
    last = float(path.s[-1])
    inside = np.minimum(s, last)
    states, ends, slopes = map(
        path.split, (path.orbit.states(inside), path.rest, path.end.velocity)
    )
    pieces = zip(path.modes, states, ends, slopes, strict=True)
    found = np.concatenate([m.left(x, inside - last, e, v) for m, x, e, v in pieces], axis=1)
    for i in np.flatnonzero(s > last):
        found[i] = expm((s[i] - last) * path.end.by_state) @ found[i]
    return found


def _begun(path: Path, s: np.ndarray) -> np.ndarray:
    """How far an orbit has left its saddle and its straight tails by the times s."""
    raw, first = path.orbit, float(path.s[0])
    inside = np.maximum(s, first)
    return raw.states(inside) - raw.state[0] - raw.velocity[0] * (inside - first)[:, None]


def _aligning(path: Path, waited: np.ndarray) -> np.ndarray:
    return np.concatenate([m.aligning(waited) for m in path.modes], axis=1)


@dataclasses.dataclass(frozen=True, eq=False)
class _Match:
    """Where one orbit hands over to the next: `lag` after the transition before.

    `worst`: what is left there, which enters squared; `own`: what enters single sizes squared.
    """

    lag: float
    worst: float
    own: np.ndarray


def _match(path: Path, following: Path | None, wait: float) -> _Match:
    """Where the larger of what the one has not finished and the other has begun is least."""
    last = float(path.s[-1])
    if following is None:
        return _Match(last, 0.0, np.zeros(path.state.shape[1]))
    if not wait > 0.0:
        return _Match(_FLOOR, 1.0, np.zeros(path.state.shape[1]))
    inside = path.s[(path.s > 0.0) & (path.s < wait)]
    later = wait + following.s[following.s < 0.0]
    later = later[later > last]
    later = later[:: max(len(later) // _BEYOND, 1)]
    if len(later):
        later = np.concatenate([[0.5 * (last + later[0])], later])
    lags = np.concatenate([inside, later, [0.5 * wait] if not len(inside) + len(later) else []])
    left = _unfinished(path, lags) @ _carried(path, following).T
    return _least(following, lags, left, wait)


def _first_match(path: Path, wait: float) -> _Match:
    """From where on columns without a direction are on the way to that of the first plateau."""
    lags = wait + path.s[path.s < 0.0]
    lags = np.concatenate([lags[lags > 0.0], wait * np.linspace(0.05, 0.95, 19)])
    return _least(path, lags, _aligning(path, lags), wait)


def _least(following: Path, lags: np.ndarray, left: np.ndarray, wait: float) -> _Match:
    both = np.maximum(np.abs(left), np.abs(_begun(following, lags - wait)))
    leading = np.concatenate([m.leading for m in following.modes])
    most = np.maximum(np.max(both[:, leading], axis=1), _FLOOR)
    most = np.where(most < _LARGEST, most, _LARGEST)
    best = np.flatnonzero(most <= np.min(most) * 1.0001)
    i = int(best[len(best) // 2])
    own = [m.squared(x) for m, x in zip(following.modes, following.split(both[i]), strict=True)]
    return _Match(float(lags[i]), float(most[i]), np.concatenate(own))


def _carried(path: Path, following: Path) -> np.ndarray:
    parts = zip(path.modes, following.modes, path.split(path.rest), strict=True)
    return np.asarray(block_diag(*(m.carried(n, x) for m, n, x in parts)))


def _successor(path: Path) -> np.ndarray:
    offsets = np.cumsum([0, *(len(m.living) for m in path.modes)])[:-1]
    return np.concatenate([m.successor() + o for m, o in zip(path.modes, offsets, strict=True)])


def _second_order(following: Path, match: _Match) -> np.ndarray:
    """An estimate of what is squared at a match: on the sizes of those that enter, and of others.

    Without a sign, and apart from each other so that they do not cancel.
    """
    fast = following.orbit.fast
    sizes = fast.log_sizes
    entering = sizes & fast.active & (following.orbit.state[0] < ENTERED)
    others = sizes & ~fast.active
    square = np.maximum(match.worst, match.own) ** 2
    return square[:, None] * np.stack([entering, others], axis=1)
