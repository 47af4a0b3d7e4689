"""Coordinates in which a gradient step on the columns of A Bᵀ is exact at any size."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ._base import Coordinates, State, Weight
from ._jacobi import EMPTY, OVERLAP, orthogonal
from ._record import LeafRecord
from ._signed_logs import compensated


class ColumnSteps(Coordinates):
    r"""Directions and log-sizes of the columns of Z = [A; B], moved by Z⁺ = (1 + ηH) Z.

    A step of gradient descent on the plain factors,

        A⁺ = (1 − ηλ)A + ηGB,   B⁺ = (1 − ηλ)B + ηGᵀA,   G = −∂L/∂W,

    acts on every column alike, H = [[0, G], [Gᵀ, 0]] − λ, and commutes with Z → ZR, R
    orthogonal, under which W, the loss and AAᵀ, BBᵀ stay. So the columns take the step of
    plain gradient descent as directions and logarithms, each to a relative error of a rounding
    whatever its size, and are turned to be orthogonal again (Jacobi's rotations, which lose
    nothing of a small column beside a large one) whenever two of them have come near.
    Gradient descent on A and B as an outside optimiser sees them, at α = 1e-100 as well.

    `inner` holds the columns; its state is followed by what rounding took from the logarithms.
    """

    inner: Any

    @property
    def chart(self) -> type[Coordinates]:
        return self.inner.chart

    @property
    def size(self) -> int:
        return self.inner.size + self.inner.log_size.size

    def start(self) -> State:
        return jnp.concatenate([self.inner.start(), jnp.zeros_like(self.inner.log_size).ravel()])

    def _inner(self, state: State) -> Float[Array, " inner"]:
        return state[: self.inner.size]

    def value(self, state: State) -> Weight:
        return self.inner.value(self._inner(state))

    def velocity(self, state: State, force: Weight, decay: Float[Array, ""]) -> State:
        moving = self.inner.velocity(self._inner(state), force, decay)
        return jnp.concatenate([moving, jnp.zeros_like(self.inner.log_size).ravel()])

    def descended(
        self, state: State, force: Weight, decay: Float[Array, ""], rate: Float[Array, ""]
    ) -> State:
        x, log_size = self.inner._columns(self._inner(state))
        lost = state[self.inner.size :].reshape(log_size.shape)
        z = (1.0 - rate * decay) * x + rate * self._pulled(x, force)
        length = jnp.sqrt(jnp.sum(z**2, axis=-2))
        there = (log_size > 0.5 * EMPTY) & (length != 0.0)
        length = jnp.where(there, length, 1.0)
        x = jnp.where(there[..., None, :], z / length[..., None, :], x)
        log_size, lost = compensated(log_size, lost, jnp.log(length))
        log_size = jnp.where(there, log_size, EMPTY)
        x, log_size = jax.lax.cond(_crowded(x, there), _orthogonal, lambda *y: y, x, log_size)
        return jnp.concatenate([x.ravel(), log_size.ravel(), lost.ravel()])

    def _pulled(self, x: Array, force: Weight) -> Array:
        """Hx of every column, without decay: the slope of the weight along it, under `force`."""
        sizes = jnp.zeros_like(self.inner.log_size).ravel()

        def weight(x: Array) -> Weight:
            return self.inner.value(jnp.concatenate([x.ravel(), sizes]))

        return jax.vjp(weight, x)[1](force)[0]

    def view(self, state: State) -> PyTree:
        return self.inner.view(self._inner(state))

    def record(self, state: State) -> dict[str, Array]:
        return self.inner.record(self._inner(state))

    def at(self, record: LeafRecord) -> "ColumnSteps":
        return ColumnSteps(self.inner.at(record))

    def descent(self, state: State, force: Weight, decay: Float[Array, ""]) -> Float[Array, ""]:
        return self.inner.descent(self._inner(state), force, decay)

    def resolved(self, state: State, force: Weight) -> Array:
        return self.inner.resolved(self._inner(state), force)


def _crowded(x: Float[Array, "... rows r"], there: Array) -> Array:
    """Whether the cosines of some column with the others add up to more than OVERLAP.

    As long as they do not, no combination of the columns is much shorter than its coefficients.
    """
    x = jnp.where(there[..., None, :], x, 0.0)
    cosines = jnp.abs(jnp.matmul(x.swapaxes(-1, -2), x))
    return jnp.max(jnp.sum(cosines, axis=-1) - jnp.sum(x**2, axis=-2)) > OVERLAP


def _orthogonal(x: Float[Array, "... rows r"], log_size: Float[Array, "... r"]) -> Any:
    """Columns turned to be orthogonal, head by head."""
    flat = x.reshape(-1, *x.shape[-2:]), log_size.reshape(-1, log_size.shape[-1])
    turned, sizes = jax.vmap(orthogonal)(*flat)
    return turned.reshape(x.shape), sizes.reshape(log_size.shape)
