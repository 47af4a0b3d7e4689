"""Inverse participation of softmax over Gaussian logits of standard deviation β√(ln n)."""

import math
from typing import NamedTuple

import numpy as np

from theory import depth_collapse

from ... import Report
from ..settings import Settings

PAPER = "Giorlandino & Goldt 2025, arXiv 2505.24333"
ABOVE, BELOW = 2.0, 0.5


class Logits(NamedTuple):
    """1/ln n, and by β the mean of Y with three standard errors."""

    inverse_log: np.ndarray
    means: dict[float, np.ndarray]
    bars: dict[float, np.ndarray]


def logits(report: Report, settings: Settings) -> Logits:
    sizes = np.array([n for n, _ in settings.logits], float)
    means, bars = {}, {}
    for beta, share in ((ABOVE, 1), (BELOW, 10)):
        rng = np.random.default_rng(4)
        drawn = [_participations(n, draws // share, beta, rng) for n, draws in settings.logits]
        means[beta] = np.array([np.mean(y) for y in drawn])
        bars[beta] = np.array([3.0 * np.std(y) / math.sqrt(len(y)) for y in drawn])
    inverse = 1.0 / np.log(sizes)
    y, bar = means[ABOVE], bars[ABOVE]
    slope, limit = np.polyfit(inverse, y, 1, w=1.0 / bar)
    expected = float(depth_collapse.participation(ABOVE, 1.0, 0.0))
    of_slope, weights = np.polyfit(inverse, np.eye(len(y)), 1, w=1.0 / bar)
    least = float(slope) - float(np.sqrt(np.sum((of_slope * bar) ** 2)))
    report.add(
        "logits.above.falls", 1.0, float(least > 0.0), 0.0, 0.0, paper=PAPER,
        text=f"Y falls with n, β = {ABOVE:g}: {', '.join(f'{v:.3f}' for v in y)}",
    )  # fmt: skip
    report.add(
        "logits.above.limit", expected, float(limit), abs(float(slope)) * float(inverse[-1]),
        float(np.sqrt(np.sum((weights * bar) ** 2))), paper=PAPER,
        text=f"Y from a straight line in 1/ln n, β = {ABOVE:g}; allowed: how far it goes beyond "
        f"n = {sizes[-1]:.0f}",
    )  # fmt: skip
    y, bar = means[BELOW], bars[BELOW]
    power = float(np.log(y[-1] / y[-2]) / np.log(sizes[-1] / sizes[-2]))
    report.add(
        "logits.below.power", BELOW**2 - 1.0, power, float(inverse[-1]),
        float(np.hypot(*(bar / y)[-2:]) / np.log(sizes[-1] / sizes[-2])), paper=PAPER,
        text=f"Y ~ n^(β² − 1) for β below β_c/2, β = {BELOW:g}; allowed 1/ln n",
    )  # fmt: skip
    return Logits(inverse, means, bars)


def _participations(n: int, draws: int, beta: float, rng: np.random.Generator) -> np.ndarray:
    found = []
    for _ in range(draws):
        z = np.exp(beta * math.sqrt(math.log(n)) * rng.standard_normal(n))
        found.append(np.sum(z**2) / np.sum(z) ** 2)
    return np.array(found)
