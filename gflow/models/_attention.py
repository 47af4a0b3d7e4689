"""Attention with diagonal and with full matrices, and residual stacks of layers."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..parameters._base import Weight


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

    kq: Weight
    vo: Weight
    scale: float = eqx.field(static=True)

    def __init__(self, kq: Weight, vo: Weight, *, scale: float = 1.0):
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


class _Attention(eqx.Module):
    """f(X) = Σ_h P_h X VO_h, with P_h the `_weights` of the logits scale · X KQ_h Xᵀ."""

    kq: Weight
    vo: Weight
    scale: float = eqx.field(static=True)

    def __init__(self, kq: Weight, vo: Weight, *, scale: float = 1.0):
        shapes = kq.value.shape, vo.value.shape
        square = all(len(s) in (2, 3) and s[-1] == s[-2] for s in shapes)
        if not square or shapes[0] != shapes[1]:
            raise ValueError(
                f"{type(self).__name__} needs kq and vo of one shape, (d, d) or (heads, d, d): "
                f"kq.value has {shapes[0]}, vo.value has {shapes[1]}."
            )
        self.kq, self.vo, self.scale = kq, vo, float(scale)

    @abc.abstractmethod
    def _weights(
        self, logits: Float[Array, "heads tokens tokens"]
    ) -> Float[Array, "heads tokens tokens"]:
        """What every query takes of every key."""

    def __call__(self, x: Float[Array, "tokens d"]) -> Float[Array, "tokens d"]:
        weights = self._weights(self.scale * (x @ _heads(self.kq) @ x.T))
        return jnp.sum(weights @ (x @ _heads(self.vo)), axis=0)


class SoftmaxAttention(_Attention):
    r"""Softmax attention with full key–query and value–output matrices.

        f(X) = Σ_h softmax(scale · X KQ_h Xᵀ) X VO_h

    Tokens are rows, the softmax runs over the last axis (keys). `kq`, `vo`: matrices
    (d, d) of one head or (heads, d, d), best `gflow.Factored` of d_h columns; any parameter
    will do. `kq.left` acts on the query token, `kq.right` on the key token; in terms of the
    usual weights KQ = W_Qᵀ W_K, so kq.left = W_Qᵀ, kq.right = W_Kᵀ, vo.left = W_Vᵀ and
    vo.right = W_O.

    ```python
    kq, vo = (gflow.Factored.small((2, 6, 6), 3, log_alpha=-74, key=k) for k in keys)
    gflow.models.SoftmaxAttention(kq, vo)(X)       # two heads; X: (tokens, 6) -> (tokens, 6)
    ```
    """

    def _weights(self, logits):
        return jax.nn.softmax(logits, axis=-1)


class LinearAttention(_Attention):
    r"""Attention without softmax: f(X) = Σ_h (scale · X KQ_h Xᵀ) X VO_h.

    Arguments as of `SoftmaxAttention`; 1/tokens is the usual `scale`.

    ```python
    gflow.models.LinearAttention(kq, vo, scale=1 / 16)(X)
    ```
    """

    def _weights(self, logits):
        return logits


def _heads(weight: Weight) -> Array:
    value = weight.value
    return value if value.ndim == 3 else value[None]


class Residual(eqx.Module):
    """X ↦ X + layer(X), one layer after the other.

    Layers of any kind, number and heads, each an object of its own; their leaves are
    `layers.0.kq`, `layers.0.vo`, `layers.1.kq`, … Value–output weights of all layers feel one
    force while all are near zero, and so learn their first mode together.

    **Raises:** ValueError for no layers and, at the first call, for a layer that changes the
    shape.

    ```python
    gflow.models.Residual([gflow.models.SoftmaxAttention(kq1, vo1), ...])
    ```
    """

    layers: tuple[eqx.Module, ...]

    def __init__(self, layers):
        self.layers = tuple(layers)
        if not self.layers:
            raise ValueError("Residual(layers) needs at least one layer.")

    def __call__(self, x: Float[Array, "tokens d"]) -> Float[Array, "tokens d"]:
        for number, layer in enumerate(self.layers):
            change = layer(x)
            if change.shape != x.shape:
                raise ValueError(
                    f"layers[{number}] of Residual, {type(layer).__name__}, turns shape {x.shape} "
                    f"into {change.shape}; the two are added up. Give layers that keep the shape."
                )
            x = x + change
        return x
