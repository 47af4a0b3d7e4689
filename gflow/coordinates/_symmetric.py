"""The weight X Xᵀ: columns of one factor in a gauge of their own, and X as it is."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ._base import State, Weight
from ._gauge import GaugeCoordinates, clearing, column_drift, column_velocity, product
from ._jacobi import orthogonal
from ._product import ChainCoordinates
from ._record import LeafRecord
from ._view import View


class SymmetricCoordinates(GaugeCoordinates):
    r"""Directions u_j and log-sizes ℓ_j of the columns e^{ℓ_j} u_j of X, where W = X Xᵀ.

    X' = (G + Gᵀ)X − λX with G = −∂L/∂W: the gauge of [A; B] with G + Gᵀ in place of
    [[0, G], [Gᵀ, 0]]. As two factors that start equal A and B would not stay so: where G has an
    eigenvalue −g rounding grows along [v; −v] at rate g, and in the end W learns −vvᵀ, which
    no X Xᵀ can. With one of them in the state there is no such direction.
    """

    @classmethod
    def from_columns(cls, left: Array, right: Array, log_size: Array) -> "SymmetricCoordinates":
        """At X = left·e^{log_size}, columns made orthogonal; `right` is the same."""
        direction, log_size = orthogonal(left, log_size)
        alone = jnp.zeros((), jnp.int32), jnp.zeros((1, 1), bool)
        return cls(direction, log_size, *alone, left.shape[-2])

    def value(self, state: State) -> Weight:
        u, log_size = self._columns(state)
        return product(u * jnp.exp(2.0 * log_size)[..., None, :], u.swapaxes(-1, -2))

    def velocity(self, state: State, force: Weight, decay: Float[Array, ""]) -> State:
        u, log_size = self._columns(state)
        turn, growth = column_velocity(u, _pushed(u, force), clearing(log_size))
        return jnp.concatenate([turn.ravel(), (growth - decay).ravel()])

    def at(self, record: LeafRecord) -> "SymmetricCoordinates":
        upper = record["direction"][..., : self.split, :]
        frame = record["rotations"], record["blurred"]
        return SymmetricCoordinates(upper, record["log_size"], *frame, self.split)

    def drift(
        self, state: State, force: Weight, decay: Float[Array, ""], origin: State
    ) -> tuple[Float[Array, " weights"], Float[Array, " weights"]]:
        u, log_size = self._columns(state)
        gu = _pushed(u, force)
        growth = jnp.sum(u * gu, axis=-2) - decay
        return column_drift(growth, gu - decay * u, log_size)

    def descent(self, state: State, force: Weight, decay: Float[Array, ""]) -> Float[Array, ""]:
        u, log_size = self._columns(state)
        x = u * jnp.exp(log_size)[..., None, :]
        return jnp.sum((_pushed(x, force) - decay * x) ** 2)

    def record(self, state: State) -> dict[str, Array]:
        u, log_size = self._columns(state)
        both = jnp.concatenate([u, u], axis=-2)
        return {
            "value": self.value(state),
            "direction": both,
            "log_size": log_size,
            "rotations": self.rotations,
            "blurred": self.blurred,
        }

    def view(self, state: State) -> View:
        u, log_size = self._columns(state)
        x = u * jnp.exp(log_size)[..., None, :]
        return View(self.value(state), (x, x.swapaxes(-1, -2)), jnp.zeros((0,), state.dtype), True)


def _pushed(x: Float[Array, "... n r"], force: Weight) -> Float[Array, "... n r"]:
    """(G + Gᵀ)x of every column."""
    return product(force + force.swapaxes(-1, -2), x)


class SquareCoordinates(ChainCoordinates):
    """X itself: X' = (G + Gᵀ)X − λX."""

    def value(self, state: State) -> Weight:
        (x,) = self._factors(state)
        return product(x, x.swapaxes(-1, -2))

    def velocity(self, state: State, force: Weight, decay: Float[Array, ""]) -> State:
        (x,) = self._factors(state)
        return _pushed(x, force).ravel() - decay * state

    def record(self, state: State) -> dict[str, Array]:
        return {"value": self.value(state), "factor_0": self._factors(state)[0]}

    def view(self, state: State) -> View:
        (x,) = self._factors(state)
        return View(self.value(state), (x, x.swapaxes(-1, -2)), jnp.zeros((0,), state.dtype), True)
