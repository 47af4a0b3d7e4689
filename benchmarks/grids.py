"""The scales α and the times at which trajectories are compared."""

import math

import numpy as np

LOG10 = math.log(10.0)

#: −log₁₀ α of the main problem; the last two are below float64.
EXPONENTS = (2, 4, 8, 16, 32, 100, 300, 10_000, 1_000_000)

#: Distance kept from a jump, in e-folds of the factor that grows.
MARGIN = 4.0

POINTS = 60


def alpha_name(exponent: int) -> str:
    """α = 10^−exponent, as printed."""
    return f"1e-{exponent}" if exponent < 1000 else f"10^-{exponent}"


def evaluation_times(
    jumps: np.ndarray, rates: np.ndarray, t1: float, points: int = POINTS
) -> tuple[np.ndarray, bool]:
    """Times in (0, t1) at least MARGIN e-folds away from every jump, and whether they are.

    Between jumps the weights rest, so that the error there is that of the dynamics and
    not the steepness of a jump times a rounding of its time. Every plateau gets as
    many times, its two edges included; plateaus too short to have any are left out.
    Where most are (large α) the grid is uniform and crosses the jumps.
    """
    order = np.argsort(jumps)
    jumps, gaps = jumps[order], MARGIN / rates[order]
    lower = np.concatenate([[0.0], np.maximum.accumulate(jumps + gaps)])
    upper = np.concatenate([np.minimum.accumulate((jumps - gaps)[::-1])[::-1], [t1]])
    long = upper > lower
    if len(jumps) == 0 or 2 * np.sum(long) < len(long):
        return np.linspace(0.0, t1, points + 1)[1:], False
    counts = [len(part) for part in np.array_split(np.arange(points), int(np.sum(long)))]
    windows = [
        np.linspace(a, b, n + 1)[1:] if a == 0.0 else np.linspace(a, b, n)  # not the start
        for a, b, n in zip(lower[long], upper[long], counts, strict=True)
    ]
    return np.concatenate(windows), True
