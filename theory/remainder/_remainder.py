r"""What finite α is allowed, from the prediction itself: the remainder of a stage time.

A stage happens at t_k = T_k·Λ + C_k + r_k(α), and r_k is a sum of powers of α that vanish as
α → 0: what dormant weights beside the winner, weights that are still dying and saddles that
are still relaxing have come to at that α. To first order it follows from the connecting orbits
alone (`remainder_solve`); no flow is simulated. Found for this project; in no paper we know.
"""

import dataclasses
import math
import weakref
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from gflow.internal import one_thread

from .._prediction import Prediction
from .._stage import by_leaf
from ..gradual_rank._curves import Curves
from ..gradual_rank._fast_system import assembled
from ..gradual_rank._joint_columns import JointColumns
from ..gradual_rank._saddle_leaf import layout_of
from ._orbit import Path, path_of
from ._plateau import Plateau, plateau_of
from ._solve import Passed, passages

#: The first order is trusted for deviations up to so many e-folds of the winner's growth.
TRUSTED = 0.25
#: A stage is decided where rate times the bound is no more than this.
_DECIDED = 0.05
#: A plateau is there if its loss is within this share of the smaller loss step beside it.
_FORMED = 0.25
#: A mode of a smaller exponent than this is of order one at the start.
_AT_START = 1e-9
#: R·(1.5 + 2q) bounds the remainder where the causes add up to R and q e-folds.
_BOUND, _GROWTH = 1.5, 2.0


@dataclasses.dataclass(frozen=True, eq=False)
class Remainder:
    r"""Of every stage k = 0 … n − 1, in flow time; the plateau fields are of the one after it.

    - `time`: bound on |t_k − (T_k·Λ + C_k)|; ∞ where none is known, and `reason[k]` says why.
    - `signed`: the first-order remainder itself, a better prediction of t_k. NaN where there is
      none; it may vanish by accident, so it is no bound.
    - `efolds`: the largest remainder up to here in e-folds of its winner. The first order is
      trusted up to 0.25.
    - `exponent`: the smallest power of α in the remainder, those of earlier stages included.
    - `decided_at`: log α below which rate·`time` would be ≤ 0.05; NaN where unknown.
    - `loss`, `weights`: bounds on |loss − saddle loss| and on |weight − saddle weight| by leaf
      name, at flow time `match`, where the plateau is best formed.
    - `exists`: whether the plateau is there at this α: its loss within a quarter of the
      smaller loss step beside it.

    States of orbits are known to 2e-12, so that what is below about 1e-10 is rounding.
    """

    time: Float[np.ndarray, " stages"]
    signed: Float[np.ndarray, " stages"]
    efolds: Float[np.ndarray, " stages"]
    exponent: Float[np.ndarray, " stages"]
    decided_at: Float[np.ndarray, " stages"]
    loss: Float[np.ndarray, " stages"]
    weights: list[dict[str, np.ndarray]]
    exists: Bool[np.ndarray, " stages"]
    match: Float[np.ndarray, " stages"]
    reason: list[str]


@dataclasses.dataclass(frozen=True, eq=False)
class _Linearised:
    """What of a prediction does not depend on α."""

    paths: list[Path]
    plateaus: list[Plateau]


_known: "weakref.WeakKeyDictionary[Curves, _Linearised]" = weakref.WeakKeyDictionary()


@one_thread
def remainder(
    prediction: Prediction,
    log_alpha: float | None = None,
    times: Float[np.ndarray, " stages"] | None = None,
    *,
    alpha: float | None = None,
    log10_alpha: float | None = None,
) -> Remainder:
    r"""Bounds on t_k − (T_k·Λ + C_k) and on the plateaus, at one α.

    With y the state along the orbits, y' = v(y, ε), and ε the sizes of what they leave out,

        δ' = (∂v/∂y) δ + (∂v/∂ε) ε(s),   r = −(∂f·δ + ∂f·ε)/f' at the level f of the stage,

    and at each match of two orbits δ gains what the one has not finished less what the other has
    begun. With R the sum over causes of |r| and q = rate·R, the bound is R·(1.5 + 2q).

    **Arguments:** `prediction`: from `theory.gradual_rank.predict`. `log_alpha` < 0, any size
    (the natural logarithm; or `log10_alpha`, or `alpha`).
    `times`: flow times of the stages, those predicted unless given. To second order it does not
    matter where the orbits are placed; measured times do not depend on what is claimed of them.

    **Returns:** a `Remainder`; times are flow times.

    **Raises:** ValueError for a prediction without connecting orbits, log_alpha not in (−∞, 0).

    **Regime:** `efolds` ≤ 0.25; 360 stages of 16 problems at α = 1e-4 … 1e-64 lay inside, the
    first order itself within 1 % in the median.

    ```python
    theory.remainder.remainder(pred, -74.0).time
    ```
    """
    finite = prediction.at(log_alpha, alpha=alpha, log10_alpha=log10_alpha)
    curves = prediction.orbits
    if not isinstance(curves, Curves):
        raise ValueError(
            f"{prediction.source} gives saddles and times without the orbits between them, so "
            "what finite α adds is not known; theory.gradual_rank.predict gives both."
        )
    n = len(prediction.stages)
    placed = finite.t if times is None else times
    placed = np.concatenate([[prediction.start.tau * finite.scale], placed])
    passed: list[Passed] = []
    exponent = np.full(n, math.nan)
    reason = _unknown(curves)
    if n and not reason:
        known = _known.get(curves)
        # where numbers overflow nothing is known, and it is said
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            if known is None:
                known = _known[curves] = _linearise(prediction, curves)
            passed, reason = passages(known.paths, known.plateaus, placed, finite.scale)
            exponent = _exponents(prediction, known.paths)
    return _assemble(prediction, curves, passed, placed, exponent, finite.log_alpha, reason)


def _unknown(curves: Curves) -> str:
    """Why there is no remainder for any stage, or nothing."""
    if any(isinstance(part, JointColumns) for part in curves.plateaus[0]):
        return "what dormant columns that heads share add at finite α is not worked out"
    for part in curves.plateaus[0]:
        exponents = [part.exponent_and_size(i)[0] for i in range(len(part.candidates().wait))]
        if part.active or min(exponents, default=1.0) <= _AT_START:
            return "how far an active start is from its first saddle is not followed"
    return ""


def _linearise(prediction: Prediction, curves: Curves) -> _Linearised:
    plateaus = zip(curves.plateaus[:-1], curves.plateaus[1:], strict=True)
    stages = zip(curves.orbits, prediction.stages, plateaus, strict=True)
    paths = [path_of(orbit, stage, *around) for orbit, stage, around in stages]
    ends = zip(curves.orbits, curves.plateaus[1:], strict=True)
    return _Linearised(paths, [plateau_of(orbit, parts) for orbit, parts in ends])


def _exponents(prediction: Prediction, paths: list[Path]) -> np.ndarray:
    """The smallest power of α in each remainder, and in those before it."""
    taus = np.array([prediction.start.tau, *(s.tau for s in prediction.stages)])
    start = np.concatenate([m.exponents(0.0) for m in paths[0].modes])
    out, least = [], 2.0 * float(np.nanmin(start, initial=math.inf))
    for path, length in zip(paths, np.diff(taus), strict=True):
        left = np.concatenate([m.exponents(float(length)) for m in path.modes])
        found = [2.0 * e for e in left if e > 1e-9]
        found += [length * rate for rate in path.relaxations()]
        least = min([least, *found])
        out.append(least)
    return np.array(out)


def _assemble(
    prediction: Prediction,
    curves: Curves,
    passed: list[Passed],
    times: np.ndarray,
    exponent: np.ndarray,
    log_alpha: float,
    reason: str,
) -> Remainder:
    n, done = len(prediction.stages), len(passed)
    total, signed, loss, match = (np.full(n, x) for x in (math.inf, math.nan, math.inf, math.nan))
    weights: list[dict[str, np.ndarray]] = []
    for k, p in enumerate(passed):
        total[k] = np.nan_to_num(np.sum(np.abs(p.late)), nan=math.inf)
        signed[k] = np.sum(p.late[~p.second])
        # a plateau on which the size of some mode is not known has no bound
        loss[k], match[k] = np.nan_to_num(p.loss, nan=math.inf), times[k + 1] + p.lag
        weights.append(_by_leaf(curves, np.nan_to_num(p.weights, nan=math.inf)))
    for stage in prediction.stages[done:]:
        weights.append({n: np.full(v.shape, math.inf) for n, v in by_leaf(stage.value).items()})
    rate = np.array([s.rate for s in prediction.stages])
    efolds = np.maximum.accumulate(rate * total)
    with np.errstate(invalid="ignore"):
        time = total * (_BOUND + _GROWTH * rate * total)
    losses = np.array([prediction.start.loss, *(s.loss for s in prediction.stages)])
    steps = np.append(np.abs(np.diff(losses)), math.inf)
    exists = loss <= _FORMED * np.minimum(steps[:-1], steps[1:])
    exists &= np.append(np.diff(times[1:]) > 0.0, np.ones(min(n, 1), bool))
    late = np.maximum(rate * time, _DECIDED)
    with np.errstate(divide="ignore", invalid="ignore"):
        decided = log_alpha + np.where(late > _DECIDED, np.log(_DECIDED / late) / exponent, 0.0)
    decided = np.where(np.isfinite(decided), decided, math.nan)
    return Remainder(
        time, signed, efolds, exponent, decided, loss, weights, exists, match,
        [""] * done + [reason] * (n - done),
    )  # fmt: skip


def _by_leaf(curves: Curves, flat: np.ndarray) -> dict[str, Any]:
    """Flattened weights of all pieces, leaf by leaf."""
    shapes = [p.weight.shape for p in curves.plateaus[0]]
    cuts = np.cumsum([math.prod(s) for s in shapes])[:-1]
    parts = [x.reshape(s) for x, s in zip(np.split(flat, cuts), shapes, strict=True)]
    whole = assembled(parts, layout_of(curves.plateaus[0]), curves.names)
    return {name: np.asarray(x) for name, x in whole.items()}
