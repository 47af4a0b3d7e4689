r"""What a run under decay shows on its way: the gap between its bounds and its slope, ties."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from gflow import Trajectory

from .._closed_form import Curve, Number, Reading
from .._factor_pairs import FactorPair
from .._quadratic import Quadratic
from ..exact_linear._course import multiplied
from ._certificate import gap
from ._imbalance import bounds, imbalance
from ._soft_threshold import SOURCE, VALIDITY, gap_late_slope, predicted_rank, soft_threshold

Times = Float[np.ndarray, " times"]
#: The gap is seen down to this share of ‖A‖² + ‖B‖², and to so many of its error bars.
_SEEN, _BARS = 1e-20, 1e3
#: `gap` is right to this times sqrt(gap)·‖A‖.
_ROUNDING = 1e-14
#: Decades of the gap over which a slope is taken.
_DECADES = 2.0
#: It is late when W is closer to its end than this share of the smallest |d − λ/c|, within which
#: modes come to rest exponentially.
_LATE = 0.25
#: So many e-folds of W have to fit into these decades of the gap, or no run shows the slope.
_FOLDS, _VISIBLE = 3.0, 10.0


def gap_between_bounds(pair: FactorPair, later: Any, began: float) -> Curve:
    """How far ½‖A‖² + ½‖B‖² − ‖ABᵀ‖_* is outside of `gap_bounds`: nowhere."""

    def read(run: Trajectory) -> Reading:
        found, sizes = pair.read(gap)(run), pair.read(_size)(run)
        g = imbalance(pair.left, pair.right, later, np.maximum(run.t - began, 0.0))
        low, high = bounds(np.asarray(np.linalg.norm(g, "nuc", axis=(-2, -1))), sizes.value)
        beyond = np.maximum(low - found.value, found.value - high)
        return Reading(np.maximum(beyond, 0.0), found.bar, found.size)

    heads = pair.left.shape[:-2]
    return Curve(
        f"gap of {pair.name} beyond its bounds", lambda t: np.zeros((*t.shape, *heads)), read=read,
        regime=(began, math.inf), source="Powers–Størmer 1970", validity=VALIDITY,
    )  # fmt: skip


def _size(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray(np.sum(a**2, axis=(-2, -1)) + np.sum(b**2, axis=(-2, -1)))


def late_slope(pair: FactorPair, problem: Quadratic, rate: float) -> list[Number]:
    r"""d log(gap)/dt of `gap_late_slope`, where a start is unbalanced and no mode nearly ties.

    Late, what is left of the faster terms dies as e^{−μt}, μ being the distance of the two smallest
    exponents or the slowest rate of W: by q = e^{−μΔ} from one slope over two decades to the
    next. One such term makes the last slope wrong by its change·q/(1 − q), and several, which may
    cancel in a change, by that of the changes before as well, each shrunk by q. The bar is this,
    or these changes, whichever is larger.
    """
    c, d, r = problem.curvature, problem.target, pair.left.shape[1]
    start = 0.5 * float(np.linalg.norm(pair.left.T @ pair.left - pair.right.T @ pair.right, "nuc"))
    scale = max(float(_size(pair.left, pair.right)), float(np.linalg.norm(d, "nuc")))
    slope, slowest = c * float(gap_late_slope(d, r, rate / c)), _separation(d, r, rate, c)
    visible = math.log(10.0) * _VISIBLE / -slope
    if start < 1e-9 * scale or slowest * visible < _FOLDS:
        return []
    end, apart = soft_threshold(d, rate / c, rank=r), np.linalg.svdvals(d) - rate / c

    def read(run: Trajectory) -> tuple[float, float]:
        found, sizes = pair.read(gap)(run), pair.read(_size)(run)
        w = multiplied(*pair.recorded(run.leaves))
        late = np.linalg.norm(w - end, axis=(-2, -1)) < _LATE * np.min(np.abs(apart))
        return _slope(run.t, *(np.asarray(x) for x in (found.value, found.bar, sizes.value)),
                      late, slowest)  # fmt: skip

    validity = "late times of a start that is unbalanced in all modes, without a tie"
    return [
        Number("late slope of the gap", slope, read, source=SOURCE, validity=validity,
               unit="1/flow time", resolves=0.1),
    ]  # fmt: skip


def _separation(target: np.ndarray, width: int, rate: float, c: float) -> float:
    """The rate at which the slope comes to its limit."""
    s = np.linalg.svdvals(target)
    relaxes = 2.0 * float(np.min(np.abs(c * s - rate)))
    shape = target.shape
    modes = np.zeros(min(width, len(s)) if shape[0] == shape[1] else width)
    modes[: len(s)] = s[: len(modes)]
    exponents = np.sort(np.where(c * modes > rate, 4.0 * rate, 2.0 * (rate + c * modes)))
    later = exponents[exponents > exponents[0] * (1.0 + 1e-9)]
    return min(relaxes, float(later[0] - exponents[0]) if later.size else math.inf)


def _slope(
    t: Times,
    value: Times,
    bar: Times,
    size: Times,
    late: Bool[np.ndarray, " times"],
    slowest: float,
) -> tuple[float, float]:
    """Slope of log(value) over its last two decades above rounding and bars, and its own bar."""
    unseen = ~((value > _SEEN * size) & (value > _BARS * bar))
    last = int(np.flatnonzero(unseen)[0]) - 1 if np.any(unseen) else len(t) - 1
    if last < 0:
        return math.nan, math.nan
    heights = value[last] * 10.0 ** (_DECADES * np.arange(3.0, -1.0, -1.0))
    rows = [int(np.flatnonzero(value[: last + 1] <= height)[0]) for height in heights]
    if rows[0] == 0 or len(set(rows)) < len(rows) or not late[rows[1]]:
        return math.nan, math.nan
    at = t[rows]
    slopes = np.diff(np.log(value[rows])) / np.diff(at)
    off = (bar / value + _ROUNDING * np.sqrt(size / value))[rows[2:]]
    noise = float(np.sum(off)) / float(at[3] - at[2])
    left = math.exp(-slowest * 0.5 * float(at[3] - at[1]))
    drift = abs(slopes[2] - slopes[1]) + left * abs(slopes[1] - slopes[0])
    rest = left / (1.0 - left) if left < 1.0 else math.inf
    return float(slopes[2]), float(drift * max(1.0, rest) + noise)


def tied_modes(pair: FactorPair, problem: Quadratic, rate: float) -> list[Number]:
    r"""d(1/s)/dt = 2c of the modes with d = λ/c, which die as s' = −2c·s².

    Read between half time and the end; what balance and the other modes change of it dies
    exponentially, so that it is below its change since the quarter before: the bar.
    """
    c, d, r = problem.curvature, problem.target, pair.left.shape[1]
    said = predicted_rank(d, rate / c, rank=r)
    if not said.ties or said.ambiguous:
        return []
    tied = slice(int(said.rank), int(said.rank) + int(said.ties))

    def values(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.linalg.svdvals(multiplied(a, b))[..., tied]

    return [
        Number("growth of 1/s in a tie", 2.0 * c, _growth(pair.read(values), 2.0 * c),
               source=SOURCE, validity="late times, W in the tied modes not 0"),
    ]  # fmt: skip


def _growth(
    read: Callable[[Trajectory], Reading], predicted: float
) -> Callable[[Trajectory], tuple[float, float]]:
    def growth(run: Trajectory) -> tuple[float, float]:
        reading, end = read(run), float(run.t[-1])
        rows = [int(np.searchsorted(run.t, x * end, side="right")) - 1 for x in (0.25, 0.5, 1.0)]
        if rows[0] <= 0 or len(set(rows)) < 3:
            return math.nan, math.nan
        t, s, bar = run.t[rows], np.asarray(reading.value)[rows], np.asarray(reading.bar)[rows]
        if not np.all(s > 0.0):
            return math.nan, math.nan
        speeds = np.diff(1.0 / s, axis=0) / np.diff(t)[:, None]
        noise = np.sum((bar / s**2)[1:], axis=0) / (t[2] - t[1])
        k = int(np.argmax(np.abs(speeds[1] - predicted)))
        return float(speeds[1, k]), float(abs(speeds[1, k] - speeds[0, k]) + noise[k])

    return growth
