"""Blocks, and what they are put together from."""

import abc
import math
from collections.abc import Callable
from typing import TypeVar

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ._gaussian import gaussian
from ._pointwise import pointwise
from ._tokens import Tokens, floats, some_floats

Memory = TypeVar("Memory", bound=PyTree)


class Block(eqx.Module):
    """One layer: `Tokens` to `Tokens`. In `depth.flow` what it returns is the velocity."""

    @abc.abstractmethod
    def __call__(self, tokens: Tokens) -> Tokens:
        """The tokens after this layer."""


class Recurrent(eqx.Module):
    """A layer with something handed on to the next beside the tokens."""

    @abc.abstractmethod
    def memory(self, tokens: Tokens) -> PyTree:
        """What the first layer is handed."""

    @abc.abstractmethod
    def __call__(self, tokens: Tokens, memory: PyTree) -> tuple[Tokens, PyTree]:
        """The tokens after this layer, and what the next is handed."""


class Linear(Block):
    """X weight + bias.

    ```python
    depth.Linear(jnp.eye(4), jnp.ones(4))
    ```
    """

    weight: Float[Array, "... d width"] = eqx.field(converter=floats)
    bias: Float[Array, "... width"] | None = eqx.field(default=None, converter=some_floats)

    def __call__(self, tokens: Tokens) -> Tokens:
        found = tokens @ self.weight
        return found if self.bias is None else found.shifted(self.bias)


class MLP(Block):
    r"""φ(X first + b) second, token by token.

    **Arguments:** `first` (d, hidden), `second` (hidden, d); `activation` elementwise; `bias` b.

    ```python
    depth.MLP.random(16, 64, key=key)
    ```
    """

    first: Float[Array, "... d hidden"] = eqx.field(converter=floats)
    second: Float[Array, "... hidden d"] = eqx.field(converter=floats)
    bias: Float[Array, "... hidden"] | None = eqx.field(default=None, converter=some_floats)
    activation: Callable[[Array], Array] = eqx.field(static=True, default=jax.nn.relu)

    @classmethod
    def random(
        cls,
        d: int,
        hidden: int,
        *,
        key: PRNGKeyArray,
        activation: Callable[[Array], Array] = jax.nn.relu,
    ) -> "MLP":
        """Gaussian weights of variance 2/d and 1/hidden: a ReLU keeps norms."""
        one, two = jax.random.split(key)
        return cls(
            math.sqrt(2.0 / d) * gaussian(one, (d, hidden)),
            gaussian(two, (hidden, d)) / math.sqrt(hidden),
            activation=activation,
        )

    def __call__(self, tokens: Tokens) -> Tokens:
        inner = tokens @ self.first
        if self.bias is not None:
            inner = inner.shifted(self.bias)
        return pointwise(self.activation, inner) @ self.second


class Residual(Block):
    """X + scale · block(X).

    ```python
    depth.Residual(depth.Average(jnp.eye(4)), 0.1)
    ```
    """

    block: Block
    scale: float | int | Float[Array, "..."] = 1.0

    def __call__(self, tokens: Tokens) -> Tokens:
        return tokens + self.scale * self.block(tokens)


class Chain(Block):
    """Blocks one after the other, as one layer.

    ```python
    depth.Chain((depth.LayerNorm(), depth.Residual(attention)))
    ```
    """

    blocks: tuple[Block, ...]

    def __call__(self, tokens: Tokens) -> Tokens:
        for block in self.blocks:
            tokens = block(tokens)
        return tokens
