"""A decoder-only transformer: tokens to logits of the next one."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ._block import NORM, Block, MakeAttention, blocks, multi_head, normalised
from ._dense import affine, check_sizes, gaussian


class Transformer(eqx.Module):
    r"""Tokens to logits: embedding, residual layers of attention and MLP, readout.

        X ← X + attention(norm(X)),   X ← X + MLP(norm(X)),   logits = norm(X) W_outᵀ

    Attention is causal. Neither norms nor positions act on the inside of W_KᵀW_Q and P W_V, so
    that under gradient flow with decay λ both factors of each obey
    d/dt(AᵀA − BᵀB) = −2λ(AᵀA − BᵀB), whatever the data.

    **Arguments:** what can be absent is None (`length`: no positions, and texts of any length;
    `hidden`: no MLP; `norm`) or False (`residual`; `bias`, of MLPs and readout).
    `attention`: a function (number of the layer, key) ↦ module in place of plain
    `MultiHeadAttention` of `heads` and `head_width`; it takes (tokens, d) to (tokens, d) and
    should be causal.

    **Raises:** ValueError for sizes below 1; at a call, for more tokens than `length`.

    ```python
    model = gflow.models.Transformer(vocabulary=32, length=13, key=jax.random.key(0))
    model(jnp.array([3, 1, 4, 1, 5]))              # (5, 32)
    model.layers[0].attention.pairs["kq"]          # factors of W_KᵀW_Q, (heads, d, d_h) each
    ```
    """

    embedding: Float[Array, "... vocabulary d"]
    positions: Float[Array, "... length d"] | None
    layers: tuple[Block, ...]
    readout: Float[Array, "... vocabulary d"]
    readout_bias: Float[Array, "... vocabulary"] | None
    norm: eqx.Module | None

    def __init__(
        self,
        vocabulary: int,
        length: int | None,
        *,
        d: int = 32,
        heads: int = 2,
        head_width: int = 16,
        hidden: int | None = 64,
        layers: int = 2,
        attention: MakeAttention | None = None,
        norm: eqx.Module | None = NORM,
        residual: bool = True,
        bias: bool = False,
        key: PRNGKeyArray,
    ):
        check_sizes(self, vocabulary=vocabulary, d=d, layers=layers)
        keys = jax.random.split(key, layers + 3)
        self.embedding = jax.random.normal(keys[0], (vocabulary, d))
        self.positions = None
        if length is not None:
            check_sizes(self, length=length)
            self.positions = jax.random.normal(keys[1], (length, d))
        self.readout = gaussian(keys[2], (vocabulary, d), d)
        self.readout_bias = jnp.zeros(vocabulary) if bias else None
        make = attention or multi_head(d, heads, head_width, causal=True)
        self.layers = blocks(keys[3:], make, d, hidden, norm=norm, residual=residual, bias=bias)
        self.norm = norm

    def embedded(self, tokens: Int[Array, " length"]) -> Float[Array, "length d"]:
        """The tokens as vectors, as they come to the first layer."""
        x = self.embedding[tokens]
        if self.positions is not None:
            if len(tokens) > len(self.positions):
                raise ValueError(
                    f"{len(tokens)} tokens, but this Transformer has positions for "
                    f"{len(self.positions)}: shorten the text or build it with a larger length."
                )
            x = x + self.positions[: len(tokens)]
        return x

    def __call__(self, tokens: Int[Array, " length"]) -> Float[Array, "length vocabulary"]:
        x = self.embedded(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.read(x)

    def read(self, tokens: Float[Array, "length d"]) -> Float[Array, "length vocabulary"]:
        """Logits of the tokens that come from the last layer."""
        return affine(normalised(tokens, self.norm), self.readout, self.readout_bias)
