r"""Attention whose scores have a memory (modern Hopfield attention, 2511.20698), solved.

Scores h inherited from layer to layer: a continuous depth in which h relaxes with a time constant,
and layers that mix or accumulate them. The closed forms are this project's, for equal overlaps and
simplex tokens; of the paper the abstract was read, and its update is one of these or between them.
The memory delays the collapse of tokens and does not prevent it.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.integrate import solve_ivp

from ._arguments import Numbers, counts, real_array, times
from .depth_collapse import equal_overlap

__all__ = ["Overlap", "layer_sizes", "log_shrinkage", "overlap"]


def __dir__() -> list[str]:
    return __all__


_KINDS = ("attention", "leaky", "accumulated")


class Overlap(NamedTuple):
    """Overlap γ of any two tokens, and δ = h_ii − h_ij."""

    gamma: Float[np.ndarray, "..."]
    delta: Float[np.ndarray, "..."]


def overlap(tokens: Numbers, beta: Numbers, relaxation: Numbers, t: Numbers) -> Overlap:
    r"""γ(t) and δ(t) of tokens on the sphere whose scores relax with time constant τ.

        τh_ij' = β⟨x_i, x_j⟩ − h_ij,   x_i' = P^⊥_{x_i} Σ_j softmax(h_i)_j x_j

    From orthonormal tokens with h = βXXᵀ, so γ(0) = 0 and δ(0) = β:

        γ' = 2(1 − γ)((n − 1)γ + 1)/(e^δ + n − 1),   τδ' = β(1 − γ) − δ

    τ = 0 is `theory.depth_collapse.equal_overlap`; τ = ∞ has δ = β for ever, and is solvable. The
    final rate of 1 − γ is 2 for every finite τ.

    **Arguments:** `tokens` n ≥ 2; `relaxation` τ ≥ 0, ∞ included; times `t ≥ 0` of any shape, ∞
    included. **Returns:** a named tuple (gamma, delta).
    **Raises:** ValueError for values outside of these, |β| > 700.
    **Regime:** exact (to 1e-11, by SciPy on the clock of β = 0). **Source:** derived.

    ```python
    overlap(6, 2.0, 1.0, 3.2136023514).gamma       # 0.9
    ```
    """
    when, tau = times(t), real_array(relaxation, "relaxation", finite=False)
    if tau.ndim or not tau >= 0.0:
        raise ValueError(f"relaxation = {relaxation}: one time constant, 0 … ∞.")
    adiabatic = equal_overlap(tokens, beta, when)  # which checks tokens and beta
    n, b = (float(real_array(x, "tokens and beta")) for x in (tokens, beta))
    if tau == 0.0:
        return Overlap(adiabatic, np.asarray(b * (1.0 - adiabatic)))
    if math.isinf(tau):
        y = np.asarray(2.0 * n * when / (math.exp(b) + n - 1.0))
        return Overlap(_gamma(n, y), np.full(when.shape, b))
    finite = np.unique(when[np.isfinite(when)])
    y, g = _relaxed(n, b, float(tau), finite)
    row = np.clip(np.searchsorted(finite, when), 0, max(len(finite) - 1, 0))
    ended = np.isinf(when)
    if not len(finite):
        return Overlap(np.ones(when.shape), np.zeros(when.shape))
    gamma = np.where(ended, 1.0, _gamma(n, y)[row])
    delta = np.where(ended, 0.0, (b * np.exp(g + _log_apart(n, y)))[row])
    return Overlap(np.asarray(gamma), np.asarray(delta))


def _gamma(n: float, y: np.ndarray) -> np.ndarray:
    return np.asarray(-np.expm1(-y) / (1.0 + (n - 1.0) * np.exp(-y)))


def _log_apart(n: float, y: np.ndarray) -> np.ndarray:
    """ln(1 − γ)."""
    return np.asarray(math.log(n) - y - np.log1p((n - 1.0) * np.exp(-y)))


def _relaxed(n: float, beta: float, tau: float, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """y = ln((1 + (n − 1)γ)/(1 − γ)) and g = ln(δ/(β(1 − γ))): smooth, and straight at the end."""

    def field(_, state):
        y, g = state
        delta = beta * math.exp(g + float(_log_apart(n, np.asarray(y))))
        rate = 2.0 * n / (math.exp(min(delta, 700.0)) + n - 1.0)
        return [rate, math.expm1(-g) / tau + rate / (1.0 + (n - 1.0) * math.exp(-y))]

    if not len(t) or t[-1] == 0.0:
        return np.zeros(len(t)), np.zeros(len(t))
    found = solve_ivp(
        field, (0.0, t[-1]), [0.0, 0.0], method="LSODA", t_eval=t, rtol=1e-13, atol=1e-13
    )
    if not found.success:
        raise ValueError(
            f"relaxation = {tau}: SciPy did not arrive at t = {t[-1]}: {found.message}"
        )
    return found.y[0], found.y[1]


def layer_sizes(
    tokens: Numbers, beta: Numbers, layers: Numbers, kind: str = "attention", leak: float = 0.5
) -> Float[np.ndarray, " layers_and_start"]:
    r"""ln ρ_l, l = 0 … layers, of simplex tokens X = ρ(I − 11ᵀ/n) under X ← softmax(H)X.

        ρ_{l+1} = λ(δ_l)ρ_l,   λ(δ) = (e^δ − 1)/(e^δ + n − 1),   ρ₀ = 1, δ₀ = β

    - "attention", H = βXXᵀ: δ = βρ², ln ρ ~ 3^l (below −1e308, past layer 640, −∞).
    - "leaky", δ_{l+1} = (1 − a)δ_l + aβρ²_{l+1}, a = `leak`: ln ρ = ½l² ln(1 − a) + O(l), the
      second difference of ln ρ tends to ln(1 − a).
    - "accumulated", δ_{l+1} = δ_l + βρ²_{l+1}: ln ρ ≈ l ln λ(δ_∞).

    **Returns:** an array of layers + 1 numbers, the start first.
    **Raises:** ValueError for n < 2, β ≤ 0, a leak outside (0, 1), another kind.
    **Regime:** exact. **Source:** derived.

    ```python
    layer_sizes(6, 1.0, 6, "leaky")[6]             # -20.286116758
    ```
    """
    n, b, depth = _layered(tokens, beta, layers)
    if kind not in _KINDS:
        raise ValueError(f"kind = {kind!r}: scores are one of {_KINDS}.")
    if kind == "leaky" and not 0.0 < leak < 1.0:
        raise ValueError(f"leak = {leak}: the share of new scores, above 0 and below 1.")
    log_beta = math.log(b)
    sizes, log_delta = [0.0], log_beta
    for _ in range(depth):
        sizes.append(sizes[-1] + log_shrinkage(n, log_delta))
        fresh = log_beta + 2.0 * sizes[-1]
        if kind == "attention":
            log_delta = fresh
        elif kind == "leaky":
            kept, entering = math.log1p(-leak) + log_delta, math.log(leak) + fresh
            log_delta = float(np.logaddexp(kept, entering))
        else:
            log_delta = float(np.logaddexp(log_delta, fresh))
    return np.array(sizes)


def log_shrinkage(n: float, log_delta: float) -> float:
    """ln λ(δ), from ln δ: λ = (e^δ − 1)/(e^δ + n − 1)."""
    if log_delta < -40.0:
        return log_delta - math.log(n)
    delta = math.exp(log_delta)
    return math.log(-math.expm1(-delta)) - math.log1p((n - 1.0) * math.exp(-delta))


def _layered(tokens: Numbers, beta: Numbers, layers: Numbers) -> tuple[float, float, int]:
    n = counts("tokens", tokens, 2, "how many tokens there are")
    depth = counts("layers", layers, 0, "how many layers there are")
    if n.ndim or depth.ndim:
        raise ValueError(f"tokens = {tokens}, layers = {layers}: one number each.")
    b = real_array(beta, "beta")
    if b.ndim or not b > 0.0:
        raise ValueError(f"beta = {beta}: one positive number.")
    return float(n), float(b), int(depth)
