"""In-context linear regression: the exact loss over all prompts, by moments."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from .._arguments import count, number

#: Λ, or its eigenvalues.
Covariance = ArrayLike | Sequence[float] | Sequence[Sequence[float]]


class InContextRegression(eqx.Module):
    r"""Squared error of ŷ = βᵀM x_q over all prompts of in-context linear regression, exactly.

    Prompts (x_1, y_1) … (x_N, y_N), x_q with x ~ N(0, Λ), y_n = wᵀx_n + ε_n, w ~ N(0, I),
    ε ~ N(0, σ²), the noise on the target y_q as well; β = (1/N) Σ y_n x_n. For M = `model.matrix()`

        E(y_q − ŷ)² = tr Λ + σ² − 2 tr(MΛ²) + tr(B M Λ Mᵀ)
        B = E[ββᵀ] = Λ² + (Λ + (tr Λ + σ²)I)Λ/N

    and the loss is half of it ("half_mean", the default) or all of it ("mean"), as for
    `SquaredLoss` on prompts (`gflow.tasks.in_context_regression`), of which it is the mean.

    **Clock:** the flow of "half_mean", θ' = −½ ∂E(y − ŷ)²/∂θ, has the time of the papers (τ = 1),
    in which `theory.linear_icl` gives all of its times; "mean" is twice as fast. Losses there are
    those of "mean".

    **Arguments:** `covariance` Λ: (D, D), or its eigenvalues (D,) for a diagonal one; `context` N;
    `noise` σ², the variance of ε.

    **Raises:** ValueError for a matrix that is not symmetric and positive semi-definite, N < 1,
    σ² < 0, an unknown reduction and, at the first call, a model without `matrix()` of this size.

    2306.09927; 2501.16265, eq. 15.

    ```python
    objective = gflow.objectives.InContextRegression([0.4, 0.3, 0.2, 0.1], 31)
    gflow.simulate(gflow.models.MergedHeads.small(4, 8, log_epsilon=-14.0, key=key), objective)
    ```
    """

    covariance: Float[Array, "D D"]
    second: Float[Array, "D D"]
    noise: Float[Array, ""]
    context: int = eqx.field(static=True)
    reduction: str = eqx.field(static=True)

    def __init__(
        self,
        covariance: Covariance,
        context: int,
        noise: float = 0.0,
        reduction: Literal["half_mean", "mean"] = "half_mean",
    ):
        lam = checked_covariance(covariance)
        self.context = count("context", context, "the number N of pairs in a prompt")
        variance, self.reduction = checked_noise(noise), checked_reduction(reduction)
        square = lam @ lam
        second = square + (square + (np.trace(lam) + variance) * lam) / self.context
        dtype = jnp.result_type(float)
        self.covariance, self.second, self.noise = (
            jnp.asarray(x, dtype) for x in (lam, second, variance)
        )

    def __call__(self, model: Any) -> Float[Array, ""]:
        if not callable(getattr(model, "matrix", None)):
            raise ValueError(
                f"InContextRegression reads M of ŷ = βᵀM x_q from model.matrix(), which "
                f"{type(model).__name__} does not have. Take gflow.models.MergedHeads, "
                "SeparateHeads or LinearSelfAttention, or SquaredLoss on the prompts of "
                "gflow.tasks.in_context_regression."
            )
        m, lam = model.matrix(), self.covariance
        if m.shape != lam.shape:
            raise ValueError(
                f"The model has a matrix of shape {m.shape} where the covariance has {lam.shape}."
            )
        forward = m @ lam
        loss = jnp.sum(forward * (self.second @ m)) - 2.0 * jnp.sum(forward * lam)
        whole = jnp.trace(lam) + self.noise + loss
        return 0.5 * whole if self.reduction == "half_mean" else whole


def checked_noise(noise: float) -> float:
    """**Raises:** ValueError for what is no variance."""
    variance = number("noise", noise, "the variance σ² of the labels' noise")
    if not (variance >= 0.0 and math.isfinite(variance)):
        raise ValueError(f"noise = {noise}: the variance σ² of the labels' noise is ≥ 0.")
    return variance


def checked_reduction(reduction: str) -> str:
    """**Raises:** ValueError for another than those of losses over all prompts."""
    if reduction not in ("half_mean", "mean"):
        raise ValueError(f'reduction = {reduction!r}: choose "half_mean" or "mean".')
    return reduction


def checked_covariance(given: Covariance) -> np.ndarray:
    """Λ as a matrix in double precision. **Raises:** ValueError for what is none."""
    lam = np.asarray(given)
    if lam.dtype.kind not in "fiu" or lam.ndim not in (1, 2) or not lam.size:
        raise ValueError(
            f"covariance has shape {lam.shape} and dtype {lam.dtype}: give a matrix (D, D), or the "
            "eigenvalues (D,) of a diagonal one."
        )
    lam = np.diag(lam.astype(float)) if lam.ndim == 1 else lam.astype(float)
    if lam.shape[0] != lam.shape[1] or not np.all(np.isfinite(lam)):
        raise ValueError(f"covariance has shape {lam.shape}: give a finite matrix (D, D).")
    top = float(np.max(np.abs(lam)))
    if np.max(np.abs(lam - lam.T)) > 1e-12 * top:
        raise ValueError("covariance is not symmetric: E[x xᵀ] is. Give ½(Λ + Λᵀ), if it is that.")
    lowest = float(np.linalg.eigvalsh(lam)[0])
    if lowest < -1e-12 * top:
        raise ValueError(
            f"covariance is not positive semi-definite: its smallest eigenvalue is {lowest:.6g}. "
            "E[x xᵀ] of any inputs has none below 0."
        )
    return 0.5 * (lam + lam.T)
