"""The two factors of a weight as they are, with a guard against a lost difference."""

from typing import ClassVar, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from ._base import Coordinates, State, Weight
from ._record import LeafRecord
from ._view import View


class Entries(NamedTuple):
    """The two factors of a weight u ⊙ v, entry by entry."""

    u: Float[Array, "..."]
    v: Float[Array, "..."]


class FactorCoordinates(Coordinates):
    """The two factors themselves: θ = u⊙v, u' = v⊙g − λu, v' = u⊙g − λv."""

    product: ClassVar[bool] = True

    u: Float[Array, "..."]
    v: Float[Array, "..."]

    @property
    def size(self) -> int:
        return 2 * self.u.size

    def start(self) -> State:
        return jnp.concatenate([self.u.ravel(), self.v.ravel()])

    def _factors(self, state: State) -> tuple[Array, Array]:
        u, v = state.reshape(2, *self.u.shape)
        return u, v

    def arrays(self, state: State) -> Entries:
        return Entries(*self._factors(state))

    def value(self, state: State) -> Weight:
        u, v = self._factors(state)
        return u * v

    def velocity(self, state: State, force: Weight, decay: Float[Array, ""]) -> State:
        u, v = self._factors(state)
        flow = jnp.concatenate([(v * force).ravel(), (u * force).ravel()])
        return flow - decay * state

    def at(self, record: LeafRecord) -> "FactorCoordinates":
        return type(self)(record["u"], record["v"])

    def record(self, state: State) -> dict[str, Array]:
        u, v = self._factors(state)
        return {"value": u * v, "u": u, "v": v}

    def resolved(self, state: State, force: Weight) -> Array:
        # c = s·d decides when an active weight switches off. With |d| near the
        # rounding of |s| the state no longer knows it.
        u, v = self._factors(state)
        s, d = jnp.abs(u + v), jnp.abs(u - v)
        floor = 32 * jnp.finfo(u.dtype).eps * jnp.maximum(s, d)
        return jnp.all(jnp.minimum(s, d) > floor)

    def view(self, state: State) -> View:
        u, v = self._factors(state)
        return View(u * v, (u, v), (u + v) * (u - v))
