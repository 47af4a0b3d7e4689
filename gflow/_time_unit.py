"""The unit of τ: log(1/α) where a saddle is left exponentially, a power of 1/α where it is not."""

import math


def time_unit(log_alpha: float, order: int = 2) -> float:
    """log(1/α) near saddles of order two, α^{−(D−2)} near those of order D > 2.

    w' = w^{D−1} from w = α takes a time α^{−(D−2)}/(D − 2) to leave.

    **Raises:** OverflowError where that is no float.
    """
    if order == 2:
        return -log_alpha
    return math.exp(-(order - 2) * log_alpha)


def unit_name(order: int) -> str:
    """What τ counts time in."""
    return "log(1/α)" if order == 2 else "1/α" if order == 3 else f"1/α^{order - 2}"


def tau_definition(order: int) -> str:
    """τ as a formula, for people."""
    return f"t/{unit_name(order)}" if order == 2 else "α t" if order == 3 else f"α^{order - 2} t"


def tau_label(order: int = 2) -> str:
    """The label of an axis of τ."""
    if order == 2:
        return r"rescaled time $\tau = t\,/\,\log(1/\alpha)$"
    power = "" if order == 3 else f"^{{{order - 2}}}"
    return rf"rescaled time $\tau = \alpha{power}\,t$"
