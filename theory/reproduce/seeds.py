"""Means over seeds with their intervals, and the sign of a difference as a claim."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from ._report import Report


class Interval(NamedTuple):
    """Mean over seeds, and half of its 95 % interval by Student's t."""

    mean: float
    half: float


def interval(values: Float[np.ndarray, " seeds"]) -> Interval:
    """Nothing is known of the spread of fewer than two."""
    if len(values) < 2:
        return Interval(float(np.mean(values)) if len(values) else np.nan, np.inf)
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return Interval(float(np.mean(values)), float(half))


def signed(
    report: Report, key: str, sign: float, found: Interval, text: str, *, paper: str | None = None,
    few: str = "too few seeds: more would tell",
) -> None:  # fmt: skip
    """The sign of a difference: refuted where its interval lies on the other side of 0."""
    low, high = found.mean - found.half, found.mean + found.half
    undecided = None
    if not (np.isfinite(low) and np.isfinite(high)):
        undecided = few
    elif low <= 0.0 <= high:
        undecided = f"95 % of the mean: {low:.3f} … {high:.3f}, on both sides of 0"
    measured = 0.0 if undecided else float(np.sign(found.mean))
    report.add(
        key, sign, measured, 0.0, paper=paper, undecided=undecided,
        text=f"sign of: {text}; {found.mean:.3f} ± {found.half:.3f}",
    )  # fmt: skip
