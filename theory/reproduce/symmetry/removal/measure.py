"""Where the product of two numbers rests, under decay towards zero and towards a point."""

from typing import NamedTuple

import numpy as np

from theory import symmetry

from ... import Report
from ..problem import SYRE, product_at_rest
from ..settings import Settings

TARGET, DECAY, POINT = 0.5, 0.8, (0.05, 0.02)
#: A product relaxes at |λ − m|, and from a plain collapse at least at 0.02.
REST = 900.0


class Removal(NamedTuple):
    """By decay: at rest, towards zero and towards the point; by scale: exact over first order."""

    decays: np.ndarray
    plain: np.ndarray
    pulled: np.ndarray
    scales: np.ndarray
    ratios: np.ndarray


def first_order(target: float, decay: float, a0: float, b0: float) -> float:
    """(λ²/4)(p²/(λ − m)² − q²/(λ + m)²)."""
    p, q = a0 + b0, a0 - b0
    return 0.25 * decay**2 * (p**2 / (decay - target) ** 2 - q**2 / (decay + target) ** 2)


def removal(report: Report, settings: Settings) -> Removal:
    """The collapse below m = λ is softened, the more the nearer the transition."""
    plain, pulled = [], []
    for decay in settings.decays:
        for name, point, into in (("plain", (0.0, 0.0), plain), ("pulled", POINT, pulled)):
            measured, bar = product_at_rest(TARGET, decay, point, REST)
            expected = float(symmetry.softened_product(TARGET, decay, *point))
            # a plain product falls as e^{−2|λ − m|t}
            report.add(
                f"removal.{name}.decay{decay:g}", expected, measured, 1e-9, bar, paper=SYRE,
                text=f"ab at rest, m = {TARGET:g}, λ = {decay:g}, decay towards {point}",
            )  # fmt: skip
            into.append(measured)
    ratios = []
    for scale in settings.scales:
        point = scale * POINT[0], scale * POINT[1]
        measured, bar = product_at_rest(TARGET, DECAY, point, REST)
        first = first_order(TARGET, DECAY, *point)
        expected = float(symmetry.softened_product(TARGET, DECAY, *point))
        report.add(
            f"removal.ratio.scale{scale:g}", expected / first, measured / first, 1e-8,
            bar / first, paper=SYRE,
            text=f"ab over its first order, λ = {DECAY:g}, the point times {scale:g}",
        )  # fmt: skip
        ratios.append(measured / first)
    return Removal(
        np.array(settings.decays), np.array(plain), np.array(pulled),
        np.array(settings.scales), np.array(ratios),
    )  # fmt: skip
