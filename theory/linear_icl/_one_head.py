r"""The growing head of a drop: x' = x²(1 − x³), solved implicitly and inverted to rounding."""

import math

import numpy as np
from jaxtyping import Float
from scipy import special

from .._arguments import Numbers, real_array, times
from ._problem import pairs

_ROOT = math.sqrt(3.0)
#: 1/x − R(x) at x = ½, the border between two variables.
_BORDER = 1.0 / 0.5 - sum(0.5 ** (3 * n + 2) / (3 * n + 2) for n in range(18))
_ITERATIONS = 80


def one_head(
    eigenvalue: Numbers, trace: Numbers, context: float, v0: Numbers, t: Numbers
) -> Float[np.ndarray, "..."]:
    r"""v(t) of the head that learns an eigenvector: value, key and query of one size v.

        v' = λ²v² − λ³(1 + (1 + tr Λ/λ)/N) v⁵ = λ²v²(1 − x³),   x = v/κ
        κ = (λ(1 + (1 + tr Λ/λ)/N))^{−1/3}

    implicitly λ²κ t = Φ(x) − Φ(x₀), Φ(x) = −1/x + ∫₀ˣ ξ dξ/(1 − ξ³), here inverted to rounding
    (v is ill-conditioned where λ²v₀t is within rounding of 1: the blow-up of 1/v₀ − λ²t). A power
    law: the escape takes 1/(λ²v₀), not a logarithm of v₀.

    **Arguments:** `eigenvalue` λ > 0, `trace` tr Λ (with labels of noise σ², tr Λ + σ²), `v0` > 0
    from 1e-300 to any size (above κ it comes down to it), `t ≥ 0` of any shape, ∞ included. They
    broadcast; `context` N. Clock: θ' = −½ ∂E(y − ŷ)²/∂θ (τ = 1), the flow time of the
    "half_mean" of `gflow.objectives.InContextRegression`.

    **Raises:** ValueError for λ, v0 ≤ 0, a trace below λ, N < 1, t < 0, float32.
    **Regime:** exact for one head with k = q = v e_d while the others are 0, or learned.
    **Source:** 2501.16265, eq. 21, where no explicit solution is known.

    ```python
    one_head(0.4, 1.0, 31, 1e-100, [1e100, 1e102])        # still small, then κ
    ```
    """
    lam, trace = real_array(eigenvalue, "eigenvalue"), real_array(trace, "trace")
    v0, t = real_array(v0, "v0"), times(t)
    if np.any(lam <= 0) or np.any(v0 < 1e-300):
        raise ValueError(
            f"eigenvalue = {eigenvalue}, v0 = {v0}: give λ > 0 and v0 of at least 1e-300. A head "
            "of v = k = q < 0 returns to zero and never learns; at zero it stays."
        )
    shape = np.broadcast_shapes(lam.shape, trace.shape, v0.shape, t.shape)
    lam, trace, v0, t = (np.broadcast_to(x, shape).ravel() for x in (lam, trace, v0, t))
    if np.any(trace < lam):
        raise ValueError(f"trace = {trace} is below eigenvalue = {lam}: it is the sum of all.")
    kappa = np.cbrt(1.0 / (lam + (lam + trace) / pairs(context)))
    passed = lam**2 * kappa * t
    ahead = (kappa - v0) / kappa
    x = np.where(v0 < kappa, _rising(v0 / kappa, ahead, passed), _falling(np.abs(ahead), passed))
    still = (t == 0) | (v0 == kappa)
    return np.where(still, v0, kappa * np.where(np.isinf(t), 1.0, x)).reshape(shape)


def until(x: float, ahead: float | None = None) -> float:
    """1/x − R(x): how long before its blow-up time, in units of 1/(λ²κ), a head is at x < 1."""
    gap = 1.0 - x if ahead is None else ahead
    return 1.0 / x - float(_integral(np.asarray(x), np.asarray(gap)))


def _integral(x: np.ndarray, ahead: np.ndarray) -> np.ndarray:
    """R(x) = ∫₀ˣ ξ dξ/(1 − ξ³) for 0 < x < 1, with `ahead` = 1 − x."""
    small = np.minimum(x, 0.5)
    series = sum(small ** (3 * n + 2) / (3 * n + 2) for n in range(18))
    closed = (
        -np.log(ahead) / 3.0 + np.log1p(x + x**2) / 6.0
        - (np.arctan((2.0 * x + 1.0) / _ROOT) - math.pi / 6.0) / _ROOT
    )  # fmt: skip
    return np.where(x < 0.5, series, closed)


def _rising(x: np.ndarray, ahead: np.ndarray, passed: np.ndarray) -> np.ndarray:
    """Below κ, f(x) = 1/x − R(x) falls as time passes: f(x) = f(x₀) − `passed`."""
    inside = (x < 1.0) & np.isfinite(passed)
    x, ahead = np.where(inside, x, 0.5), np.where(inside, ahead, 0.5)
    target = 1.0 / x - _integral(x, ahead) - np.where(inside, passed, 0.0)
    # early: w = 1/x, w − R = target, of slope 1/(1 − x³) between 1 and 8/7
    w = np.maximum(target, 2.0)
    for _ in range(12):
        early = 1.0 / w
        w = np.maximum(w - (w - _integral(early, 1.0 - early) - target) * (1.0 - early**3), 1.9)
    # late: y = logit x, in which f is convex, so that Newton's method converges from the left
    aim = np.clip(target, -20.0, _BORDER)  # beyond, x is 1 to rounding
    y = np.zeros_like(aim)
    for _ in range(_ITERATIONS):
        late, gap = special.expit(y), special.expit(-y)
        step = (1.0 / late - _integral(late, gap) - aim) * late * (1.0 + late + late**2)
        y = y + step
        if np.all(np.abs(step) <= 1e-15 * (1.0 + np.abs(y))):
            break
    return np.where(target > _BORDER, 1.0 / w, special.expit(y))


def _falling(above: np.ndarray, passed: np.ndarray) -> np.ndarray:
    """Above κ, G(x) = ∫ₓ^∞ dξ/(ξ²(ξ³ − 1)) grows as time passes; `above` = x₀ − 1."""
    inside = (above > 0.0) & np.isfinite(passed)
    y0 = np.log(np.where(inside, above, 1.0))
    target = _tail(y0) + np.where(inside, passed, 0.0)
    # G is convex in y = log(x − 1), e^{−4y}/4 far above and −y/3 near κ
    target = np.minimum(target, 20.0)
    y = np.where(target > 0.2, -3.0 * target, -0.25 * np.log(4.0 * target))
    for _ in range(_ITERATIONS):
        x = 1.0 + np.exp(y)
        step = (_tail(y) - target) * x**2 * (1.0 + x + x**2)
        y = y + step
        if np.all(np.abs(step) <= 1e-15 * (1.0 + np.abs(y))):
            break
    return 1.0 + np.exp(y)


def _tail(y: np.ndarray) -> np.ndarray:
    x = 1.0 + np.exp(y)
    far = np.maximum(x, 2.0)
    series = sum(far ** -(3.0 * n + 4.0) / (3 * n + 4) for n in range(17))
    closed = (
        -y / 3.0 + np.log1p(x + x**2) / 6.0
        - (np.arctan((2.0 * x + 1.0) / _ROOT) - math.pi / 2.0) / _ROOT
    ) - 1.0 / x  # fmt: skip
    return np.where(x > 2.0, series, closed)
