"""Slices of a plain weight, each bound to a unit of the model: direction and log-size."""

from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._base import Coordinates, State, Weight
from ._record import LeafRecord
from ._view import View


class UnitCoordinates(Coordinates):
    r"""W_h = e^{ℓ_h} X_h for every slice h of the first `axes` axes: the part of one leaf in units.

    A unit is one mode of a model, bound across leaves (a head: v_h, K_h, Q_h); its ℓ_h is
    common to all of them and its X_h of norm one over all of them together. The state of one leaf
    is X and the ℓ of its units; how they move is a matter of all leaves, see `UnitFlow`.
    """

    direction: Float[Array, "..."]
    log_size: Float[Array, "... units"]
    axes: int = eqx.field(static=True, default=1)

    #: What can be active are the norms of units, not entries.
    entrywise: ClassVar[bool] = False

    @property
    def size(self) -> int:
        return self.direction.size + self.log_size.size

    def start(self) -> State:
        return jnp.concatenate([self.direction.ravel(), self.log_size])

    def _split(self, state: State) -> tuple[Float[Array, "units entries"], Float[Array, " units"]]:
        units = self.log_size.size
        return state[:-units].reshape(units, -1), state[-units:]

    def value(self, state: State) -> Weight:
        x, log_size = self._split(state)
        return (jnp.exp(log_size)[:, None] * x).reshape(self.direction.shape)

    def velocity(self, state: State, force: Weight, decay: Float[Array, ""]) -> State:
        """Of units that are bound to no other leaf."""
        x, log_size = self._split(state)
        g = jnp.exp(-log_size)[:, None] * force.reshape(x.shape)
        growth = jnp.sum(g * x, axis=1) / jnp.sum(x**2, axis=1)
        return jnp.concatenate([(g - growth[:, None] * x).ravel(), growth - decay])

    def at(self, record: LeafRecord) -> "UnitCoordinates":
        moved = record["direction"], record["log_size"]
        return eqx.tree_at(lambda c: (c.direction, c.log_size), self, moved)

    def tolerance(self, rtol: Float[Array, ""]) -> tuple[State, State]:
        zero = jnp.zeros_like(self.start())
        return zero + rtol, zero

    def descent(self, state: State, force: Weight, decay: Float[Array, ""]) -> Float[Array, ""]:
        return jnp.sum((force - decay * self.value(state)) ** 2)

    def record(self, state: State) -> dict[str, Array]:
        x, log_size = self._split(state)
        direction = x.reshape(self.direction.shape)
        return {"value": self.value(state), "direction": direction, "log_size": log_size}

    def view(self, state: State) -> View:
        return View(self.value(state), None, jnp.zeros((0,), state.dtype))

    @classmethod
    def log_norm(cls, record: LeafRecord) -> Float[np.ndarray, "..."]:
        """Of the part of every unit that lies in this leaf."""
        rows = _rows(record, "direction")
        with np.errstate(divide="ignore"):
            return np.asarray(record["log_size"]) + 0.5 * np.log(np.sum(rows**2, axis=-1))

    @classmethod
    def log_modes(cls, record: LeafRecord) -> Float[np.ndarray, "... modes"]:
        return np.asarray(cls.log_norm(record))

    @classmethod
    def modes(
        cls, record: LeafRecord
    ) -> tuple[Float[np.ndarray, "... modes"], Float[np.ndarray, "... modes"]]:
        """Norms of the slices, and the forces along them."""
        value, force = _rows(record, "value"), _rows(record, "force")
        sizes = np.exp(cls.log_norm(record))
        along = np.sum(value * force, axis=-1) / np.where(sizes > 0.0, sizes, 1.0)
        return sizes, along

    @classmethod
    def interpolated(
        cls, record: LeafRecord, between: Callable[[np.ndarray], np.ndarray]
    ) -> Float[np.ndarray, "... modes"]:
        return between(cls.log_modes(record))


def _rows(record: LeafRecord, name: str) -> np.ndarray:
    """An array of the record with an axis of units and one of entries last."""
    units = np.shape(record["log_size"])
    return np.asarray(record[name]).reshape(*units, -1)
