"""Claims about when transitions happen: from one run, from two, and of transitions that merge."""

import dataclasses
import math

import numpy as np

from gflow import Trajectory
from gflow.internal import Crossing, unit_name

from .._prediction import Prediction
from ._allowance import Allowance, could_be, rate_of
from ._claims import REFUTED, RELATIVE, SHARP, UNDECIDED, Allowed, Claim, judged

#: What a blow-up time is known to, relatively.
ROUNDED = 1e-10
#: Transitions that merge are within so many e-folds of their times.
_INSIDE = 12.0
#: C is not known where it is not predicted; two runs determine both.
_SECOND = "a second run at another α (second=) would decide"


@dataclasses.dataclass(frozen=True, eq=False)
class Timed:
    """A run, where it crosses the levels of a prediction, C at its α and what that is allowed."""

    run: Trajectory
    crossings: list[Crossing | None]
    allowances: list[Allowance]
    offsets: np.ndarray

    def allowed(self, prediction: Prediction, k: int) -> Allowed:
        a, floor = self.allowances[k], prediction.accuracy / rate_of(prediction, k)
        if prediction.order > 2:  # whose times are a power of 1/α
            floor += ROUNDED * prediction.stages[k].tau * self.run.scale
        return Allowed(a.time, a.origin, a.remedy, a.trusted, a.signed, a.rest, a.guess, floor)


def time_claim(prediction: Prediction, k: int, timed: Timed) -> Claim | None:
    """t_k against TΛ + C; None where the run does not reach it."""
    stage, scale, crossing = prediction.stages[k], timed.run.scale, timed.crossings[k]
    allowed, sharp = timed.allowed(prediction, k), SHARP / max(1.0, rate_of(prediction, k))
    if prediction.order > 2:
        sharp = max(sharp, RELATIVE * stage.tau * scale)
    offset = float(timed.offsets[k])
    known = math.isfinite(offset)
    predicted = stage.tau * scale + (offset if known else 0.0)
    if not known:
        bound = could_be(prediction, k, _largest_factor(timed.run))
        origin = "what C could be, which is not predicted"
        allowed, sharp = Allowed(bound, origin, _SECOND), -1.0
    key = f"stage{k + 1}.time"
    if crossing is None:
        reached = predicted + 2.0 * allowed.size < float(timed.run.t[-1])
        if not reached and predicted > float(timed.run.t[-1]):
            return None
        reason = f"{key}: t = {predicted:.6g} predicted, and the level is not crossed"
        verdict = REFUTED if reached and allowed.trusted else UNDECIDED
        nan = math.nan
        return Claim(
            key, predicted, nan, nan, allowed.size, allowed.origin, "flow time", verdict, reason
        )
    return judged(key, predicted, crossing.t, crossing.error, allowed, sharp, "flow time")


def _largest_factor(run: Trajectory) -> float:
    factors = run.fingerprint.factors or {}
    logs = [abs(x) for n, xs in factors.items() if "log|" in n for x in xs if math.isfinite(x)]
    return max(logs, default=3.0)


def limit_claims(prediction: Prediction, k: int, first: Timed, second: Timed) -> list[Claim]:
    r"""T and C from two runs: T̂ = (t₂ − t₁)/(Λ₂ − Λ₁), Ĉ = t₁ − T̂Λ₁, with bars from both."""
    if first.run.scale > second.run.scale:
        first, second = second, first
    one, two = first.crossings[k], second.crossings[k]
    if one is None or two is None:
        return []
    stage, rate = prediction.stages[k], rate_of(prediction, k)
    here, there = first.run.scale, second.run.scale
    gap, a, b = there - here, first.allowances[k], second.allowances[k]
    sum_of = {"T": (1.0 / gap, 1.0 / gap), "C": (there / gap, here / gap)}
    measured = {"T": (two.t - one.t) / gap}
    measured["C"] = one.t - measured["T"] * here
    signed = {"T": (b.signed - a.signed) / gap, "C": (a.signed * there - b.signed * here) / gap}
    sharp = SHARP / max(1.0, rate)
    claims = []
    # where C itself depends on α, what the two runs make of it
    own, other = (float(x.offsets[k]) for x in (first, second))
    drift = (other - own) / gap if math.isfinite(other - own) else 0.0
    powers = prediction.order > 2
    sharp_of_t = RELATIVE * stage.tau if powers else min(sharp / gap * 2.0, 0.01 * stage.tau)
    for what, predicted, limit in (
        ("T", stage.tau + drift, sharp_of_t),
        ("C", own - drift * here, sharp),
    ):
        if not math.isfinite(predicted):
            continue
        u, v = sum_of[what]
        floor = (u + v) * prediction.accuracy / rate
        if powers:
            floor += ROUNDED * stage.tau * (1.0 if what == "T" else here)
        allowed = Allowed(
            u * a.time + v * b.time,
            f"{a.origin}, two runs",
            a.remedy,
            a.trusted and b.trusted,
            signed[what],
            u * a.rest + v * b.rest,
            a.guess and b.guess,
            floor,
        )
        unit = unit_name(prediction.order) if what == "T" else "flow time"
        bar = u * one.error + v * two.error
        if powers and what == "C" and bar > limit:
            continue  # of a power of 1/α, beside which it has no digits
        key = f"stage{k + 1}.{what}"
        claims.append(judged(key, predicted, measured[what], bar, allowed, limit, unit))
    misses = [x.t - stage.tau * at - c for x, at, c in ((one, here, own), (two, there, other))]
    return [
        _not_falling(claim, misses, one.error + two.error, -first.run.log_alpha, a)
        for claim in claims
    ]


def _not_falling(
    claim: Claim, misses: list[float], bar: float, scale: float, allowance: Allowance
) -> Claim:
    """Refute a claim with no bound of its own where the miss does not fall from run to run.

    A remainder α^p falls by that factor; one that keeps its size would need p < 10⁻³.
    """
    before, after = (abs(m) for m in misses)
    if claim.verdict != UNDECIDED or allowance.trusted or not math.isfinite(before):
        return claim
    if (
        scale < 30.0
        or not before > 10.0 * bar + 1e-9
        or not after > math.exp(-1e-3 * scale) * before
    ):
        return claim
    words = f"the miss is {misses[0]:.6g} and then {misses[1]:.6g}: no power of α falls so little"
    return dataclasses.replace(claim, verdict=REFUTED, reason=f"{claim.reason}; {words}")


def merged_claim(prediction: Prediction, group: list[int], timed: Timed, found) -> Claim | None:
    """One visible jump where the prediction says that transitions overtake each other.

    Its time needs an orbit of its own and is not predicted; far outside those of its members
    it is refuted.
    """
    scale = timed.run.scale
    stages = [prediction.stages[i] for i in group]
    offsets = [float(x) for x in timed.offsets[group]]
    known = [x if math.isfinite(x) else 0.0 for x in offsets]
    times = [s.tau * scale + x for s, x in zip(stages, known, strict=True)]
    slack = max(_INSIDE / rate_of(prediction, i) for i in group) + 2.0 * (max(times) - min(times))
    key, end = f"stage{group[0] + 1}–{group[-1] + 1}.time", float(timed.run.t[-1])
    origin = "transitions that merge at this α"
    middle = 0.5 * (min(times) + max(times))
    if found is None:
        if max(times) + slack >= end:
            return None
        measured, bar, verdict = math.nan, math.nan, REFUTED
        words = "the loss does not fall from the plateau before to the one after"
    else:
        measured, bar = found.t, found.error
        outside = not min(times) - slack <= measured <= max(times) + slack
        verdict = REFUTED if outside else UNDECIDED
        words = "far outside its members' times" if outside else "a smaller α separates them"
    reason = (
        f"{key}: members at t = {', '.join(f'{t:.6g}' for t in times)}, one jump measured at "
        f"{measured:.6g}: {words}"
    )
    return Claim(key, middle, measured, bar, slack, origin, "flow time", verdict, reason)
