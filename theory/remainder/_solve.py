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

from ._orbit import ENTERED, Path
from ._plateau import Plateau
from ._sources import Sources, limited

#: Deviations below this are not told apart when a match is chosen.
_FLOOR = 1e-9
#: What is left at a match where anything is possible.
_LARGEST = 30.0
#: Candidates for a match beyond the last node of an orbit, and for where a plateau is read.
_BEYOND, _READINGS = 16, 32
#: Every so many of the readings are looked at first.
_COARSE = 5


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
) -> tuple[list[Passed], str]:
    """Stages in order, as far as they can be followed, and why not further.

    `times`: of the start and of stages.
    """
    waits = np.diff(times)
    # the start is where the straight tails say, not where the first orbit comes from
    start = -_begun(paths[0], -waits[:1]).T
    causes = _Causes(start, np.zeros(1, bool))
    out: list[Passed] = []
    match, joined = _Match(0.0, 0.0, np.zeros(len(start))), None
    for k, path in enumerate(paths):
        if reason := _stops(path, causes, k, float(waits[k]), scale):
            return out, reason
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
            first, start_s = _first_match(path, wait), from_s
            from_s = first.lag - wait
            sources = Sources.of(path, place, causes.columns.shape[1], scale, wait)
            causes.columns, _ = sources.followed(causes.columns, start_s, from_s)
            causes.add(_aligning(path, np.array([first.lag])).T)
            causes.add(_second_order(path, first), second=True)
        if k == 0:
            causes.add(_late_turns(None, path, scale, wait), second=True)
        match = _match(path, following, waits[k + 1] if following is not None else math.inf)
        lag = _best_formed(path, plateaus[k], scale, match.lag)
        sources = Sources.of(path, place, causes.columns.shape[1], scale, wait)
        columns, late = sources.followed(causes.columns, from_s, lag)
        there = [sources.on_plateau(columns, lag), _unfinished(path, np.array([lag])).T]
        sizes = limited(plateaus[k].log_sizes(scale, lag))
        bounds = plateaus[k].bounds(np.concatenate(there, axis=1), sizes)
        out.append(Passed(late, causes.second.copy(), lag, *bounds))
        if following is None or not np.isfinite(columns).all():
            continue
        assert taken is not None
        columns, _ = sources.followed(columns, min(lag, float(path.s[-1])), match.lag)
        causes.columns = sources.on_plateau(columns, match.lag)
        joined = causes.add(_unfinished(path, np.array([match.lag])).T)
        since = np.array([match.lag])
        causes.columns = _carried(path, following) @ causes.columns
        causes.columns[:, taken] -= _begun(following, since - waits[k + 1])[0]
        causes.add(_second_order(following, match), second=True)
        causes.add(_late_turns(path, following, scale, waits[k + 1]), second=True)
    return out, ""


def _stops(path: Path, causes: _Causes, k: int, wait: float, scale: float) -> str:
    """Why stage k + 1 cannot be followed, or nothing."""
    if math.isnan(wait):
        return f"the time of stage {k + 1} is not predicted"
    if not wait > 0.0:
        return f"at this α stage {k + 1} is predicted no later than the one before it"
    if np.isnan(path.log_sizes(scale, 0.0)).any():
        return "the size of a column that has turned to its other branch is not known"
    parts = (path.over, path.into, path.end.by_state, path.begin.by_state, path.level)
    if not all(np.isfinite(x).all() for x in (*parts, causes.columns)):
        return f"the orbit to stage {k + 1} spans scales beyond the range of numbers"
    return ""


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


def _unfinished(path: Path, s: np.ndarray) -> np.ndarray:
    """How far an orbit is from its saddle and from its straight tails, at times s."""
    last = float(path.s[-1])
    inside = np.minimum(s, last)
    states, ends, slopes = map(
        path.split, (path.orbit.states(inside), path.rest, path.end.velocity)
    )
    pieces = zip(path.modes, states, ends, slopes, strict=True)
    found = np.concatenate([m.left(x, inside - last, e, v) for m, x, e, v in pieces], axis=1)
    if not np.any(s > last):
        return found
    landing = path.split(path.orbit.states(np.array([last]))[0])

    def turning(span: float) -> np.ndarray:
        parts = zip(path.modes, landing, strict=True)
        return np.concatenate([m.turning(x, span) for m, x in parts])

    at_end = turning(0.0)
    spans = s[s > last] - last
    relaxed = _relaxed(path.end.by_state, found[int(np.argmax(s > last))] - at_end, spans)
    found[s > last] = [x + turning(float(t)) for t, x in zip(spans, relaxed, strict=True)]
    return found


def _relaxed(jacobian: np.ndarray, start: np.ndarray, spans: np.ndarray) -> np.ndarray:
    """e^{Jt} of a vector at ascending times; an exponential for every other step between them."""
    out, gap, over = [], 0.0, np.eye(len(start))
    for step in np.diff(spans, prepend=0.0):
        if abs(step - gap) > 1e-9 * step:
            gap, over = float(step), expm(float(step) * jacobian)
        start = over @ start
        out.append(start)
    return np.array(out)


def _begun(path: Path, s: np.ndarray) -> np.ndarray:
    """How far an orbit has left its saddle and its straight tails by the times s."""
    raw, first = path.orbit, float(path.s[0])
    inside = np.maximum(s, first)
    return raw.states(inside) - raw.state[0] - raw.velocity[0] * (inside - first)[:, None]


def _best_formed(path: Path, plateau: Plateau, scale: float, match: float) -> float:
    """When, up to the match, the loss is nearest to that of the saddle."""
    lags = path.orbit.s[(path.orbit.s > 0.0) & (path.orbit.s < match)]
    last = float(path.s[-1])
    later = [last, 0.5 * (last + match)] if match > last else []
    lags = np.concatenate([lags[:: max(len(lags) // _READINGS, 1)], later, [match]])
    left = _unfinished(path, lags)

    def lowest(rows: np.ndarray) -> int:
        losses = [
            plateau.bounds(left[i][:, None], limited(plateau.log_sizes(scale, float(lags[i]))))[1]
            for i in rows
        ]
        return int(rows[int(np.argmin(losses))])

    # the bound falls and then rises: a few readings first, then all around the lowest of them
    near = lowest(np.union1d(np.arange(0, len(lags), _COARSE), len(lags) - 1))
    around = np.arange(max(near - _COARSE + 1, 0), min(near + _COARSE, len(lags)))
    return float(lags[lowest(around)])


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
    inside = path.orbit.s[(path.orbit.s > 0.0) & (path.orbit.s < wait)]
    entry = max(last, wait + float(following.s[0]))
    later = np.linspace(entry, max(wait, entry), _BEYOND + 1)[:-1]
    later = np.concatenate([np.linspace(last, entry, 3)[1:], later[1:]])
    later = later[(later > last) & (later < wait)]
    lags = np.concatenate([inside, later, [0.5 * wait] if not len(inside) + len(later) else []])
    left = _unfinished(path, lags) @ _carried(path, following).T
    return _least(following, lags, left, wait)


def _first_match(path: Path, wait: float) -> _Match:
    """From where on columns without a direction are on the way to that of the first plateau."""
    lags = wait + path.orbit.s[path.orbit.s < 0.0]
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
