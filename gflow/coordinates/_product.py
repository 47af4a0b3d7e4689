"""Coordinates of a chain of matrices as they are, with a guard against lost modes."""

import itertools
from functools import reduce
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ._base import Coordinates, State, Weight
from ._record import LeafRecord
from ._view import View


class ChainCoordinates(Coordinates):
    """The factors of W = W_1 W_2 ⋯ themselves: W_k' = (W_1⋯W_{k−1})ᵀ G (W_{k+1}⋯)ᵀ − λW_k.

    A mode of a factor that has sunk below the rounding of its largest is noise from then
    on: `resolved` counts them against the start.
    """

    spectral: ClassVar[bool] = True
    product: ClassVar[bool] = True

    initial: tuple[Float[Array, "..."], ...]
    resolved_modes: tuple[Int[Array, "..."], ...]

    #: Whether the one balance of two factors is what they conserve, not a tuple of one.
    pair: bool = eqx.field(static=True, default=False)

    @classmethod
    def at_factors(cls, factors: tuple[Array, ...], pair: bool = False) -> "ChainCoordinates":
        return cls(factors, tuple(map(_modes, factors)), pair)

    @property
    def size(self) -> int:
        return sum(x.size for x in self.initial)

    def start(self) -> State:
        return jnp.concatenate([x.ravel() for x in self.initial])

    def _factors(self, state: State) -> tuple[Array, ...]:
        cuts = np.cumsum([x.size for x in self.initial])[:-1].tolist()
        parts = zip(jnp.split(state, cuts), self.initial, strict=True)
        return tuple(part.reshape(x.shape) for part, x in parts)

    def arrays(self, state: State) -> tuple[Array, ...]:
        return self._factors(state)

    def value(self, state: State) -> Weight:
        return chained(self._factors(state))

    def velocity(self, state: State, force: Weight, decay: Float[Array, ""]) -> State:
        factors = self._factors(state)
        (pulled,) = jax.vjp(chained, factors)[1](force)
        return jnp.concatenate([x.ravel() for x in pulled]) - decay * state

    def at(self, record: LeafRecord) -> "ChainCoordinates":
        factors = tuple(record[f"factor_{i}"] for i in range(len(self.initial)))
        return eqx.tree_at(lambda c: c.initial, self, factors)

    def record(self, state: State) -> dict[str, Array]:
        factors = self._factors(state)
        return {"value": chained(factors)} | {f"factor_{i}": x for i, x in enumerate(factors)}

    def view(self, state: State) -> View:
        factors = self._factors(state)
        found = balances(factors)
        return View(chained(factors), factors, found[0] if self.pair else found, True)

    def resolved(self, state: State, force: Weight) -> Array:
        now = zip(map(_modes, self._factors(state)), self.resolved_modes, strict=True)
        return jnp.all(jnp.stack([jnp.all(n >= before) for n, before in now]))


def chained(factors: tuple[Array, ...]) -> Array:
    return reduce(jnp.matmul, factors)


def balances(factors: tuple[Array, ...]) -> tuple[Array, ...]:
    """aᵀa − bbᵀ for every pair of neighbours a, b."""

    def balance(a: Array, b: Array) -> Array:
        return jnp.matmul(a.swapaxes(-1, -2), a) - jnp.matmul(b, b.swapaxes(-1, -2))

    return tuple(balance(a, b) for a, b in itertools.pairwise(factors))


#: Roundings of the largest singular value that a mode must exceed to keep some five digits.
_DIGITS = 2.0**17


def _modes(x: Array) -> Int[Array, "..."]:
    """Number of singular values that are known beside the rounding of the largest."""
    values = jnp.linalg.svdvals(x)
    floor = _DIGITS * jnp.finfo(x.dtype).eps * values[..., :1]
    return jnp.sum(values > floor, axis=-1)
