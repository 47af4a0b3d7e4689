"""The arrays of a parameter of any kind as they are: what a user's own leaf gets by default."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from ._base import Coordinates, State, Weight
from ._record import LeafRecord


class ArrayCoordinates(Coordinates):
    r"""All arrays x of a parameter whose weight is `parameter.value`, W = W(x).

        x' = (∂W/∂x)ᵀ G − λx,   G = −∂L/∂W,

    the gradient flow of x. Everything that the parameter has, its methods and what it conserves,
    is there in observables.
    """

    parameter: PyTree

    def _split(self) -> tuple[Any, Any]:
        return eqx.partition(self.parameter, eqx.is_inexact_array)

    def start(self) -> State:
        return ravel_pytree(self._split()[0])[0]

    def view(self, state: State) -> PyTree:
        arrays, rest = self._split()
        return eqx.combine(ravel_pytree(arrays)[1](state), rest)

    def arrays(self, state: State) -> PyTree[Array]:
        return eqx.filter(self.view(state), eqx.is_inexact_array)

    def value(self, state: State) -> Weight:
        return jnp.asarray(self.view(state).value)

    def velocity(self, state: State, force: Weight, decay: Float[Array, ""]) -> State:
        (pulled,) = jax.vjp(self.value, state)[1](force)
        return pulled - decay * state

    def at(self, record: LeafRecord) -> "ArrayCoordinates":
        return ArrayCoordinates(self.view(record["state"]))
