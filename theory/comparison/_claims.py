"""A claim of a prediction beside what the run says: confirmed, refuted or undecided."""

import dataclasses
import math

#: A claim about a time is confirmed when it is known to this, in e-folds and in flow time.
SHARP = 0.05
#: Of saddles of order three and more, left after a power of 1/α: when known to this share of it.
RELATIVE = 1e-4
#: A loss or a weight is confirmed when it is known to this share of the step beside it.
SHARE = 0.02

CONFIRMED, UNDECIDED, REFUTED = "confirmed", "undecided", "refuted"

#: From the best to the worst.
VERDICTS = {
    CONFIRMED: "met within the solver's bar and what finite α is allowed, both small",
    UNDECIDED: "this run cannot tell; the reason says what would",
    REFUTED: "outside what the solver's bar and finite α allow: the theory, or another problem",
}


def worst(verdicts: list[str]) -> str:
    """The worst of several verdicts; nothing judged is undecided."""
    order = list(VERDICTS)
    return order[max((order.index(v) for v in verdicts), default=1)]


@dataclasses.dataclass(frozen=True)
class Claim:
    """One statement of a prediction, judged.

    - `key`: stable name, as "stage2.time". `predicted`, `measured`: numbers in `unit`, or labels.
    - `bar`: the solver's error bar. `allowance`: what finite α may amount to, inf where no bound
      is known; `origin`: where the allowance comes from.
    - `verdict`, `reason`: one of VERDICTS and the sentence behind it.
    """

    key: str
    predicted: float | str
    measured: float | str
    bar: float
    allowance: float
    origin: str
    unit: str
    verdict: str
    reason: str

    @property
    def miss(self) -> float:
        """Measured minus predicted; NaN for labels that agree, inf for labels that differ."""
        if isinstance(self.predicted, str) or isinstance(self.measured, str):
            return math.nan if self.predicted == self.measured else math.inf
        return self.measured - self.predicted

    @property
    def tolerance(self) -> float:
        """What a miss may amount to: the allowance and twice the bar."""
        return self.allowance + 2.0 * self.bar

    @property
    def z(self) -> float:
        """Miss over the solver's bar."""
        if not self.bar > 0:
            return math.nan if math.isnan(self.miss) else math.copysign(math.inf, self.miss)
        return self.miss / self.bar


@dataclasses.dataclass(frozen=True)
class Allowed:
    """What finite α may add to a number, and how far it is to be believed.

    `size`: the bound. `signed`: the part of it that is predicted with its sign, known to `rest`.
    `guess`: no bound stands behind `size`, so that a number met without it is met.
    `trusted`: whether the bound holds; beyond it only a miss ten times as large refutes.
    `floor`: what rounding adds to bound and bar. `remedy`: what would make it smaller.
    `what`: whose size it is.
    """

    size: float
    origin: str
    remedy: str
    trusted: bool = True
    signed: float = 0.0
    rest: float = math.inf
    guess: bool = False
    floor: float = 0.0
    what: str = "finite α"


def judged(
    key: str,
    predicted: float,
    measured: float,
    bar: float,
    allowed: Allowed,
    sharp: float,
    unit: str,
) -> Claim:
    r"""Judge one number.

    With b = allowance + 2·bar: a miss above 2b refutes; one below b confirms where b is at most
    `sharp`, below which two theories worth telling apart differ. In between, and where a bound
    is not to be trusted, the run cannot tell.
    """
    predicted, measured = float(predicted), float(measured)
    miss = abs(measured - predicted)
    b = allowed.size + 2.0 * bar + allowed.floor
    numbers = f"{key}: {predicted:.8g} predicted, {measured:.8g} measured, a miss of {miss:.2g}"
    bounds = f"bar {bar:.1g}, {allowed.what} {allowed.size:.1g} from {allowed.origin}"

    def claim(verdict: str, words: str) -> Claim:
        reason = f"{numbers} {unit}".strip() + f" ({bounds}): {words}"
        return Claim(
            key, predicted, measured, bar, allowed.size, allowed.origin, unit, verdict, reason
        )

    if not math.isfinite(measured):
        return claim(UNDECIDED, "the run does not give it")
    if not math.isfinite(predicted):
        return claim(UNDECIDED, "the prediction does not give it")
    if math.isnan(allowed.size):
        return claim(UNDECIDED, f"what {allowed.what} adds is not known; {allowed.remedy}")
    if math.isnan(bar):
        certain = math.isfinite(allowed.size) and miss > 10.0 * (allowed.size + sharp)
        if certain:
            return claim(REFUTED, "beyond any error of the solver")
        return claim(UNDECIDED, "the run has no error bars; simulate with error_bars=True")
    rest = allowed.rest + 2.0 * bar + allowed.floor
    near = abs(measured - predicted - allowed.signed) <= rest <= sharp
    if near and allowed.guess:
        return claim(CONFIRMED, f"met to {rest:.1g}")
    if not allowed.trusted:
        if miss > 10.0 * b:
            return claim(REFUTED, "ten times what finite α is estimated at")
        return claim(UNDECIDED, f"finite α is not small here; {allowed.remedy}")
    if miss > 2.0 * b:
        times = f"{miss / b:.3g} times what is allowed" if b else "nothing is allowed"
        return claim(REFUTED, times)
    if miss > b:
        return claim(UNDECIDED, f"{miss / b:.2g} times what is allowed; {allowed.remedy}")
    b = min(b, rest) if near else b
    if b > sharp:
        decisive = "a tighter rtol" if 2.0 * bar > 0.5 * b else allowed.remedy
        return claim(UNDECIDED, f"consistent, but known to {b:.1g} only; {decisive}")
    return claim(CONFIRMED, f"met to {b:.1g}")


def label_claim(key: str, predicted: str, measured: str, verdict: str, words: str) -> Claim:
    """A claim about names instead of numbers."""
    reason = f"{key}: {predicted} predicted, {measured} in the run: {words}"
    return Claim(key, predicted, measured, 0.0, 0.0, "", "", verdict, reason)
