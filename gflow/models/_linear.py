"""Diagonal linear network: the simplest model with saddle-to-saddle dynamics."""

import math

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from .._alpha import one_log_alpha
from ..parameters._base import Parameter
from ..parameters._hadamard import Hadamard


class DiagonalLinear(eqx.Module):
    """x ↦ scale·⟨x, θ⟩ with θ = weight.value, for example θ = u⊙v.

    Pesme & Flammarion 2023 (2304.00488).

    ```python
    model = gflow.models.DiagonalLinear(gflow.Hadamard.small(4, log_alpha=-37, key=key))
    model(x)          # x: (4,) -> scalar
    ```
    """

    weight: Parameter
    scale: float = eqx.field(static=True)

    def __init__(self, weight: Parameter, *, scale: float = 1.0):
        self.weight, self.scale = weight, float(scale)

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        return self.scale * jnp.dot(x, self.weight.value)


def woodworth(
    d: int,
    *,
    log_alpha: ArrayLike | None = None,
    alpha: ArrayLike | None = None,
    log10_alpha: ArrayLike | None = None,
) -> DiagonalLinear:
    """The network w = p² − q² from p = q = α·1 of Woodworth et al. 2020 (2002.09277).

    With u = (p + q)/√2 and v = (p − q)/√2, an isometry and so the same clock,
    w = 2 u⊙v: a `DiagonalLinear` of scale 2 whose leaf has s = √2 p and d = √2 q.
    Its weight is exactly zero at the start. `log_alpha` is the natural logarithm of α; in its place
    `log10_alpha` or `alpha`.
    """
    log_alpha = one_log_alpha(log_alpha, alpha, log10_alpha)
    log_scale = jnp.full((d,), jnp.asarray(log_alpha, jnp.result_type(float)))
    log_scale = log_scale + 0.5 * math.log(2.0)
    weight = Hadamard.from_scales(log_s=log_scale, log_d=log_scale, log_alpha=log_alpha)
    return DiagonalLinear(weight, scale=2.0)
