"""A row of report.json, and how numbers and claims are judged for it."""

import dataclasses
import math

from ..comparison._claims import VERDICTS, Claim


@dataclasses.dataclass(frozen=True)
class Finding:
    """A row of report.json: predicted beside measured, the verdict and its numbers.

    `quantity` is a stable key: it names what is compared and with which inputs, never how it
    came out. `verdict` is confirmed, refuted or undecided; `reason` is a statement with numbers.
    """

    quantity: str
    unit: str
    paper: str
    predicted: float
    measured: float
    error_bar: float
    tolerance: float
    verdict: str
    reason: str
    passed: bool


def judged(
    predicted: float, measured: float, tolerance: float, error_bar: float
) -> tuple[str, str]:
    """The verdict on |measured − predicted| ≤ tolerance where measured is known to ± error_bar.

    Beyond tolerance + error_bar it is refuted, within it confirmed. An error bar above the
    tolerance cannot confirm anything: what lies within such a bar is undecided.
    """
    if not (math.isfinite(predicted) and math.isfinite(measured)):
        return "refuted", f"{measured:.6g} measured where {predicted:.6g} is predicted"
    miss = abs(measured - predicted)
    numbers = f"{miss:.2g} off; {tolerance:.2g} allowed, error bar {error_bar:.2g}"
    if miss > tolerance + error_bar:
        return "refuted", numbers
    if not error_bar <= tolerance:
        return "undecided", f"{numbers}: a tighter rtol would decide"
    return "confirmed", numbers


def badness(claim: Claim) -> tuple[int, float]:
    """How bad the verdict on a claim is, then its miss over what is allowed."""
    miss = abs(claim.miss)
    over = 0.0
    if miss > 0.0:
        over = miss / claim.tolerance if claim.tolerance > 0.0 else math.inf
    return list(VERDICTS).index(claim.verdict), over
