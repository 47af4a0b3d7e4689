"""A small causal transformer whose attention matrices are plain factors, one a head."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray


class Attention(eqx.Module):
    r"""Causal softmax attention, summed over heads:

        X ↦ Σ_h softmax(X W_QᵀW_K Xᵀ/√d_h) X W_VᵀPᵀ

    Tokens are rows of X. The products W_KᵀW_Q and P W_V have rank at most d_h.
    """

    query: Float[Array, "... heads d_h d"]
    key: Float[Array, "... heads d_h d"]
    value: Float[Array, "... heads d_h d"]
    output: Float[Array, "... heads d d_h"]

    def __init__(self, d: int, heads: int, head_width: int, *, key: PRNGKeyArray):
        keys = jax.random.split(key, 4)
        narrow, wide = (heads, head_width, d), (heads, d, head_width)
        self.query, self.key, self.value = (_gaussian(k, narrow, d) for k in keys[:3])
        self.output = _gaussian(keys[3], wide, heads * head_width)

    @property
    def pairs(self) -> dict[str, tuple[Float[Array, "... d d_h"], Float[Array, "... d d_h"]]]:
        r"""Factors (A, B) of the two products A Bᵀ of every head, W_KᵀW_Q and P W_V."""
        query, key, value = (x.swapaxes(-1, -2) for x in (self.query, self.key, self.value))
        return {"kq": (key, query), "vo": (self.output, value)}

    def __call__(self, x: Float[Array, "tokens d"]) -> Float[Array, "tokens d"]:
        query, key, value = (
            jnp.einsum("td,hkd->htk", x, w) for w in (self.query, self.key, self.value)
        )
        logits = jnp.einsum("hqk,htk->hqt", query, key) / math.sqrt(self.query.shape[-2])
        logits = jnp.where(_causal(x.shape[0])[None], logits, -jnp.inf)
        mixed = jnp.einsum("hqt,htk->hqk", jax.nn.softmax(logits, axis=-1), value)
        return jnp.einsum("hqk,hdk->qd", mixed, self.output)


class Perceptron(eqx.Module):
    """Two layers with a GELU between them, token by token."""

    inner: Float[Array, "... hidden d"]
    outer: Float[Array, "... d hidden"]

    def __init__(self, d: int, hidden: int, *, key: PRNGKeyArray):
        keys = jax.random.split(key)
        self.inner = _gaussian(keys[0], (hidden, d), d)
        self.outer = _gaussian(keys[1], (d, hidden), hidden)

    def __call__(self, x: Float[Array, "tokens d"]) -> Float[Array, "tokens d"]:
        return jax.nn.gelu(x @ self.inner.T) @ self.outer.T


class Transformer(eqx.Module):
    r"""Tokens to logits: embedding, residual layers of attention and MLP, readout.

        X ← X + attention(norm(X)),   X ← X + MLP(norm(X)),   logits = norm(X) W_outᵀ

    `norm` divides each token by its root mean square; it has no parameters. Neither norms nor
    positions act on the inside of W_KᵀW_Q and P W_V, so that under gradient flow with decay
    λ both factors of each obey d/dt(AᵀA − BᵀB) = −2λ(AᵀA − BᵀB), whatever the data.

    **Raises:** ValueError for sizes below 1; at a call, for more tokens than `length`.

    ```python
    model = gflow.models.Transformer(vocabulary=32, length=13, key=jax.random.key(0))
    model(jnp.array([3, 1, 4, 1, 5]))              # (5, 32)
    model.layers[0].attention.pairs["kq"]          # factors of W_KᵀW_Q, (heads, d, d_h) each
    ```
    """

    embedding: Float[Array, "... vocabulary d"]
    positions: Float[Array, "... length d"]
    layers: tuple["Layer", ...]
    readout: Float[Array, "... vocabulary d"]

    def __init__(
        self,
        vocabulary: int,
        length: int,
        *,
        d: int = 32,
        heads: int = 2,
        head_width: int = 16,
        hidden: int = 64,
        layers: int = 2,
        key: PRNGKeyArray,
    ):
        sizes = dict(vocabulary=vocabulary, length=length, d=d, heads=heads,
                     head_width=head_width, hidden=hidden, layers=layers)  # fmt: skip
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"Transformer: {name} = {size}; every size is at least 1.")
        keys = jax.random.split(key, layers + 3)
        self.embedding = jax.random.normal(keys[0], (vocabulary, d))
        self.positions = jax.random.normal(keys[1], (length, d))
        self.readout = _gaussian(keys[2], (vocabulary, d), d)
        self.layers = tuple(Layer(d, heads, head_width, hidden, key=k) for k in keys[3:])

    def __call__(self, tokens: Int[Array, " length"]) -> Float[Array, "length vocabulary"]:
        if tokens.shape[0] > self.positions.shape[0]:
            raise ValueError(
                f"{tokens.shape[0]} tokens, but this Transformer has positions for "
                f"{self.positions.shape[0]}: shorten the text or build it with a larger length."
            )
        x = self.embedding[tokens] + self.positions[: tokens.shape[0]]
        for layer in self.layers:
            x = layer(x)
        return _normalised(x) @ self.readout.T


class Layer(eqx.Module):
    """Attention, then an MLP, each added to its input."""

    attention: Attention
    perceptron: Perceptron

    def __init__(self, d: int, heads: int, head_width: int, hidden: int, *, key: PRNGKeyArray):
        keys = jax.random.split(key)
        self.attention = Attention(d, heads, head_width, key=keys[0])
        self.perceptron = Perceptron(d, hidden, key=keys[1])

    def __call__(self, x: Float[Array, "tokens d"]) -> Float[Array, "tokens d"]:
        x = x + self.attention(_normalised(x))
        return x + self.perceptron(_normalised(x))


def _gaussian(key: PRNGKeyArray, shape: tuple[int, ...], inputs: int) -> Array:
    """Variance 1/inputs, so that a unit vector keeps its size on average."""
    return jax.random.normal(key, shape) / math.sqrt(inputs)


def _normalised(x: Float[Array, "tokens d"]) -> Float[Array, "tokens d"]:
    return x / jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-6)


def _causal(tokens: int) -> Bool[Array, "tokens tokens"]:
    return jnp.tril(jnp.ones((tokens, tokens), bool))
