r"""What fine-tuning does to singular values and vectors (2509.17866), by the flow of the factors.

W = ABᵀ, balanced (AᵀA = BᵀB), rests at W₀ = Σ s_i u_i v_iᵀ; then the target changes. Under
L = ½‖W − M‖², on flow time,

    W' = −(WWᵀ)^{1/2}(W − M) − (W − M)(WᵀW)^{1/2}.

The paper sees singular values scaled almost uniformly and left and right singular vectors turned
together. The first is so at rest and not on the way (`scaled`); the second holds for any small
change, also a random one (`perturbed`, `null_coordination`), and says something only beyond that.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ._arguments import Numbers, real_array, times

__all__ = ["Perturbed", "coordination", "null_coordination", "perturbed", "scaled"]


def __dir__() -> list[str]:
    return __all__


#: Singular values closer than this, of the largest, are a tie.
_TIE = 1e-12


class Perturbed(NamedTuple):
    """Change of the singular values, and rotations of the left and right vectors."""

    values: Float[np.ndarray, "... k"]
    left: Float[np.ndarray, "... m m"]
    right: Float[np.ndarray, "... n n"]


def scaled(values: Numbers, factor: Numbers, t: Numbers) -> Float[np.ndarray, "..."]:
    r"""Singular values at time t after the target has become κW₀: no vector turns.

        s_i(t) = κ s_i/(1 + (κ − 1)e^{−2κ s_i t})

    Not uniform on the way: large ones first, ln(s_i(t)/s_i) ≈ 2(κ − 1)s_i t; uniform at rest.

    **Arguments:** `values` s_i ≥ 0; `factor` κ > 0; flow times `t ≥ 0`, ∞ included. **Returns:**
    values last, the axes of t first. **Raises:** ValueError for signs and t < 0.
    **Regime:** exact, from a balanced start of any rank. **Source:** 1312.6120, in other words.

    ```python
    scaled([3.0, 2.0, 1.0], 1.2, 0.05)             # 3.1592, 2.0737, 1.0192
    ```
    """
    s, kappa = _values(values), real_array(factor, "factor")
    if kappa.ndim or not kappa > 0.0:
        raise ValueError(f"factor = {factor}: one positive number; the target is factor·W₀.")
    when = times(t)
    when = np.reshape(when, (*when.shape, *[1] * s.ndim))
    with np.errstate(invalid="ignore"):
        decayed = np.where(s > 0.0, np.exp(-2.0 * kappa * s * when), 1.0)
    # at zero a mode has no force
    return np.asarray(np.where(s > 0.0, kappa * s / (1.0 + (kappa - 1.0) * decayed), 0.0))


def perturbed(values: Numbers, change: Numbers, t: Numbers) -> Perturbed:
    r"""First order in a change E of the target, M = W₀ + E, in the singular bases of W₀.

    Every element relaxes at its own rate, D_ij = u_iᵀ(W − W₀)v_j = E_ij(1 − e^{−(s_i + s_j)t}), and

        δs_i = D_ii,
        ω^U_ij = (s_j D_ij + s_i D_ji)/(s_j² − s_i²),   ω^V_ij = (s_i D_ij + s_j D_ji)/(s_j² − s_i²)

    with U → U(I + ω^U), V → V(I + ω^V). Hence, for any change,

        ω^U − ω^V = (D_ij − D_ji)/(s_i + s_j),   ω^U + ω^V = (D_ij + D_ji)/(s_j − s_i):

    where singular values are dense left and right turn together.

    **Arguments:** `values` s_i, k = min(m, n) of them, all different; `change` E = UᵀΔM V (m, n);
    flow times `t ≥ 0`, ∞ included. Rows and columns beyond k belong to singular value 0.
    **Returns:** a named tuple (values, left, right), the axes of t first.

    **Raises:** ValueError for shapes, ties (whose rotation is not of first order), t < 0.
    **Regime:** error O(E²). **Source:** derived; the rates are those of 1312.6120 linearised.

    ```python
    perturbed([3.0, 2.0, 1.0], 1e-4 * np.ones((3, 3)), 0.1).left[0, 1]
    ```
    """
    s, e = _values(values), real_array(change, "change")
    if s.ndim != 1 or e.ndim != 2 or len(s) != min(e.shape):
        raise ValueError(
            f"values have shape {s.shape} and change {e.shape}: give k = min(m, n) singular values "
            "and the change (m, n) in the singular bases of the start."
        )
    order = np.sort(s)
    if np.any(np.diff(order) <= _TIE * order[-1]):
        raise ValueError(
            f"Singular values {s} have a tie, within which the vectors turn at once and by O(1). "
            "Give different ones."
        )
    left, right = (np.pad(s, (0, size - len(s))) for size in e.shape)
    with np.errstate(invalid="ignore"):
        rate = (left[:, None] + right)[..., None] * times(t).ravel()
    gone = -np.expm1(-np.where(left[:, None, None] + right[None, :, None] > 0.0, rate, 0.0))
    moved = np.moveaxis(e[..., None] * gone, -1, 0)
    shape = times(t).shape
    k = len(s)
    both = moved[:, :k, :k]
    turns = []
    for size, swapped in ((e.shape[0], False), (e.shape[1], True)):
        omega = np.zeros((len(moved), size, size))
        here = both.swapaxes(1, 2) if swapped else both
        top = s * here + s[:, None] * here.swapaxes(1, 2)
        gap = s**2 - s[:, None] ** 2
        omega[:, :k, :k] = top / np.where(gap == 0.0, np.inf, gap)
        if size > k:  # rows beyond k, of singular value zero
            rest = moved[:, k:, :] if not swapped else moved[:, :, k:].swapaxes(1, 2)
            with np.errstate(divide="ignore", invalid="ignore"):
                omega[:, k:, :k] = np.where(s > 0.0, rest / s, 0.0)
            omega[:, :k, k:] = -omega[:, k:, :k].swapaxes(1, 2)
        turns.append(omega.reshape(*shape, size, size))
    delta = np.diagonal(both, axis1=1, axis2=2).reshape(*shape, k)
    return Perturbed(delta, *turns)


def coordination(left: Numbers, right: Numbers) -> Float[np.ndarray, "..."]:
    r"""Cosine between all left and all right rotation angles, over the pairs i < j of both.

    Of rotations ω^U (…, m, m) and ω^V (…, n, n) the leading min(m, n) indices are compared.
    **Raises:** ValueError for other shapes.

    ```python
    coordination(*perturbed(s, change, np.inf)[1:])
    ```
    """
    u, v = real_array(left, "left"), real_array(right, "right")
    if min(u.ndim, v.ndim) < 2 or u.shape[-1] != u.shape[-2] or v.shape[-1] != v.shape[-2]:
        raise ValueError(f"left has shape {u.shape}, right {v.shape}: give square matrices.")
    k = min(u.shape[-1], v.shape[-1])
    pairs = np.triu_indices(k, 1)
    u, v = u[..., pairs[0], pairs[1]], v[..., pairs[0], pairs[1]]
    norms = np.linalg.norm(u, axis=-1) * np.linalg.norm(v, axis=-1)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.sum(u * v, axis=-1) / norms)


def null_coordination(
    values: Numbers, draws: int, *, t: float = math.inf, seed: int = 0
) -> Float[np.ndarray, " draws"]:
    r"""`coordination` of Gaussian random changes of a square matrix with these singular values.

    What a measured coordination has to exceed before it says anything of training. Gaussian W of
    size 16, 64, 256: .87, .97, .99 (medians), all of it from pairs of close singular values.

    **Arguments:** `values` (k,), all different; `draws`: how many changes; flow time `t`: before
    rest what lies between large singular values has relaxed farther, which coordinates less.
    **Raises:** ValueError as `perturbed`.

    ```python
    np.quantile(null_coordination(s, 200), [0.05, 0.95])
    ```
    """
    s, rng = _values(values), np.random.default_rng(seed)
    found = [
        coordination(*perturbed(s, rng.normal(size=(len(s), len(s))), t)[1:]) for _ in range(draws)
    ]
    return np.array(found)


def _values(values: Numbers) -> np.ndarray:
    s = real_array(values, "values")
    if np.any(s < 0.0):
        raise ValueError(f"values = {s}: singular values are not negative.")
    return s
