r"""Uniform attention with residuals at initialisation (Noci et al. 2022, 2206.03126).

X ← X + α₁AXW_V, A = 11ᵀ/n, then X ← X + α₂FF(X); W_V fresh in every layer and of a variance that
preserves norms, FF linear and preserving norms and inner products. The formulas are derived here
for that setting, of which the abstract of the paper was read.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from .._arguments import Numbers, at_least, counts, real_array, token_rows


class Norms(NamedTuple):
    """C_L = E‖1ᵀX‖², the norm of the sum of all tokens, and N_L = E‖X‖²."""

    total: Float[np.ndarray, "..."]
    size: Float[np.ndarray, "..."]


def correlation(
    layers: Numbers, tokens: Numbers, residual_scale: Numbers
) -> Float[np.ndarray, "..."]:
    r"""ρ_L = (a^L − 1)/(a^L + n − 1), a = 1 + α₁²: the mean correlation from orthogonal tokens.

    α₁ = 1: 1 − ρ_L ≈ n 2^{−L}. α₁ = 1/√L: ρ → (e − 1)/(e + n − 1) < 1 at any depth. It is the
    ratio of expectations (C_L − N_L)/((n − 1)N_L) of `norms`, in which α₂ cancels; the mean of
    the ratio differs at small d.

    **Arguments:** `layers` L ≥ 0, `tokens` n ≥ 2 and `residual_scale` α₁, of shapes that go
    together. **Raises:** ValueError for values outside of these.
    **Regime:** exact in expectation. **Source:** 2206.03126, derived (module docstring).

    ```python
    correlation([1, 10, 100], 16, 1.0)             # 0.0588, 0.9846, 1.0000
    ```
    """
    depth = counts("layers", layers, 0, "how many layers there are")
    n = counts("tokens", tokens, 2, "how many tokens are correlated")
    clock = depth * np.log1p(real_array(residual_scale, "residual_scale") ** 2)
    return overlap_at(n, np.asarray(clock))


def overlap_at(n: np.ndarray, clock: np.ndarray) -> np.ndarray:
    """(e^y − 1)/(e^y + n − 1), without overflow at large y."""
    return np.asarray(-np.expm1(-clock) / (1.0 + (n - 1.0) * np.exp(-clock)))


def norms(
    layers: Numbers, tokens: Numbers, alpha1: Numbers, alpha2: Numbers, c0: Numbers, n0: Numbers
) -> Norms:
    r"""C_L = (ab)^L C₀ and N_L = b^L[N₀ + (a^L − 1)C₀/n], a = 1 + α₁², b = 1 + α₂².

    **Arguments:** `c0` = ‖1ᵀX₀‖² = Σ⟨x_k, x_l⟩ and `n0` = ‖X₀‖² of the start.
    **Returns:** a named tuple (total C_L, size N_L).
    **Raises:** ValueError for c0 or n0 below 0, and c0 > n·n0, which no n tokens have.
    **Regime:** exact in expectation. **Source:** 2206.03126, derived (module docstring).

    ```python
    norms(10, 16, 0.3, 0.5, 16.0, 16.0).size       # orthonormal tokens
    ```
    """
    depth = counts("layers", layers, 0, "how many layers there are")
    n = counts("tokens", tokens, 1, "how many tokens there are")
    total = at_least("c0", c0, 0.0, "the squared norm of the sum of all tokens")
    size = at_least("n0", n0, 0.0, "the squared norm of all tokens")
    if np.any(total > n * size * (1.0 + 1e-12)):
        raise ValueError(
            f"c0 = {c0} is above tokens · n0 = {n * size}: no {tokens} tokens of squared norm "
            f"{n0} have a sum so long."
        )
    attention = depth * np.log1p(real_array(alpha1, "alpha1") ** 2)
    forward = depth * np.log1p(real_array(alpha2, "alpha2") ** 2)
    return Norms(
        np.asarray(np.exp(attention + forward) * total),
        np.asarray(np.exp(forward) * (size + np.expm1(attention) * total / n)),
    )


def query_gradient(X: Numbers, WK: Numbers, WV: Numbers, d_k: Numbers) -> float:
    r"""‖∂S/∂W_Q‖²_F = ‖X‖²_F ‖W_Kᵀ Σ W_V‖²_F/(n² d_k) at uniform attention, of one draw.

    S = softmax(XW_QW_KᵀXᵀ/√d_k)XW_V, Σ = XᵀX − n x̄ᵀx̄. Exact at W_Q = 0. Equal tokens have
    Σ = 0 and no gradient of queries; that of values, `value_gradient`, they have. With σ_q in
    place of σ_k it is that of the keys where attention is uniform although W_Q ≠ 0: approximate.

    **Arguments:** tokens `X` (n, d), `WK` (d, d_k), `WV` (d, d_v).
    **Raises:** ValueError for widths that do not fit.
    **Regime:** exact at W_Q = 0. **Source:** 2206.03126, derived (module docstring).

    ```python
    query_gradient(X, WK, WV, 8)                   # 0 as soon as all rows of X are equal
    ```
    """
    x = token_rows("X", X)
    keys, values = _weight("WK", WK, x), _weight("WV", WV, x)
    if not np.array_equal(keys.shape[1], real_array(d_k, "d_k")):
        raise ValueError(
            f"d_k = {d_k}, and WK has shape {keys.shape}: the width of keys is that of WK's "
            "columns, one head at a time."
        )
    centred = x - np.mean(x, axis=0)
    inner = (centred @ keys).T @ (centred @ values)
    return float(np.sum(x**2) * np.sum(inner**2) / (len(x) ** 2 * keys.shape[1]))


def value_gradient(X: Numbers, d_v: Numbers) -> float:
    r"""‖∂S/∂W_V‖²_F = d_v n‖x̄‖² at uniform attention: what is left when tokens are equal.

    **Raises:** ValueError for tokens that are no matrix, d_v below 1.
    **Regime:** exact where attention is uniform. **Source:** as `query_gradient`.

    ```python
    value_gradient(np.ones((4, 3)), 2)             # 24
    ```
    """
    x = token_rows("X", X)
    width = counts("d_v", d_v, 1, "the width of values")
    return float(width * len(x) * np.sum(np.mean(x, axis=0) ** 2))


def _weight(name: str, weight: Numbers, x: np.ndarray) -> np.ndarray:
    w = real_array(weight, name)
    if w.ndim != 2 or w.shape[0] != x.shape[1]:
        raise ValueError(
            f"{name} has shape {w.shape}, and the tokens have width {x.shape[1]}: it maps tokens "
            f"from the right, shape ({x.shape[1]}, width of its image)."
        )
    return w
