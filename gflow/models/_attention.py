"""Attention with diagonal and with full matrices, and residual stacks of layers."""

import abc
import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..parameters._base import Summed, Weight
from ._attended import beyond_uniform, uniform


def visible(
    logits: Float[Array, "... tokens tokens"], causal: bool, unseen: float
) -> Float[Array, "... tokens tokens"]:
    """`logits`, those of keys later than their query replaced by `unseen` if `causal`."""
    if not causal:
        return logits
    seen = jnp.tril(jnp.ones(logits.shape[-2:], bool))
    return jnp.where(jnp.broadcast_to(seen, logits.shape), logits, unseen)


def check_width(x: Float[Array, "tokens d"], d: int, attention: eqx.Module) -> None:
    if x.shape[-1] != d:
        raise ValueError(
            f"{type(attention).__name__} has weights for tokens of width {d} and is given tokens "
            f"of shape {x.shape}: make the two widths agree."
        )


class DiagonalAttention(eqx.Module):
    r"""Softmax attention whose key–query and value–output matrices are diagonal.

        f(X) = Σ_h softmax(scale · X diag(kq_h) Xᵀ) X diag(vo_h)

    Tokens are rows, the softmax runs over the last axis. `kq` and `vo` hold one row a
    head, shape (heads, d). Model of 2306.07042, which has no 1/√d (scale = 1). `causal`: a
    token sees itself and those before it.

    **Raises:** ValueError for kq and vo of other shapes and, at a call, tokens of another width.

    ```python
    kq, vo = (gflow.Hadamard.small((1, 4), log_alpha=-74, key=k) for k in keys)
    gflow.models.DiagonalAttention(kq, vo)(X)      # X: (tokens, 4) -> (tokens, 4)
    ```
    """

    kq: Weight
    vo: Weight
    scale: float = eqx.field(static=True)
    causal: bool = eqx.field(static=True)

    def __init__(self, kq: Weight, vo: Weight, *, scale: float = 1.0, causal: bool = False):
        if kq.value.ndim != 2 or kq.value.shape != vo.value.shape:
            raise ValueError(
                f"DiagonalAttention needs kq and vo of one shape (heads, d): kq has "
                f"{kq.value.shape}, vo has {vo.value.shape}."
            )
        self.kq, self.vo, self.scale, self.causal = kq, vo, float(scale), causal

    def __call__(self, x: Float[Array, "tokens d"]) -> Float[Array, "tokens d"]:
        check_width(x, self.kq.value.shape[-1], self)
        # sums of products in place of einsum: XLA fuses these, but loops over many small
        # matrix products on CPU (3 to 4 times slower for d = 4)
        query = self.kq.value[:, None, :] * x[None]  # (heads, tokens, d)
        logits = self.scale * jnp.sum(query[:, :, None, :] * x[None, None], axis=-1)
        logits = visible(logits, self.causal, -math.inf)
        weights = jax.nn.softmax(logits, axis=-1)  # (heads, tokens, tokens)
        mixed = jnp.sum(weights[..., None] * x[None, None], axis=2)
        return jnp.sum(mixed * self.vo.value[:, None, :], axis=0)


class _Attention(eqx.Module):
    """f(X) = Σ_h P_h X VO_h, with P_h the `_weights` of the logits scale · X KQ_h Xᵀ."""

    #: The logit of a key that a query does not see.
    _unseen: ClassVar[float]

    kq: Weight
    vo: Weight
    scale: float = eqx.field(static=True)
    causal: bool = eqx.field(static=True)

    def __init__(self, kq: Weight, vo: Weight, *, scale: float = 1.0, causal: bool = False):
        shapes = kq.value.shape, vo.value.shape
        square = all(len(s) in (2, 3) and s[-1] == s[-2] for s in shapes)
        if not square or shapes[0] != shapes[1]:
            raise ValueError(
                f"{type(self).__name__} needs kq and vo of one shape, (d, d) or (heads, d, d): "
                f"kq.value has {shapes[0]}, vo.value has {shapes[1]}."
            )
        self.kq, self.vo, self.scale, self.causal = kq, vo, float(scale), causal

    @abc.abstractmethod
    def _weights(
        self, logits: Float[Array, "heads tokens tokens"]
    ) -> Float[Array, "heads tokens tokens"]:
        """What every query takes of every key."""

    def _logits(self, x: Float[Array, "tokens d"]) -> Float[Array, "heads tokens tokens"]:
        check_width(x, self.kq.value.shape[-1], self)
        return self.scale * (x @ _heads(self.kq) @ x.T)

    def __call__(self, x: Float[Array, "tokens d"]) -> Float[Array, "tokens d"]:
        weights = self._weights(visible(self._logits(x), self.causal, self._unseen))
        return jnp.sum(weights @ (x @ _heads(self.vo)), axis=0)


class SoftmaxAttention(_Attention):
    r"""Softmax attention with full key–query and value–output matrices.

        f(X) = Σ_h softmax(scale · X KQ_h Xᵀ) X VO_h

    Tokens are rows, the softmax runs over the last axis (keys). `kq`, `vo`: matrices
    (d, d) of one head or (heads, d, d), best `gflow.Factored` of d_h columns; any parameter
    will do. `kq.left` acts on the query token, `kq.right` on the key token; in terms of the
    usual weights KQ = W_Qᵀ W_K, so kq.left = W_Qᵀ, kq.right = W_Kᵀ, vo.left = W_Vᵀ and
    vo.right = W_O. `causal`: a token sees itself and those before it.

    **Raises:** ValueError for kq and vo of other shapes and, at a call, tokens of another width.

    ```python
    kq, vo = (gflow.Factored.small((2, 6, 6), 3, log_alpha=-74, key=k) for k in keys)
    gflow.models.SoftmaxAttention(kq, vo)(X)       # two heads; X: (tokens, 6) -> (tokens, 6)
    ```
    """

    _unseen = -math.inf

    def _weights(self, logits):
        return jax.nn.softmax(logits, axis=-1)

    def __call__(self, x: Float[Array, "tokens d"]) -> Float[Array, "tokens d"]:
        if self.vo.value.ndim == 2 or not isinstance(self.vo, Summed):
            return _Attention.__call__(self, x)
        apart = beyond_uniform(self._logits(x), causal=self.causal)
        alike = uniform(x, causal=self.causal) @ self.vo.total
        return alike + jnp.sum(apart @ (x @ self.vo.value), axis=0)


class LinearAttention(_Attention):
    r"""Attention without softmax: f(X) = Σ_h (scale · X KQ_h Xᵀ) X VO_h.

    Arguments as of `SoftmaxAttention`; 1/tokens is the usual `scale`.

    ```python
    gflow.models.LinearAttention(kq, vo, scale=1 / 16)(X)
    ```
    """

    _unseen = 0.0

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
