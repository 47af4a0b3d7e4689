"""The weight X Xᵀ: columns of one factor in a gauge of their own."""

from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from ..coordinates._base import State, Weight
from ..coordinates._gauge import (
    GaugeCoordinates,
    clearing,
    column_drift,
    column_velocity,
    orthogonal,
    product,
)
from ..coordinates._product import ChainCoordinates
from ._base import Trainable
from ._factored import Factored


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
        return cls(direction, log_size, jnp.zeros((), jnp.int32), left.shape[-2])

    def value(self, state: State) -> Weight:
        u, log_size = self._columns(state)
        return product(u * jnp.exp(2.0 * log_size)[..., None, :], u.swapaxes(-1, -2))

    def velocity(self, state: State, force: Weight, decay: Float[Array, ""]) -> State:
        u, log_size = self._columns(state)
        turn, growth = column_velocity(u, _pushed(u, force), clearing(log_size))
        return jnp.concatenate([turn.ravel(), (growth - decay).ravel()])

    def at(self, record: dict[str, Array]) -> "SymmetricCoordinates":
        upper = record["direction"][..., : self.split, :]
        return SymmetricCoordinates(upper, record["log_size"], record["rotations"], self.split)

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
        }


def _pushed(x: Float[Array, "... n r"], force: Weight) -> Float[Array, "... n r"]:
    """(G + Gᵀ)x of every column."""
    return product(force + force.swapaxes(-1, -2), x)


class Symmetric(Factored):
    r"""W = e^{2 log_scale} X Xᵀ: left and right are one factor X and stay so.

        X' = −∇_X (L(X Xᵀ) + (λ/2)‖X‖²) = (G + Gᵀ)X − λX,   G = −∂L/∂W

    For L = ½‖X Xᵀ − M‖² it is X' = 2(M − X Xᵀ)X. The two factors of A Bᵀ, started from
    A = B = X, move at half this speed.

    The plain factor (`gflow.to_factors`) is one array X.

    **Raises:** ValueError for factors that differ, or heads: X is one matrix (n, r).

    ```python
    weight = Symmetric(x, x, log_scale=-230.26)
    weight = Symmetric.small((n, n), r, log_alpha=-230.26, key=key)
    ```
    """

    def __check_init__(self):
        left, right = self.left, self.right
        if left.ndim != 2:
            raise ValueError(f"X Xᵀ needs one matrix X, (n, r); X has shape {left.shape}.")
        traced = isinstance(left, jax.core.Tracer) or isinstance(right, jax.core.Tracer)
        if left is not right and not traced and not np.array_equal(left, right):
            raise ValueError(
                "The factors of X Xᵀ differ. Pass one X as left and right, or use gflow.Factored "
                "for A Bᵀ."
            )

    @classmethod
    def small(
        cls,
        shape: tuple[int, ...],
        rank: int,
        *,
        log_alpha: ArrayLike,
        key: PRNGKeyArray,
        exponent: ArrayLike = 1.0,
    ) -> "Symmetric":
        """X of `rank` Gaussian columns of size α^exponent, for W of `shape` (n, n)."""
        if len(shape) != 2 or shape[0] != shape[1]:
            raise ValueError(f"X Xᵀ is square, (n, n), and its shape was given as {shape}.")
        if rank < 1:
            raise ValueError(f"rank = {rank}: a product needs at least one column.")
        x = jax.random.normal(key, (shape[0], rank))
        return cls(x, x, log_scale=log_alpha, exponent=exponent)

    def coordinates(self, decays: bool) -> GaugeCoordinates:
        return SymmetricCoordinates.from_columns(self.left, self.right, self.log_scale)

    def _plain(self, left: Array, right: Array) -> "SquareFactor":
        return SquareFactor(left)


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


class SquareFactor(Trainable):
    """W = X Xᵀ with a plain array X: what an outside optimiser trains."""

    factor: Float[Array, "n r"]

    @property
    def value(self) -> Float[Array, "n n"]:
        return jnp.matmul(self.factor, self.factor.swapaxes(-1, -2))

    def conserved(self) -> Float[Array, "..."]:
        return jnp.zeros((0,), self.factor.dtype)

    def coordinates(self, decays: bool) -> ChainCoordinates:
        return SquareCoordinates.at_factors((self.factor,))

    def moved(self, record: dict[str, Any], time: float) -> "SquareFactor":
        return SquareFactor(jnp.asarray(record["factor_0"]))
