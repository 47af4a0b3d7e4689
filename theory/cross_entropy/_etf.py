r"""All classes alike: one logit a(t) from an equiangular start, in closed form for any K."""

import math

import numpy as np
from jaxtyping import Float

from .._arguments import Numbers, real_array, times
from ._exponential_integral import scaled, scaled_rise

SOURCE = "Garrod, Keating, Thrampoulidis 2025 (2512.04006)"
_EPS = float(np.finfo(float).eps)
_ITERATIONS = 200


def etf_logit(
    classes: int, start: Numbers, t: Numbers, scale: float = 1.0
) -> Float[np.ndarray, "..."]:
    r"""a(t) of W₂W₁ = a (I − 11ᵀ/K) on one-hot inputs, the flow of the mean cross-entropy.

    a' = 2ςa/(e^{ςa} + K − 1), whose solution

        2ςt = Ei(ςa) − Ei(ςa₀) + (K − 1) ln(a/a₀)

    is inverted to rounding. First a = a₀ e^{2ςt/K}, in the end e^{ςa}/(ςa) = 2ςt: a grows as
    log t. ς = 1 for logits W₂W₁; softmax attention with logits ς W_KᵀW_Q on a lookup of K one-hot
    tokens is the same problem.

    **Arguments:** `classes` K ≥ 2; `start` a₀ ≥ 0; flow times `t ≥ 0`, ∞ included; they
    broadcast. `scale` ς > 0. **Returns:** a(t), relative error about 1e-13, from any a₀.

    **Raises:** ValueError for K < 2, a₀ < 0, ς ≤ 0, t < 0, float32, data that are not finite.

    **Regime:** exact, from `etf_start`; loss −(1/K) Σ_c log softmax(W e_c)_c (mean), no decay. A
    random small start follows it only once aligned. **Source:** setting of 2512.04006; closed
    form of this package.

    ```python
    etf_logit(5, 0.05, [0.0, 5.0, 1e300])           # 0.05, 0.346…, 698.…
    ```
    """
    k, sigma = class_count(classes), _scale(scale)
    a0, t = np.broadcast_arrays(sizes(start, "start"), times(t))
    shape, a0, t = t.shape, a0.ravel(), t.ravel()
    moving = (a0 > 0) & (t > 0) & np.isfinite(t)
    b0, clock = np.where(moving, sigma * a0, 1.0), np.where(moving, t, 1.0)
    if np.any(b0 == 0.0):
        raise ValueError(f"scale * start = {sigma:g} * {np.min(a0):g} underflows to 0.")
    with np.errstate(over="ignore"):
        clock = 2.0 * sigma * clock
    if np.any(np.isinf(clock)):
        raise ValueError(f"2 * scale * t overflows at t = {np.max(t[moving]):g}: take t ≤ 1e300.")
    b = _inverted(k, b0, clock)
    arrived = np.where((a0 > 0) & np.isinf(t), np.inf, a0)
    return np.where(moving, b / sigma, arrived).reshape(shape)


def etf_time(
    classes: int, start: Numbers, logit: Numbers, scale: float = 1.0
) -> Float[np.ndarray, "..."]:
    r"""Flow time in which a of `etf_logit` goes from `start` to `logit`.

        t = (1/2ς) [ Ei(ςa) − Ei(ςa₀) + (K − 1) ln(a/a₀) ]

    **Raises:** ValueError for logits below the start, which are never reached, and as `etf_logit`.
    **Regime** and **source** as `etf_logit`. Times above 1.8e308 are ∞.

    ```python
    etf_time(3, 1e-200, 1.0)                        # 691.43…
    ```
    """
    k, sigma = class_count(classes), _scale(scale)
    a0, a = np.broadcast_arrays(sizes(start, "start"), sizes(logit, "logit"))
    if np.any((a < a0) | ((a0 == 0) & (a > 0))):
        raise ValueError(
            f"logit = {logit} is never reached from start = {start}: the logit grows from its "
            "start, and one that starts at 0 stays there."
        )
    shape, a0, a = a.shape, a0.ravel(), a.ravel()
    still = a == a0
    b0, b = np.where(still, 1.0, sigma * a0), np.where(still, 2.0, sigma * a)
    f, _ = _elapsed(k, b0, _log_ratio(b0, b), b)
    # e^b in two halves, so that it overflows no sooner than t
    with np.errstate(over="ignore"):
        t = f * np.exp(0.5 * b) / (2.0 * sigma) * np.exp(0.5 * b)
    return np.where(still, 0.0, t).reshape(shape)


def etf_loss(classes: int, logit: Numbers) -> Float[np.ndarray, "..."]:
    r"""log(1 + (K − 1)e^{−a}), the cross-entropy of `etf_logit`, in nats.

    1 − p is nowhere a difference of two numbers: relative error 1e-16 (1 + a), to L = 1e-308.

    **Arguments:** `classes` K ≥ 2; `logit` a (ς a where logits are scaled), any sign, ±∞ allowed.
    **Raises:** ValueError for K < 2, NaN, float32.

    ```python
    etf_loss(5, etf_logit(5, 0.05, 1e100))          # 8.4958…e-103
    ```
    """
    k, a = class_count(classes), real_array(logit, "logit", finite=False)
    if np.any(np.isnan(a)):
        raise ValueError("logit contains NaN.")
    with np.errstate(under="ignore"):
        odds = (k - 1.0) * np.exp(-np.maximum(a, 0.0))
        wrong = np.logaddexp(0.0, math.log(k - 1.0) - np.minimum(a, 0.0))
        return np.where(a > 0, np.log1p(odds), wrong)


def etf_rest(classes: int, decay: float, scale: float = 1.0) -> float:
    r"""Where a ends under decay: ln(ς/λ − K + 1)/ς for λ < ς/K, else 0; ∞ without decay.

    The rest of a' = 2a(ς/(e^{ςa} + K − 1) − λ), with λ on both factors. Runs from random starts
    end here as well: K − 1 singular values a and one of 0.

    **Raises:** ValueError for K < 2, λ < 0, ς ≤ 0. **Regime:** exact; mean loss, h ≥ K − 1.

    ```python
    etf_rest(6, 0.05)                               # 2.7080502… = ln 15
    ```
    """
    k, sigma, rate = class_count(classes), _scale(scale), float(real_array(decay, "decay"))
    if rate < 0.0:
        raise ValueError(f"decay = {decay}: the rate λ of θ' = −∂L − λθ is ≥ 0.")
    if rate == 0.0:
        return math.inf
    # ς/λ − K + 1 = 1 + (ς − Kλ)/λ
    return math.log1p((sigma - k * rate) / rate) / sigma if rate * k < sigma else 0.0


def _inverted(k: int, b0: np.ndarray, clock: np.ndarray) -> np.ndarray:
    """b of f = K u + E(b) − E(b₀) = clock, u = ln(b/b₀): Newton's method, bracketed."""
    # f' ≥ K − 1 + e^{b₀}, and E(b) ≥ e^{b/2} from b = 4 on
    slope = np.logaddexp(math.log(k - 1.0), b0)
    most = 2.0 * np.logaddexp(np.log(clock), np.log(scaled(b0)) + b0)
    high = np.minimum(
        np.exp(np.minimum(np.log(clock) - slope, 700.0)),
        np.log(np.maximum(4.0, most)) - np.log(b0),
    )
    low, u = np.zeros_like(high), high
    for _ in range(_ITERATIONS):
        step = _step(k, b0, u, b0 * np.exp(u), clock)
        low, high = np.where(step > 0, u, low), np.where(step > 0, high, u)
        tried = u + step
        inside = (low <= tried) & (tried <= high)
        u, before = np.where(inside, tried, 0.5 * (low + high)), u
        if np.all(np.abs(u - before) <= 16.0 * _EPS * np.maximum(1.0, u)):
            break
    else:
        raise RuntimeError("The closed form could not be inverted; please report this input.")
    b, grown = b0 * np.exp(u), u > 1.0
    for _ in range(2):  # in b itself, whose late digits ln b has not
        far = np.where(grown, b, 3.0 * b0)
        b = np.where(grown, b + far * _step(k, b0, _log_ratio(b0, far), far, clock), b)
    return b


def _step(k: int, b0: np.ndarray, u: np.ndarray, b: np.ndarray, clock: np.ndarray) -> np.ndarray:
    """Newton's in u: of f, which is linear at first, then of ln f, linear in b in the end."""
    f, slope = _elapsed(k, b0, u, b)
    with np.errstate(divide="ignore", invalid="ignore"):
        first = (clock * np.exp(-b) - f) / slope
        return np.where(b < 1.0, first, (np.log(clock) - np.log(f) - b) * f / slope)


def _elapsed(k: int, b0: np.ndarray, u: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """f = K u + E(b) − E(b₀) and df/du, both times e^{−b}; b = b₀eᵘ."""
    decayed = np.exp(-b)
    return k * u * decayed + scaled_rise(b0, u), 1.0 + (k - 1.0) * decayed


def _log_ratio(b0: np.ndarray, b: np.ndarray) -> np.ndarray:
    """ln(b/b₀) with all digits where b is near b₀, and where b/b₀ overflows."""
    with np.errstate(over="ignore"):
        apart = (b - b0) / b0
    return np.where(np.isfinite(apart), np.log1p(apart), np.log(b) - np.log(b0))


def class_count(classes: int) -> int:
    found = real_array(classes, "classes")
    if found.ndim or found < 2 or found != int(found):
        raise ValueError(f"classes = {classes}: the number of classes K is an integer ≥ 2.")
    return int(found)


def _scale(scale: float) -> float:
    found = real_array(scale, "scale")
    if found.ndim or not found > 0:
        raise ValueError(f"scale = {scale}: the factor ς of the logits is one number > 0.")
    return float(found)


def sizes(a: Numbers, name: str) -> np.ndarray:
    found = real_array(a, name)
    if np.any(found < 0):
        raise ValueError(
            f"{name} = {a}: a balanced start has singular values a ≥ 0 in W₂W₁, and keeps them."
        )
    return found
