"""What finite α may add to the times and plateaus of a prediction.

With connecting orbits `theory.remainder` solves for it. Without them a time is allowed

    100·α^p (1/rate + |C(α) − C|),

and a plateau 100·α^p of the largest weight and loss step. p is the smallest exponent of this
stage and those before: the one the prediction states (`Stage.exponent`), else a tenth of the
smallest of its margins, its plateau lengths (times rates) and its rival's 2e. The 100 and the
tenth are guesses on the safe side, which nothing proves: what is met without them is met, and
beyond a quarter of an e-fold they are not trusted.
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Float

from .._prediction import Prediction
from .._stage import Stage, by_leaf
from ..remainder import Remainder, remainder
from ..remainder._remainder import TRUSTED

#: Amplitude of a power of α where only its exponent is known, in e-folds.
_AMPLITUDE = 100.0
#: Measured times as near as this to the predicted ones, in e-folds, have the same bounds.
_AS_PREDICTED = 1e-3
#: Margins, in widths of a drop, below which two units of order three and more are live together.
_TIE = 3.0
#: What an exponent estimated from margins and plateau lengths is divided by.
_DOUBT = 10.0


@dataclasses.dataclass(frozen=True)
class Allowance:
    """Of one stage at one α.

    `time`: bound on |t − (TΛ + C)| in flow time, of which `signed` is predicted to within `rest`;
    `efolds`: the largest of this stage and those before, in e-folds. `decided_at`: log α at which
    it is small. Of the plateau after it: `loss`, `weights` (by leaf) bound the distance from the
    saddle at `match` after the transition (None: where it rests); `exists`.
    `guess`: no bound stands behind these sizes; `why`: why there is none.
    """

    log_alpha: float
    time: float
    signed: float
    rest: float
    efolds: float
    exponent: float
    decided_at: float
    exists: bool
    origin: str
    loss: float
    weights: dict[str, np.ndarray]
    match: float | None = None
    guess: bool = False
    why: str = ""

    @property
    def trusted(self) -> bool:
        return self.efolds <= TRUSTED

    @property
    def remedy(self) -> str:
        """What would decide: a smaller α where that is known to help."""
        if self.why:
            return self.why
        if not self.decided_at < self.log_alpha:
            return "a smaller α would decide"
        return f"α ≤ 1e{math.floor(self.decided_at / math.log(10.0))} would decide"


def allowances(
    prediction: Prediction, log_alpha: float, measured: Float[np.ndarray, " stages"] | None = None
) -> list[Allowance]:
    """One a stage, at α = e^log_alpha.

    `measured`: flow times of the stages in a run, NaN where it does not show them. A bound is
    worked out for plateaus as long as predicted, and as long as measured; to second order either
    is one, so that a wrong time does not widen its own allowance: the smaller one counts.
    """
    predicted = prediction.at(log_alpha).t
    found = _allowed(prediction, log_alpha, predicted)
    if measured is None:
        return found
    placed = np.where(np.isnan(measured), predicted, measured)
    rates = np.array([rate_of(prediction, k) for k in range(len(prediction.stages))])
    if np.all(np.abs(placed - predicted) * rates < _AS_PREDICTED):
        return found
    other = _allowed(prediction, log_alpha, placed)
    return [two if two.time < one.time else one for one, two in zip(found, other, strict=True)]


def _allowed(prediction: Prediction, log_alpha: float, times: np.ndarray) -> list[Allowance]:
    orbits = prediction.orbits
    if prediction.order > 2:
        return _estimated(prediction, log_alpha, times)
    if orbits is not None and len(orbits.orbits) == len(prediction.stages):
        found = remainder(prediction, log_alpha, times)
        if np.any(np.isfinite(found.time)):
            return _derived(prediction, found, log_alpha, times)
        return _estimated(prediction, log_alpha, times, found.reason[0])
    return _estimated(prediction, log_alpha, times)


def _derived(
    prediction: Prediction, found: Remainder, log_alpha: float, times: np.ndarray
) -> list[Allowance]:
    out = []
    for k, stage in enumerate(prediction.stages):
        size, time = float(found.time[k]), found.match[k]
        signed = float(found.signed[k])
        share = 0.3 + stage.rate * size
        out.append(
            Allowance(
                log_alpha=log_alpha,
                time=size,
                signed=signed if math.isfinite(signed) else 0.0,
                rest=size * share if math.isfinite(signed) else math.inf,
                efolds=float(found.efolds[k]),
                exponent=float(found.exponent[k]),
                decided_at=float(found.decided_at[k]),
                exists=bool(found.exists[k]),
                origin=f"the orbits, α^{float(found.exponent[k]):.3g}"
                if math.isfinite(size)
                else "no bound",
                loss=float(found.loss[k]),
                weights=dict(found.weights[k]),
                match=float(time - times[k]) if math.isfinite(time) else None,
                why=found.reason[k],
            )
        )
    return out


def _estimated(
    prediction: Prediction, log_alpha: float, times: np.ndarray, why: str = ""
) -> list[Allowance]:
    out: list[Allowance] = []
    # a time that is not predicted (NaN) overtakes nothing
    exists = np.append(~(np.diff(times) <= 0), True)
    exponent, time, certain = math.inf, 0.0, True
    before, finite = prediction.start, prediction.at(log_alpha)
    turned = np.nan_to_num(np.abs(finite.offset - [s.offset for s in prediction.stages]), nan=0.0)
    saddles = [by_leaf(x.value) for x in (before, *prediction.stages)]
    largest = {n: np.max([np.max(np.abs(s[n]), initial=0.0) for s in saddles]) for n in saddles[0]}
    for k, stage in enumerate(prediction.stages):
        rate = rate_of(prediction, k)
        own = stage.exponent
        if math.isnan(own):
            length = (times[k] - times[k - 1]) / -log_alpha if k else math.nan
            own = _guessed(stage, rate, length) / _DOUBT
        exponent, certain = min(exponent, max(own, 0.0)), certain and bool(exists[k - 1] or k == 0)
        # near a tie both become live, and the next one leaves at another pace
        certain = certain and (prediction.order == 2 or stage.margin * finite.scale * rate > _TIE)
        efolds = _AMPLITUDE * math.exp(max(exponent * log_alpha, -1e4)) if certain else math.inf
        # of what turns dormant units at this α a share of the same size is left
        time = max(time, efolds * (1.0 / rate + float(turned[k])))
        # dormant units are of size α; what live ones are off by is less
        moved = efolds if prediction.order == 2 else _AMPLITUDE * math.exp(log_alpha)
        helps = exponent > 0 and math.isfinite(exponent)
        out.append(
            Allowance(
                log_alpha=log_alpha,
                time=time,
                signed=0.0,
                rest=0.0,
                guess=True,
                efolds=time * rate,
                exponent=exponent,
                decided_at=math.log(0.05 / _AMPLITUDE) / exponent if helps else math.nan,
                exists=bool(exists[k]) and efolds <= TRUSTED,
                origin=f"an estimate, α^{exponent:.3g}" + (f"; {why}" if why else ""),
                loss=efolds * abs(stage.loss - before.loss),
                weights={
                    n: np.asarray(moved * x) if x else np.zeros(()) for n, x in largest.items()
                },
            )
        )
        before = stage
    return out


def _guessed(stage: Stage, rate: float, plateau: float) -> float:
    """A power of α of the order of those in the remainder, from what a stage says."""
    candidates = [20.0, rate * plateau if math.isfinite(plateau) else 20.0]
    if stage.rival is not None:
        candidates.append(2.0 * stage.rival[1])
    elif math.isfinite(stage.margin):
        candidates.append(rate * stage.margin)
    return min(candidates)


def rate_of(prediction: Prediction, k: int) -> float:
    """The winner's growth rate; where it is not given, 1/(length of its plateau)."""
    stage = prediction.stages[k]
    if math.isfinite(stage.rate) and stage.rate > 0:
        return stage.rate
    before = prediction.stages[k - 1].tau if k else prediction.start.tau
    plateau = stage.tau - before
    return 1.0 / plateau if plateau > 0 else 1.0


def could_be(prediction: Prediction, k: int, factors: float) -> float:
    """How large |C| of stage k could be where it is not predicted, in flow time: generous.

    C adds up, over the stages, (log-size on the orbit − log of the O(1) factor)/rate: ten times
    what levels and factors (|log factor| ≤ `factors`) make of that.
    """
    total = 0.0
    for i, stage in enumerate(prediction.stages[: k + 1]):
        size = 1.0
        level = stage.level
        if level is not None and level.coordinate is not None and level.value != 0:
            size = abs(level.value)
        total += (0.5 * abs(math.log(4.0 * size)) + factors + 1.0) / rate_of(prediction, i)
    return 10.0 * total
