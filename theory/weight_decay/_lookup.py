r"""Associative lookup by softmax attention under weight decay: its end, its rank, its clock.

Query token c of K one-hot tokens must attend to key c; logits ς·W with W = ABᵀ ∈ R^{K×K}
(W = W_KᵀW_Q, a column for each query; its transpose is as good),

    L = −(1/K) Σ_c log softmax_keys(ςW e_c)_c,   A' = −MB − λA,   B' = −MᵀA − λB,   M = ∇L(W).

On the rays W = a(I − 11ᵀ/K) the gradient is −(ς/(e^{ςa} + K − 1)) (I − 11ᵀ/K), so the flow
from A = √a₀ V Oᵀ, B = √a₀ V Oᵀ (VVᵀ = I − 11ᵀ/K, OᵀO = I) stays on them.

Papers: 2410.23819 (decay and the rank of attention), 2512.04006 (simplex starts of cross-entropy).
"""

import math
import operator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.integrate import solve_ivp
from scipy.special import expit

from .._arguments import Numbers, real_array, times
from ._balanced import decays


class LookupRates(NamedTuple):
    """How fast W leaves 0 and comes to rest, per unit of flow time: see `lookup_rates`."""

    growth: Float[np.ndarray, "..."]
    relaxation: Float[np.ndarray, "..."]
    slowest: Float[np.ndarray, "..."]


def lookup_logit(classes: int, decay: Numbers, scale: Numbers = 1.0) -> Float[np.ndarray, "..."]:
    r"""a∞ of the end W∞ = a∞(I − 11ᵀ/K): the K − 1 equal singular values of the key-query matrix.

        a∞ = ln(ς/λ − K + 1)/ς   for λ < ς/K,      0   for λ ≥ ς/K

    The rank falls from K − 1 to 0 at λ = ς/K while a∞ goes to 0 continuously: there
    ‖∇L(0)‖_op = ς/K = λ (see `zero_rank_threshold`).

    **Arguments:** `classes` K ≥ 2, the number of tokens; `decay` λ ≥ 0 and logit `scale` ς > 0
    (1/√d_h in a transformer) broadcast. λ = 0 gives ∞.

    **Raises:** ValueError for K < 2, λ < 0, ς ≤ 0, float32, data that are not finite.
    **Regime:** the global minimum of the mean cross-entropy with decay λ on both factors, for
    d_h ≥ K − 1; reached from random starts. With d_h < K − 1 there are several ends and no
    prediction. With a *sum* over the queries in place of the mean, give λ/K.
    **Source:** derived; the rank at the end of regularised attention is that of 2410.23819.

    ```python
    lookup_logit(6, [0.05, 0.2])        # ln 15, 0
    ```
    """
    k, rate, sharpness = _data(classes, decay, scale)
    with np.errstate(divide="ignore"):
        ahead = np.where(rate > 0, (sharpness - k * rate) / np.where(rate > 0, rate, 1.0), np.inf)
    return np.asarray(np.log1p(np.maximum(ahead, 0.0)) / sharpness)


def lookup_rates(classes: int, decay: Numbers, scale: Numbers = 1.0) -> LookupRates:
    r"""Rates from which to choose the horizon of a lookup run.

    - `growth` = 2(ς/K − λ): of W at W = 0; negative where W dies.
    - `relaxation` = 2a∞λ(ς − (K − 1)λ): to a∞ along a(I − 11ᵀ/K), for `lookup_course`.
    - `slowest` = min(λ, 2a∞ςλ/K): a random start relaxes no slower than this, and for K ≥ 4
      no faster: W also has to lose unequal off-diagonal logits, at 2a∞ςλ/K, and constants
      added to a column, at λ.

    Above the threshold W dies at 2(λ − ς/K), in all directions; at λ = ς/K algebraically (0).
    Arguments and errors as for `lookup_logit`. λ = 0: nothing comes to rest, both rates are 0.

    ```python
    40 / lookup_rates(6, 0.05).slowest          # a horizon that leaves 1e-17 of a deviation
    ```
    """
    k, rate, sharpness = _data(classes, decay, scale)
    end = np.where(rate > 0, lookup_logit(classes, np.where(rate > 0, rate, 1.0), sharpness), 0.0)
    growth = 2.0 * (sharpness / k - rate)
    relaxation = 2.0 * end * rate * (sharpness - (k - 1) * rate)
    slowest = np.minimum(rate, 2.0 * end * sharpness * rate / k)
    dies = growth <= 0
    return LookupRates(
        np.asarray(growth), *(np.where(dies, -growth, x) for x in (relaxation, slowest))
    )


def lookup_course(
    a0: Numbers, classes: int, decay: Numbers, t: Numbers, scale: Numbers = 1.0
) -> Float[np.ndarray, "*t"]:
    r"""a(t) of W = a(I − 11ᵀ/K) from a simplex start: a trajectory of softmax attention.

        a' = 2ςa/(e^{ςa} + K − 1) − 2λa

    Without decay t = (1/2ς)[Ei(ςa) − Ei(ςa₀) + (K − 1) ln(a/a₀)]. With it there is no closed
    form, and the equation is integrated (to about 1e-12) in a coordinate that is linear in t
    both near 0 and near the end: logit a/a∞ below a∞, log(a − a∞) above it.

    **Arguments:** `a0 ≥ 0`, `classes` K, `decay` λ and `scale` ς as for `lookup_logit` (numbers);
    flow time `t ≥ 0` of any shape, ∞ included. **Returns:** t.shape.

    **Raises:** ValueError as `lookup_logit`, and for a₀ < 0 or t < 0.
    **Regime:** exact for A = B = √a₀ V Oᵀ as above, d_h ≥ K − 1, mean over the K queries, no
    causal mask. A random small start has the same end but not this course.
    **Source:** 2512.04006 for simplex starts of two linear layers; softmax attention on lookup
    is the same problem.

    ```python
    lookup_course(0.05, 5, 0.0, 5.0)            # 0.3460105451795
    ```
    """
    k, rates, sharpness = _data(classes, decay, scale)
    first = real_array(a0, "a0")
    if first.ndim or rates.ndim or first < 0.0:
        raise ValueError(
            f"a0 = {first}, decay = {rates}, scale = {sharpness}: give one number each, a₀ ≥ 0."
        )
    start, rate, sigma, t = float(first), float(rates), float(sharpness), times(t)
    end = float(lookup_logit(k, rate, sigma))
    if start == 0.0 or start == end:
        return np.full(t.shape, start)
    a = _logits(sigma * start, sigma * end, k - 1, rate / sigma, 2.0 * sigma * t) / sigma
    return np.where(np.isinf(t), end, np.where(t == 0.0, start, a))


def _logits(start, end, others, rate, t) -> np.ndarray:
    """x(t) of x' = x(1/(eˣ + K − 1) − ℓ), with x = ςa, ℓ = λ/ς and t in units of 1/(2ς)."""
    if 0.0 < start < end < math.inf:
        chart = _from_below
    elif 0.0 < end < start:
        chart = _from_above
    else:
        chart = _to_zero_or_infinity
    first, rest, field, back = chart(start, end, others, rate)
    finite = np.unique(t[np.isfinite(t) & (t > 0)])
    if finite.size == 0:
        return np.full(t.shape, start)

    def at_rest(_, z):
        return z[0] - rest

    at_rest.terminal = True
    # a first trial step may overflow; it is rejected
    with np.errstate(over="ignore", invalid="ignore"):
        run = solve_ivp(
            lambda _, z: [field(z[0])], (0.0, finite[-1]), [first], "DOP853", finite,
            rtol=3e-14, atol=1e-14, events=at_rest,
        )  # fmt: skip
    if not run.success:
        raise RuntimeError(f"The course of the lookup logit was not integrated: {run.message}")
    moving = run.y[0] if len(run.t) else np.zeros(0)
    z = np.concatenate([moving, np.full(finite.size - moving.size, rest)])
    place = np.searchsorted(finite, np.where(np.isfinite(t) & (t > 0), t, finite[0]))
    return np.asarray(back(z)[place])


# A chart: z at the start, z where x has its end to all digits, z'(z) and x(z).


def _pull(x, u, others, rate):
    """(1/(eˣ + K − 1) − ℓ)/(x∞ − x) for u = x∞ − x, without cancellation."""
    return rate * (np.expm1(u) / u if u else 1.0) / (1.0 + others * np.exp(-x))


def _from_below(start, end, others, rate):
    def field(z):
        return end * _pull(end * expit(z), end * expit(-z), others, rate)

    return math.log(start) - math.log(end - start), 45.0, field, lambda z: end * expit(z)


def _from_above(start, end, others, rate):
    def field(z):
        above = np.exp(z)
        return -(end + above) * _pull(end + above, -above, others, rate)

    return math.log(start - end), math.log(end) - 45.0, field, lambda z: end + np.exp(z)


def _to_zero_or_infinity(start, end, others, rate):
    k = others + 1.0

    def field(z):
        x = np.exp(z)
        if end > 0.0:  # no decay
            return np.exp(-x) / (1.0 + others * np.exp(-x))
        return (1.0 / k - rate) + np.expm1(-x) / (1.0 + others * np.exp(-x)) / k

    return math.log(start), -760.0, field, np.exp


def _data(classes, decay, scale) -> tuple[int, np.ndarray, np.ndarray]:
    try:
        k = operator.index(classes)
    except TypeError:
        raise ValueError(f"classes = {classes!r}: give the number of tokens, 2, 3, …") from None
    if k < 2:
        raise ValueError(f"classes = {k}: lookup needs at least 2 tokens.")
    rate, scale = np.broadcast_arrays(decays(decay), real_array(scale, "scale"))
    if np.any(scale <= 0):
        raise ValueError(f"scale = {scale}: the factor of the logits is positive, such as 1/√d_h.")
    return k, rate, scale
