"""In-context regression with a task that many prompts share: the exact loss, by moments."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from .._arguments import count, number, numbers
from ._in_context import Covariance, checked_covariance, checked_noise, checked_reduction


class SharedTaskRegression(eqx.Module):
    r"""Squared error of linear self-attention where a share of the prompts has one task, exactly.

    Prompts as of `InContextRegression`, but a share s of them has the fixed task w*, which weights
    can learn, and the others one of their own, w ~ N(0, I). Where the shared task is not `shown`,
    the labels in context of its prompts are noise, y_n ~ N(0, 1): nothing but the weights can tell
    w*, which is how in-weight learning is measured.

    For `gflow.models.LinearSelfAttention` with any blocks, ŷ = Σ S_ab T_abc x_q,c with the tensor
    T = `model.tensor()` and S = EEᵀ/N over the N + 1 tokens, the loss is a quadratic form,

        E(y_q − ŷ)² = E y_q² − 2⟨F, T⟩ + ⟨T, G T⟩,   F = E[y_q S ⊗ x_q],  G = E[(S ⊗ x_q)(S ⊗ x_q)ᵀ]

    from Gaussian moments up to the sixth. A model with `matrix()` alone has T[y, x, ·] = M.

    **Arguments:** `covariance` Λ: (D, D), or its eigenvalues (D,); `context` N; `task` w*: (D,);
    `share` s from 0 (all prompts have their own task: `InContextRegression`, for mixed blocks as
    well) to 1; `shown`; `noise` σ² of the labels y = wᵀx + ε and of the answer y_q; `reduction`:
    "half_mean" (the clock of the papers, τ = 1) or "mean".

    **Raises:** ValueError as `InContextRegression`, and for a task of another size, s outside
    [0, 1]. Memory grows as D⁶: 80 kB for D = 4, 12 MB for D = 10.

    2501.16265, in-context and in-weight learning: its in-context share is 1 − s, Λ = I/D, ‖w*‖² = D
    and, at s = 1, `shown=False`.

    ```python
    objective = gflow.objectives.SharedTaskRegression(np.ones(4) / 4, 31, np.ones(4), 0.4)
    gflow.simulate(model, objective, t1=120.0)          # a LinearSelfAttention
    ```
    """

    force: Float[Array, "D1 D1 D"]
    second: Float[Array, "entries entries"]
    top: Float[Array, ""]
    reduction: str = eqx.field(static=True)

    def __init__(
        self,
        covariance: Covariance,
        context: int,
        task: ArrayLike | Sequence[float],
        share: float = 0.5,
        *,
        shown: bool = True,
        noise: float = 0.0,
        reduction: Literal["half_mean", "mean"] = "half_mean",
    ):
        lam, pairs = checked_covariance(covariance), count("context", context, "the number N")
        w = numbers("task", task, "the task w* that prompts share")
        if w.shape != lam.shape[:1] or not np.all(np.isfinite(w)):
            raise ValueError(f"task has shape {w.shape}: w* is finite, of shape {lam.shape[:1]}.")
        share = number("share", share, "the share s of prompts with the task w*")
        variance, self.reduction = checked_noise(noise), checked_reduction(reduction)
        if not 0.0 <= share <= 1.0:
            raise ValueError(f"share = {share}: a share of the prompts is from 0 to 1.")
        own = _own_tasks(lam, pairs, variance)
        shared = _one_task(lam, pairs, w, variance, shown)
        dtype = jnp.result_type(float)
        mixed = ((1.0 - share) * a + share * b for a, b in zip(own, shared, strict=True))
        top, force, second = (jnp.asarray(x, dtype) for x in mixed)
        self.top, self.force = top, force
        self.second = jnp.reshape(second, (force.size, force.size))

    def __call__(self, model: Any) -> Float[Array, ""]:
        tensor = _tensor(model, self.force.shape)
        flat = jnp.ravel(tensor)
        whole = self.top - 2.0 * jnp.ravel(self.force) @ flat + flat @ (self.second @ flat)
        return 0.5 * whole if self.reduction == "half_mean" else whole


def _tensor(model: Any, shape: tuple[int, ...]) -> Float[Array, "D1 D1 D"]:
    if callable(getattr(model, "tensor", None)):
        tensor = model.tensor()
    elif callable(getattr(model, "matrix", None)):
        m = model.matrix()
        tensor = jnp.zeros((len(m) + 1, len(m) + 1, len(m)), m.dtype).at[-1, :-1].set(m)
    else:
        raise ValueError(
            f"SharedTaskRegression reads T of ŷ = Σ S_ab T_abc x_q,c from model.tensor(), which "
            f"{type(model).__name__} does not have. Take gflow.models.LinearSelfAttention, or "
            "SquaredLoss on sampled prompts."
        )
    if tensor.shape != shape:
        raise ValueError(
            f"The model has a tensor of shape {tensor.shape} where it must be {shape}."
        )
    return tensor


#: E y_q², E[y_q S ⊗ x_q] (n, n, D) and the second moment of S ⊗ x_q, (n, n, D, n, n, D).
_Moments = tuple[float, np.ndarray, np.ndarray]


def _one_task(lam: np.ndarray, pairs: int, w: np.ndarray, noise: float, shown: bool) -> _Moments:
    """Of prompts whose answer is wᵀx_q + ε, and whose tokens are Gaussian."""
    cov = _of_tokens(lam, w if shown else 0.0 * w, noise if shown else 1.0)
    return (
        float(w @ lam @ w) + noise,
        _forced(lam, pairs, cov[..., None] * (lam @ w), w),
        _squared(lam, pairs, cov, cov[..., None, None] * cov),
    )


def _of_tokens(lam: np.ndarray, w: np.ndarray, noise: float) -> np.ndarray:
    """Covariance of (x, wᵀx + ε)."""
    side = lam @ w
    return np.block([[lam, side[:, None]], [side[None], np.array([[w @ side + noise]])]])


def _own_tasks(lam: np.ndarray, pairs: int, noise: float) -> _Moments:
    """Of prompts with w ~ N(0, I), averaged over nodes that are exact up to the fifth power of w.

    A node and its opposite are added up first, so that what is odd in w vanishes exactly.
    """
    d = len(lam)
    n = d + 1
    mean, linear, square = np.zeros((n, n)), np.zeros((n, n, d)), np.zeros((n,) * 4)
    for weight, w in _nodes(d):
        one, other = (_of_tokens(lam, x, noise) for x in (w, -w))
        share = 0.5 * weight
        mean += share * (one + other)
        linear += share * (one - other)[..., None] * (lam @ w)
        square += share * (one[..., None, None] * one + other[..., None, None] * other)
    return (
        float(np.trace(lam)) + noise,
        _forced(lam, pairs, linear, np.zeros(d)),
        _squared(lam, pairs, mean, square),
    )


def _nodes(d: int) -> list[tuple[float, np.ndarray]]:
    """A rule of degree 5 for N(0, I_d), of ± pairs: Stroud and Secrest 1963."""
    axes, found = np.eye(d), [(2.0 / (d + 2.0), np.zeros(d))]
    far, near = math.sqrt(d + 2.0), math.sqrt(0.5 * d + 1.0)
    found += [((4.0 - d) / (d + 2.0) ** 2, far * e) for e in axes]
    for i in range(d):
        for j in range(i):
            for other in (axes[j], -axes[j]):
                found.append((2.0 / (d + 2.0) ** 2, near * (axes[i] + other)))
    return found


def _forced(lam: np.ndarray, pairs: int, linear: np.ndarray, w: np.ndarray) -> np.ndarray:
    """E[y_q S_ab x_c] from E[C_ab (Λw)_c] and the query's own token, E[wᵀx x_a x_b x_c]/N."""
    force = linear.copy()
    force[:-1, :-1] += np.einsum("e,eabc->abc", w, _gaussian(lam, 4)) / pairs
    return force


def _squared(lam: np.ndarray, pairs: int, mean: np.ndarray, square: np.ndarray) -> np.ndarray:
    """E[S_ab x_e S_cd x_f], from `mean` E[C_ab] and `square` E[C_ab C_cd] over tasks."""
    n, d = len(mean), len(lam)
    wishart = square + (square.transpose(0, 2, 1, 3) + square.transpose(0, 3, 2, 1)) / pairs
    found = wishart[:, :, None, :, :, None] * lam[None, None, :, None, None, :]
    four = np.zeros((n, n, d, d))  # x_a x_b x_e x_f of the query's token
    four[:-1, :-1] = _gaussian(lam, 4)
    six = np.zeros((n, n, d, n, n, d))
    six[:-1, :-1, :, :-1, :-1, :] = _gaussian(lam, 6).transpose(0, 1, 4, 2, 3, 5)
    found = found + np.einsum("ab,cdef->abecdf", mean, four) / pairs
    found = found + np.einsum("cd,abef->abecdf", mean, four) / pairs
    return found + six / pairs**2


def _gaussian(lam: np.ndarray, order: int) -> np.ndarray:
    """E[x_i x_j …] of N(0, Λ), `order` indices: the sum over all pairings."""
    if order == 0:
        return np.ones(())
    rest = _gaussian(lam, order - 2)
    whole = np.multiply.outer(lam, rest)  # the first index is paired with the k-th
    return np.sum([np.moveaxis(whole, 1, k) for k in range(1, order)], axis=0)
