"""Softmax attention with diagonal weights, and residual stacks of layers."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..parameters import Parameter


class DiagonalAttention(eqx.Module):
    r"""Softmax attention whose key–query and value–output matrices are diagonal.

        f(X) = Σ_h softmax(scale · X diag(kq_h) Xᵀ) X diag(vo_h)

    Tokens are rows, the softmax runs over the last axis. `kq` and `vo` hold one row a
    head, shape (heads, d). Model of 2306.07042, which has no 1/√d (scale = 1).

    ```python
    kq, vo = (gflow.Hadamard.small((1, 4), log_alpha=-74, key=k) for k in keys)
    gflow.models.DiagonalAttention(kq, vo)(X)      # X: (tokens, 4) -> (tokens, 4)
    ```
    """

    kq: Parameter
    vo: Parameter
    scale: float = eqx.field(static=True)

    def __init__(self, kq: Parameter, vo: Parameter, *, scale: float = 1.0):
        if kq.value.ndim != 2 or kq.value.shape != vo.value.shape:
            raise ValueError(
                f"DiagonalAttention needs kq and vo of one shape (heads, d): kq has "
                f"{kq.value.shape}, vo has {vo.value.shape}."
            )
        self.kq, self.vo, self.scale = kq, vo, float(scale)

    def __call__(self, x: Float[Array, "tokens d"]) -> Float[Array, "tokens d"]:
        # sums of products in place of einsum: XLA fuses these, but loops over many small
        # matrix products on CPU (3 to 4 times slower for d = 4)
        query = self.kq.value[:, None, :] * x[None]  # (heads, tokens, d)
        logits = self.scale * jnp.sum(query[:, :, None, :] * x[None, None], axis=-1)
        weights = jax.nn.softmax(logits, axis=-1)  # (heads, tokens, tokens)
        mixed = jnp.sum(weights[..., None] * x[None, None], axis=2)
        return jnp.sum(mixed * self.vo.value[:, None, :], axis=0)


class Residual(eqx.Module):
    """X ↦ X + layer(X), one layer after the other.

    ```python
    gflow.models.Residual([gflow.models.DiagonalAttention(kq1, vo1), ...])
    ```
    """

    layers: tuple[eqx.Module, ...]

    def __init__(self, layers):
        self.layers = tuple(layers)
        if not self.layers:
            raise ValueError("Residual(layers) needs at least one layer.")

    def __call__(self, x: Float[Array, "tokens d"]) -> Float[Array, "tokens d"]:
        for layer in self.layers:
            x = x + layer(x)
        return x
