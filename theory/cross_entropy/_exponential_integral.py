r"""E(b) = ∫₀ᵇ (e^s − 1)/s ds = Ei(b) − ln b − γ and its differences, times e^{−b}.

What is positive stays a sum of positive terms, and nothing overflows.
"""

import numpy as np
from jaxtyping import Float
from scipy.special import expi

_TERMS = 40
#: Ei(b) = (e^b/b) Σ n!/bⁿ to rounding from here on, with 40 terms.
_LATE = 40.0
_X, _SHARES = np.polynomial.legendre.leggauss(16)
_NODES, _SHARES = 0.5 * (_X + 1.0), 0.5 * _SHARES


def scaled(b: Float[np.ndarray, "*t"]) -> Float[np.ndarray, "*t"]:
    """e^{−b}E(b) for b ≥ 0."""
    early, late = np.minimum(b, 1.0), np.maximum(b, _LATE)
    middle = np.clip(b, 1.0, _LATE)
    series, ratio = np.zeros_like(early), np.ones_like(late)
    for n in range(22, 0, -1):
        series = early / n * (1.0 / n + series)
    for n in range(_TERMS, 0, -1):
        ratio = 1.0 + ratio * n / late
    logs = np.log(middle) + np.euler_gamma
    return np.where(
        b < 1.0,
        np.exp(-early) * series,
        np.where(
            b < _LATE,
            np.exp(-middle) * (expi(middle) - logs),
            ratio / late - np.exp(-late) * (np.log(late) + np.euler_gamma),
        ),
    )


def scaled_rise(b0: Float[np.ndarray, "*t"], u: Float[np.ndarray, "*t"]) -> Float[np.ndarray, "*t"]:
    """e^{−b}(E(b) − E(b₀)) for b = b₀eᵘ ≥ b₀, as ∫₀ᵘ (e^{b₀e^v} − 1) dv where b is near b₀."""
    b = b0 * np.exp(u)
    near = (u < 1.0) & (b - b0 < 1.0)
    short = np.where(near, u, 0.0)[..., None]
    s = b0[..., None] * np.exp(short * _NODES)
    last = (b0 * np.exp(short[..., 0]))[..., None]
    small = short[..., 0] * ((np.exp(s - last) * -np.expm1(-s)) @ _SHARES)
    return np.where(near, small, scaled(b) - scaled(b0) * np.exp(b0 - b))
