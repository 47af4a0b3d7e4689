"""The block of a transformer: attention, then a perceptron, each of what the norm makes of X."""

from collections.abc import Callable, Iterable

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from ._dense import Perceptron, RMSNorm
from ._multi_head import MultiHeadAttention

#: Attention of one layer from the number of the layer and a key; None: a layer without.
MakeAttention = Callable[[int, PRNGKeyArray], eqx.Module | None]

NORM = RMSNorm()


class Block(eqx.Module):
    r"""Attention, then a perceptron, each added to its input:

        X ← X + attention(norm(X)),   X ← X + perceptron(norm(X))

    `attention`, `perceptron` and `norm` are modules on tokens, (tokens, d) to (tokens, d), None
    where there is none; one norm serves both parts. `residual=False` leaves out the two X +.

    **Raises:** ValueError for neither attention nor perceptron and, at a call, for a part that
    changes the shape.

    ```python
    kq, vo = (gflow.Factored.small((2, 8, 8), 4, log_alpha=-230, key=k) for k in keys)
    block = gflow.models.Block(gflow.models.SoftmaxAttention(kq, vo), norm=None)
    block(X)                                       # X: (tokens, 8) -> (tokens, 8)
    ```
    """

    attention: eqx.Module | None
    perceptron: eqx.Module | None
    norm: eqx.Module | None
    residual: bool = eqx.field(static=True)

    def __init__(
        self,
        attention: eqx.Module | None,
        perceptron: eqx.Module | None = None,
        *,
        norm: eqx.Module | None = NORM,
        residual: bool = True,
    ):
        if attention is None and perceptron is None:
            raise ValueError("Block(attention, perceptron) has neither: give at least one.")
        self.attention, self.perceptron = attention, perceptron
        self.norm, self.residual = norm, residual

    def __call__(self, x: Float[Array, "tokens d"]) -> Float[Array, "tokens d"]:
        for part in (self.attention, self.perceptron):
            if part is None:
                continue
            change = part(normalised(x, self.norm))
            if change.shape != x.shape:
                raise ValueError(
                    f"{type(part).__name__} of a Block turns shape {x.shape} into {change.shape}; "
                    "give parts that keep the shape."
                )
            x = x + change if self.residual else change
        return x


def normalised(x: Float[Array, "tokens d"], norm: eqx.Module | None) -> Float[Array, "tokens d"]:
    return x if norm is None else norm(x)


def multi_head(d: int, heads: int, head_width: int, *, causal: bool) -> MakeAttention:
    """Plain attention in every layer."""
    return lambda _, key: MultiHeadAttention(d, heads, head_width, causal=causal, key=key)


def blocks(
    keys: Iterable[PRNGKeyArray],
    attention: MakeAttention,
    d: int,
    hidden: int | None,
    *,
    norm: eqx.Module | None,
    residual: bool,
    bias: bool,
) -> tuple[Block, ...]:
    """A block for each of `keys`; `hidden=None`: without perceptrons."""
    made = []
    for number, key in enumerate(keys):
        first, second = jax.random.split(key)
        inner = None if hidden is None else Perceptron(d, hidden, bias=bias, key=second)
        made.append(Block(attention(number, first), inner, norm=norm, residual=residual))
    return tuple(made)
