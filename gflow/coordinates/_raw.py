"""A plain weight as it is, and as direction and logarithm of its norm."""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._base import Coordinates, State, Weight
from ._bases import as_given, as_seen
from ._record import LeafRecord
from ._view import View


class RawCoordinates(Coordinates):
    """The weight itself over a fixed factor: W = e^{log_scale}·state, W' = g − λW.

    Along `axes` the state has the components of the weight in `bases`.
    """

    plain: ClassVar[bool] = True

    initial: Float[Array, "..."]
    log_scale: Float[Array, ""]
    bases: tuple[Float[Array, "..."], ...] = ()
    axes: tuple[int, ...] = eqx.field(static=True, default=())

    @property
    def size(self) -> int:
        return self.initial.size

    def start(self) -> State:
        return self.initial.ravel()

    def value(self, state: State) -> Weight:
        weight = jnp.exp(self.log_scale) * state.reshape(self.initial.shape)
        return as_given(weight, self.axes, self.bases)

    def velocity(self, state: State, force: Weight, decay: Float[Array, ""]) -> State:
        seen = as_seen(force, self.axes, self.bases)
        return jnp.exp(-self.log_scale) * seen.ravel() - decay * state

    def at(self, record: LeafRecord) -> "RawCoordinates":
        return eqx.tree_at(lambda c: c.initial, self, record["array"])

    def descent(self, state: State, force: Weight, decay: Float[Array, ""]) -> Float[Array, ""]:
        return jnp.sum((force - decay * self.value(state)) ** 2)

    def record(self, state: State) -> dict[str, Array]:
        return {"value": self.value(state), "array": state.reshape(self.initial.shape)}

    def view(self, state: State) -> View:
        return View(self.value(state), None, jnp.zeros((0,), state.dtype))

    def arrays(self, state: State) -> Weight:
        return state.reshape(self.initial.shape)

    def polar(self) -> "PolarCoordinates":
        return PolarCoordinates.of_raw(self)


class PolarCoordinates(Coordinates):
    r"""W = e^ℓ X with X of norm one: near a saddle of order three and more, where W blows up.

    Three and more factors of size ε leave the origin after a time 1/ε and more, by growing
    slowly for almost all of it and by many powers of ten at its end. Directions and logarithms
    of the norms move by O(1) all the while: with g = e^{−ℓ}G, G = −∂L/∂W,

        X' = g − ℓ'X,   ℓ' = ⟨g, X⟩/|X|² + ½|g|(|X|² − 1).

    This is W' = G whatever the length of X; the last term draws it to one, where ℓ = log‖W‖.
    """

    direction: Float[Array, "..."]
    log_size: Float[Array, ""]

    @classmethod
    def of_raw(cls, raw: RawCoordinates) -> "PolarCoordinates":
        """At the same weight, which must not be zero."""
        initial = as_given(raw.initial, raw.axes, raw.bases)
        largest = jnp.max(jnp.abs(initial))
        direction = initial / largest  # squares of tiny entries would vanish
        norm = jnp.sqrt(jnp.sum(direction**2))
        return cls(direction / norm, raw.log_scale + jnp.log(largest) + jnp.log(norm))

    @property
    def size(self) -> int:
        return self.direction.size + 1

    def start(self) -> State:
        return jnp.concatenate([self.direction.ravel(), self.log_size[None]])

    def polar(self, state: State) -> tuple[Weight, Float[Array, ""]]:
        """X of norm one and log‖W‖."""
        square = jnp.sum(state[:-1] ** 2)
        x = state[:-1].reshape(self.direction.shape) / jnp.sqrt(square)
        return x, state[-1] + 0.5 * jnp.log(square)

    def value(self, state: State) -> Weight:
        return jnp.exp(state[-1]) * state[:-1].reshape(self.direction.shape)

    def velocity(self, state: State, force: Weight, decay: Float[Array, ""]) -> State:
        x, log_size = state[:-1], state[-1]
        g = jnp.exp(-log_size) * force.ravel()
        square, squared = jnp.sum(x**2), jnp.sum(g**2)
        speed = jnp.where(squared > 0.0, jnp.sqrt(jnp.where(squared > 0.0, squared, 1.0)), 0.0)
        growth = jnp.sum(g * x) / square + 0.5 * speed * (square - 1.0)
        return jnp.concatenate([g - growth * x, (growth - decay)[None]])

    def relative_speed(self, state: State, velocity: State) -> Float[Array, ""]:
        """|W'|/e^ℓ, whatever the direction."""
        return jnp.sqrt(jnp.sum((velocity[:-1] + velocity[-1] * state[:-1]) ** 2))

    def tolerance(self, rtol: Float[Array, ""]) -> tuple[State, State]:
        # as in log coordinates: a weight is known to a relative error at any size
        zero = jnp.zeros_like(self.start())
        return zero + 0.1 * rtol, zero

    def at(self, record: LeafRecord) -> "PolarCoordinates":
        moved = record["direction"], record["log_norm"]
        return eqx.tree_at(lambda c: (c.direction, c.log_size), self, moved)

    def descent(self, state: State, force: Weight, decay: Float[Array, ""]) -> Float[Array, ""]:
        return jnp.sum((force - decay * self.value(state)) ** 2)

    def record(self, state: State) -> dict[str, Array]:
        x, log_norm = self.polar(state)
        return {"value": self.value(state), "direction": x, "log_norm": log_norm}

    def view(self, state: State) -> View:
        return View(self.value(state), None, jnp.zeros((0,), state.dtype))

    @classmethod
    def log_norm(cls, record: LeafRecord) -> Float[np.ndarray, "..."]:
        return np.asarray(record["log_norm"])
