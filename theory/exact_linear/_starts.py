"""Starts of linear networks for which closed forms exist: balanced, and aligned."""

import itertools

import jax
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from gflow.internal import svd

from .._arguments import Numbers, real_array

Pair = tuple[Float[np.ndarray, "h i"], Float[np.ndarray, "o h"]]


def balanced_start(
    sizes: tuple[int, int, int],
    *,
    balance: float = 0.0,
    scale: float = 1.0,
    key: PRNGKeyArray,
) -> Pair:
    """Random (W₁, W₂) with W₂ᵀW₂ − W₁W₁ᵀ = λI.

    λ ≥ 0, h ≤ o: W₁ Gaussian, W₂ = V(W₁W₁ᵀ + λI)^½ with orthonormal columns V. λ ≤ 0, h ≤ i:
    W₂ Gaussian, W₁ = (W₂ᵀW₂ − λI)^½Vᵀ. λ = 0 with a larger h: W₁ = RS^½Vᵀ, W₂ = US^½Rᵀ, where
    US^½Vᵀ is Gaussian (o, i) and R has orthonormal columns.

    **Arguments:** `sizes`: (i, h, o). `balance` λ. `scale`: standard deviation of the Gaussian
    entries. **Raises:** ValueError where no such start exists (λ > 0 needs h ≤ o, λ < 0 h ≤ i).

    ```python
    w1, w2 = balanced_start((4, 5, 3), scale=1e-3, key=jax.random.key(0))   # h = 5
    ```
    """
    i, h, o = sizes
    lam, scale = float(balance), float(scale)
    if min(sizes) < 1 or not (np.isfinite(lam) and np.isfinite(scale)):
        raise ValueError(f"sizes = {sizes}, balance = {lam}, scale = {scale}: sizes are ≥ 1.")
    if (lam > 0 and h > o) or (lam < 0 and h > i):
        side, size, sign = ("o", o, ">") if lam > 0 else ("i", i, "<")
        raise ValueError(
            f"No start of sizes (i, h, o) = {sizes} has balance λ = {lam:g}: λ {sign} 0 makes one "
            f"factor of rank h = {h}, more than {side} = {size} allows. Take h ≤ {size}, or λ = 0."
        )
    gaussian, turn = jax.random.split(key)
    if lam >= 0 and h <= o:
        w1 = scale * _normal(gaussian, (h, i))
        return w1, frame(turn, o, h) @ _root(w1, lam)
    if lam <= 0 and h <= i:
        w2 = scale * _normal(gaussian, (o, h))
        return _root(w2.T, -lam) @ frame(turn, i, h).T, w2
    u, s, vt = svd(scale * _normal(gaussian, (o, i)), full_matrices=False)
    r = frame(turn, h, len(s))
    return r @ (s[:, None] * vt), (u * s) @ r.T


def aligned_start(
    target: Numbers, strength: Numbers, *, hidden: tuple[int, ...], key: PRNGKeyArray
) -> tuple[Float[np.ndarray, "_ _"], ...]:
    """Balanced weights W₁, …, W_L in the singular basis of the target: modes never mix.

    The product is U diag(a) Vᵀ with a = `strength`, one number or one a mode (≥ 0), and every
    layer has singular values a^{1/L}. Mode k then follows `mode_strength(a_k, s_k, t, L)`.

    **Arguments:** `target`: (o, i) = U diag(s) Vᵀ; `hidden`: widths between the L = len + 1
    layers, each at least min(i, o). **Raises:** ValueError for smaller widths, a < 0.

    ```python
    w1, w2, w3 = aligned_start(target, 1e-3, hidden=(4, 4), key=jax.random.key(0))
    ```
    """
    sigma, a = real_array(target, "target"), real_array(strength, "strength")
    if sigma.ndim != 2 or np.any(a < 0):
        raise ValueError(f"target has shape {sigma.shape}, strength is {a}: give (o, i) and a ≥ 0.")
    u, s, vt = svd(sigma, full_matrices=False)
    if any(width < len(s) for width in hidden):
        raise ValueError(
            f"hidden = {hidden}: {len(s)} modes need hidden layers at least that wide. For a "
            "bottleneck use theory.exact_linear.balanced_start."
        )
    root = np.broadcast_to(a, s.shape) ** (1.0 / (len(hidden) + 1))
    keys = jax.random.split(key, max(len(hidden), 1))
    turns = [frame(k, width, len(s)) for k, width in zip(keys, hidden, strict=False)]
    frames = [vt.T, *turns, u]
    return tuple((after * root) @ before.T for before, after in itertools.pairwise(frames))


def _normal(key: PRNGKeyArray, shape: tuple[int, int]) -> np.ndarray:
    return np.asarray(jax.random.normal(key, shape, np.float64), float)


def frame(key: PRNGKeyArray, rows: int, columns: int) -> np.ndarray:
    """Orthonormal columns, uniformly distributed."""
    q, r = np.linalg.qr(_normal(key, (rows, columns)))
    return q * np.sign(np.diagonal(r))


def _root(w: np.ndarray, shift: float) -> np.ndarray:
    """(wwᵀ + shift)^½ by the singular values of w, whose small ones wwᵀ would lose."""
    vectors, values, _ = svd(w)
    values = np.pad(values, (0, len(w) - len(values)))
    return (vectors * np.hypot(values, np.sqrt(shift))) @ vectors.T
