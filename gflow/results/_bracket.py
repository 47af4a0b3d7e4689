"""Roots between two steps."""

from collections.abc import Callable

from scipy import optimize


def bracketed_root(gap: Callable[[float], float], width: float) -> float:
    """The root of `gap` between 0 and `width`, by Brent's method."""
    root, _ = optimize.brentq(gap, 0.0, width, xtol=1e-15 * width, full_output=True)
    return float(root)
