"""Claims of closed forms: a curve at the times of a run, and single numbers."""

import dataclasses
import math

import numpy as np

from gflow import Trajectory

from .._arguments import real_array
from .._closed_form import Curve, Number, reading
from ._claims import CONFIRMED, REFUTED, UNDECIDED, Allowed, Claim, judged, worst

#: Roundings of the largest value that any two computations may differ by.
_ROUNDINGS = 64.0 * float(np.finfo(float).eps)
#: What a curve may move by, of all it moves, from one recorded time to the next.
_JUMP = 0.5
#: Times looked at in addition where it moves by more, if the run still has its flow.
_BETWEEN = 16


@dataclasses.dataclass(frozen=True)
class ClosedFormRow:
    """A curve or a number beside a run, at the time and the entry that decide.

    `part`: its label; `kind`: "curve" or "number"; `where`: the time and entry of a curve;
    `error`: the solver's bar, `tolerance` that (twice) and what the closed form is allowed; `z`
    the miss over the bar.
    """

    part: str
    kind: str
    where: str
    predicted: float
    measured: float
    error: float
    z: float
    tolerance: float
    origin: str
    verdict: str
    claims: tuple[Claim, ...] = dataclasses.field(default=(), repr=False)

    @property
    def passed(self) -> bool:
        return self.verdict == CONFIRMED

    @classmethod
    def of(cls, part: str, kind: str, where: str, one: Claim) -> "ClosedFormRow":
        numbers = (float(x) for x in (one.predicted, one.measured, one.bar, one.z, one.tolerance))
        return cls(part, kind, where, *numbers, one.origin, one.verdict, (one,))


@dataclasses.dataclass(frozen=True, eq=False)
class Beside:
    """A curve and what the run says of it: times, and arrays (times, entries)."""

    curve: Curve
    t: np.ndarray
    predicted: np.ndarray
    measured: np.ndarray
    bar: np.ndarray
    tolerance: np.ndarray
    sizes: np.ndarray
    shape: tuple[int, ...]

    @property
    def floor(self) -> np.ndarray:
        """Rounding, (times, 1): of what the value is made of, if that is known; of the curve."""
        if np.any(self.sizes):
            return _ROUNDINGS * self.sizes
        return np.full((len(self.t), 1), _ROUNDINGS * _largest(self.predicted))

    @property
    def moves(self) -> float:
        """How far the predicted curve gets from where the run begins."""
        with np.errstate(invalid="ignore"):
            return _largest(self.predicted - self.predicted[:1])

    @property
    def steps(self) -> np.ndarray:
        """By what share of all that it moves by it moves from one time to the next."""
        if not self.moves > 0.0:
            return np.zeros(max(len(self.t) - 1, 0))
        with np.errstate(invalid="ignore"):
            steps = np.abs(np.diff(self.predicted, axis=0))
        return np.max(steps, axis=1, where=np.isfinite(steps), initial=0.0) / self.moves

    @property
    def unseen(self) -> np.ndarray:
        """Times inside the steps in which the curve moves by too much to have been seen."""
        wide = np.flatnonzero(self.steps > _JUMP)
        inside = np.arange(1, _BETWEEN) / _BETWEEN
        return (self.t[wide, None] + inside * np.diff(self.t)[wide, None]).ravel()

    @property
    def resolved(self) -> np.ndarray:
        """To what size the run has to be known, (times, 1)."""
        scale = _largest(self.predicted) if self.curve.constant else self.moves
        return self.curve.resolves * np.maximum(scale, self.sizes)


def beside(run: Trajectory, curve: Curve) -> Beside:
    """The curve at the recorded times of the run that lie in its regime.

    **Raises:** ValueError for an observable the run lacks, a curve of another shape, a tolerance
    that is negative or has another shape.
    """
    if run.counts_steps:
        raise ValueError(
            f"The curve {curve.label!r} is a function of flow time, and t of this run counts the "
            "steps of an optimiser. Follow the flow (gflow.simulate), or descend by gradient "
            "descent, whose t is learning rate × steps."
        )
    measured, bar, size = (np.asarray(x) for x in reading(run, curve))
    inside = (run.t >= curve.regime[0]) & (run.t <= curve.regime[1])
    t, shape = np.asarray(run.t, float)[inside], measured.shape[1:]
    predicted = real_array(curve.value(t), f"the curve {curve.label!r}", finite=False)
    if predicted.shape != (*t.shape, *shape):
        raise ValueError(
            f"The curve {curve.label!r} has shape {predicted.shape} at {t.size} times, where the "
            f"run has {(*t.shape, *shape)}: times first, then the axes of the observable."
        )
    flat = t.size, math.prod(shape)
    return Beside(
        curve, t, *(x.reshape(flat) for x in (predicted, measured[inside], bar[inside])),
        _tolerance(curve, t, shape), size[inside][:, None], shape,
    )  # fmt: skip


def _largest(x: np.ndarray) -> float:
    return float(np.max(np.abs(x), where=np.isfinite(x), initial=0.0))


def _tolerance(curve: Curve, t: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    given = curve.tolerance(t) if callable(curve.tolerance) else curve.tolerance
    array = real_array(given, f"the tolerance of {curve.label!r}", finite=False)
    if array.shape == t.shape:
        array = array.reshape(*t.shape, *(1,) * len(shape))
    if array.shape not in ((), (*t.shape, *(1,) * len(shape)), (*t.shape, *shape)):
        raise ValueError(
            f"The tolerance of the curve {curve.label!r} has shape {array.shape}: give a number, "
            f"one a time {t.shape}, or the shape of the curve {(*t.shape, *shape)}."
        )
    if np.any(array < 0.0):
        raise ValueError(f"The tolerance of the curve {curve.label!r} is negative.")
    return np.broadcast_to(array, (*t.shape, *shape)).reshape(t.size, math.prod(shape))


def curve_row(run: Trajectory, curve: Curve) -> ClosedFormRow:
    """The curve judged at every recorded time and entry: the row is of the one that decides."""
    both = beside(run, curve)
    if both.unseen.size and run.resolver is not None:
        both = beside(run.with_times(both.unseen), curve)
    if not both.t.size:
        words = f"no recorded time is within the regime, t = {curve.regime[0]:g} … "
        return _open(both, words + f"{curve.regime[1]:g}; a longer run would decide")
    if not np.any(both.predicted) and not np.any(both.sizes):
        return _open(both, "predicted to vanish, and nothing says what small is: give it a read= "
                     "that returns a theory.Reading with a size")  # fmt: skip
    judgements = [(_where(both, i), _at(both, i)) for i in _telling(both)]
    verdict = worst([claim.verdict for _, claim in judgements])
    where, claim = next(x for x in judgements if x[1].verdict == verdict)
    doubt = None if verdict == REFUTED else _doubt(both)
    if doubt is not None:
        claim = dataclasses.replace(claim, verdict=UNDECIDED, reason=f"{claim.key}: {doubt}")
    return ClosedFormRow.of(curve.label, "curve", where, claim)


def _telling(both: Beside) -> list[int]:
    """Entries (flat) of which the worst verdict is that of all.

    The largest miss over bounds, the widest bounds over what is to be resolved, the largest miss
    without a bar, and one of each kind that is not known.
    """
    bounds, sharp = both.tolerance + 2.0 * both.bar + both.floor, both.resolved
    with np.errstate(invalid="ignore", divide="ignore"):
        miss = np.abs(both.measured - both.predicted)
        over = np.where(miss > 0, miss / bounds, 0.0)
        width = bounds / sharp
        bare = np.where(np.isnan(both.bar), miss - 10.0 * (both.tolerance + sharp), np.nan)
    found = [int(np.nanargmax(x)) for x in (over, width, bare) if not np.all(np.isnan(x))]
    for x in (both.predicted, both.measured, both.tolerance, both.bar):
        lacking = np.flatnonzero(~np.isfinite(x))
        found += [int(lacking[0])] if lacking.size else []
    return list(dict.fromkeys(found))


def _where(both: Beside, i: int) -> str:
    row, entry = np.unravel_index(i, both.predicted.shape)
    index = (
        ", ".join(str(int(k)) for k in np.unravel_index(entry, both.shape)) if both.shape else ""
    )
    return f"t = {both.t[row]:.6g}" + (f", [{index}]" if index else "")


def _at(both: Beside, i: int) -> Claim:
    curve, (row, entry) = both.curve, np.unravel_index(i, both.predicted.shape)
    allowed = Allowed(
        float(both.tolerance[row, entry]), curve.derivation or "rounding", _remedy(curve),
        floor=float(both.floor[row, 0]), what="the tolerance",
    )  # fmt: skip
    numbers = (float(x[row, entry]) for x in (both.predicted, both.measured, both.bar))
    unit = f"{curve.unit} at {_where(both, i)}".strip()
    return judged(curve.label, *numbers, allowed, float(both.resolved[row, 0]), unit)


def _remedy(part: Curve | Number) -> str:
    return "a run deeper in its regime" + (f" ({part.validity})" if part.validity else "")


def _doubt(both: Beside) -> str | None:
    """Why a curve that is met says nothing: it does not move there, or nobody looked."""
    moves, span = both.moves, f"t = {both.t[0]:.6g} … {both.t[-1]:.6g}"
    if both.curve.constant:
        return None
    if not np.any(both.sizes) and not moves > 1e3 * np.max(both.floor):
        return (
            f"met, but the curve does not move at the times of the run, {span}; a longer run would "
            "decide (or constant=True, if that is what it claims)"
        )
    if both.unseen.size:
        return (
            f"met at {both.t.size} recorded times in {span}, between two of which the curve moves "
            f"by {np.max(both.steps):.2g} of its way; times to record (save=) would decide"
        )
    return None


def _open(both: Beside, words: str) -> ClosedFormRow:
    nan, curve = math.nan, both.curve
    claim = Claim(curve.label, nan, nan, nan, nan, curve.derivation, curve.unit, UNDECIDED,
                  f"{curve.label}: {words}")  # fmt: skip
    return ClosedFormRow.of(curve.label, "curve", "", claim)


def number_row(run: Trajectory, number: Number) -> ClosedFormRow:
    """One number, judged as what a run says with the bar it says it with."""
    try:
        measured, bar, *_ = (real_array(x, "read", finite=False) for x in number.read(run)[:2])
        value, bar = (float(x) for x in (measured, bar))
    except TypeError:
        raise ValueError(
            f"read of the number {number.label!r} must return (measured, bar), two numbers."
        ) from None
    size = abs(number.predicted) if number.size is None else number.size
    allowed = Allowed(
        float(number.tolerance), number.derivation or "rounding", _remedy(number),
        floor=_ROUNDINGS * abs(float(number.predicted)) if bar else 0.0, what="the tolerance",
    )  # fmt: skip
    sharp = number.resolves * float(size)
    claim = judged(number.label, float(number.predicted), value, bar, allowed, sharp, number.unit)
    return ClosedFormRow.of(number.label, "number", "", claim)
