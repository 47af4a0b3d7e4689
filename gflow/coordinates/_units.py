"""A plain weight in parts, each bound to a unit of the model: direction and log-size."""

import dataclasses
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ._base import Coordinates, State, Weight
from ._bases import as_given
from ._record import LeafRecord
from ._view import View


class UnitAxes(NamedTuple):
    """The label of the units of a leaf, the axes that count them, and their names as interfaces."""

    label: str
    axes: tuple[int, ...]
    interfaces: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Binding:
    """Which unit every entry of a leaf belongs to.

    By `axes`, those that count units. Where they are the first ones they are counted in order, and
    an entry belongs to the unit that it is a part of. Where each of them is an `interface`, at
    which directions are numbered by their size, it belongs to the smaller of the two that it joins.
    """

    shape: tuple[int, ...]
    axes: tuple[int, ...]
    count: int
    interfaces: bool = False

    @classmethod
    def of(cls, shape: tuple[int, ...], units: "UnitAxes", count: int) -> "Binding":
        return cls(shape, units.axes, count, bool(units.interfaces))

    @property
    def places(self) -> Int[np.ndarray, "axes entries"]:
        """The units that every entry touches."""
        index = np.indices(self.shape).reshape(len(self.shape), -1)
        if self.interfaces:
            return index[list(self.axes)]
        counts = [self.shape[a] for a in self.axes]
        return np.asarray(np.ravel_multi_index(tuple(index[list(self.axes)]), counts))[None]

    @property
    def owner(self) -> Int[np.ndarray, " entries"]:
        """The unit that every entry belongs to."""
        return np.max(self.places, axis=0)

    @property
    def mine(self) -> Bool[np.ndarray, "units entries"]:
        """Which entries belong to every unit."""
        return np.arange(self.count)[:, None] == self.owner[None]

    def sums(self, entries: Float[Array, " entries"]) -> Float[Array, " units"]:
        """Of the entries of every unit."""
        if not self.interfaces:
            return jnp.sum(entries.reshape(self.count, -1), axis=1)
        return jnp.matmul(jnp.asarray(self.mine, entries.dtype), entries)

    def spread(self, numbers: Float[Array, " units"]) -> Float[Array, " entries"]:
        """The number of its unit for every entry."""
        if not self.interfaces:
            return jnp.repeat(numbers, int(np.prod(self.shape)) // self.count)
        return numbers[self.owner]


class UnitCoordinates(Coordinates):
    r"""W_h = e^{ℓ_h} X_h for every unit h: the part of one leaf in units.

    A unit is one mode of a model, bound across leaves (a head: v_h, K_h, Q_h); its ℓ_h is
    common to all of them and its X_h of norm one over all of them together. The state of one leaf
    is X and the ℓ of its units; how they move is a matter of all leaves, see `UnitFlow`.

    Along an axis that is an interface the leaf is seen in a basis of its own, the rows of the
    orthogonal matrix that `bases` has there: W = e^ℓ X times one of them along every such axis.
    `value` is what the flow needs, the weight in these bases; what is recorded is the weight.
    """

    direction: Float[Array, "..."]
    log_size: Float[Array, "... units"]
    bases: tuple[Float[Array, "..."], ...]
    binding: Binding = eqx.field(static=True)

    #: What can be active are the norms of units, not entries.
    entrywise: ClassVar[bool] = False

    @property
    def size(self) -> int:
        return self.direction.size + self.log_size.size

    def start(self) -> State:
        return jnp.concatenate([self.direction.ravel(), self.log_size])

    def _split(self, state: State) -> tuple[Float[Array, " entries"], Float[Array, " units"]]:
        units = self.log_size.size
        return state[:-units], state[-units:]

    def value(self, state: State) -> Weight:
        x, log_size = self._split(state)
        return (x * jnp.exp(self.binding.spread(log_size))).reshape(self.direction.shape)

    def velocity(self, state: State, force: Weight, decay: Float[Array, ""]) -> State:
        """Of units that are bound to no other leaf."""
        x, log_size = self._split(state)
        g = force.ravel() * jnp.exp(-self.binding.spread(log_size))
        growth = self.binding.sums(g * x) / self.binding.sums(x**2)
        turned = g - self.binding.spread(growth) * x
        return jnp.concatenate([turned, growth - decay])

    def at(self, record: LeafRecord) -> "UnitCoordinates":
        bases = tuple(record[f"basis_{a}"] for a in range(len(self.bases)))
        moved = record["direction"], record["log_size"], bases
        return eqx.tree_at(lambda c: (c.direction, c.log_size, c.bases), self, moved)

    def frame(self) -> tuple[Array, ...]:
        return self.bases

    def framed(self, frame: tuple[Array, ...]) -> "UnitCoordinates":
        return eqx.tree_at(lambda c: c.bases, self, frame)

    def _as_given(self, weight: Weight) -> Weight:
        """What is seen in its bases, as the model has it."""
        return as_given(weight, self.binding.axes[: len(self.bases)], self.bases)

    def tolerance(self, rtol: Float[Array, ""]) -> tuple[State, State]:
        zero = jnp.zeros_like(self.start())
        return zero + rtol, zero

    def descent(self, state: State, force: Weight, decay: Float[Array, ""]) -> Float[Array, ""]:
        return jnp.sum((force - decay * self.value(state)) ** 2)

    def record(self, state: State) -> dict[str, Array]:
        x, log_size = self._split(state)
        part = log_size + 0.5 * jnp.log(self.binding.sums(x**2))
        return {
            "value": self._as_given(self.value(state)),
            "direction": x.reshape(self.direction.shape),
            "log_size": log_size,
            "log_part": part,
            **{f"basis_{a}": basis for a, basis in enumerate(self.bases)},
        }

    def felt(self, state: State, force: Weight) -> dict[str, Array]:
        """What is recorded of the force in these coordinates: itself, and along every unit."""
        x, _ = self._split(state)
        norm = jnp.sqrt(self.binding.sums(x**2))
        pull = self.binding.sums(x * force.ravel()) / jnp.where(norm > 0.0, norm, 1.0)
        return {"force": self._as_given(force), "pull": pull}

    def view(self, state: State) -> View:
        return View(self._as_given(self.value(state)), None, jnp.zeros((0,), state.dtype))

    @classmethod
    def log_norm(cls, record: LeafRecord) -> Float[np.ndarray, "..."]:
        """Of the part of every unit that lies in this leaf."""
        return np.asarray(record["log_part"])

    @classmethod
    def log_modes(cls, record: LeafRecord) -> Float[np.ndarray, "... modes"]:
        return np.asarray(cls.log_norm(record))

    @classmethod
    def modes(
        cls, record: LeafRecord
    ) -> tuple[Float[np.ndarray, "... modes"], Float[np.ndarray, "... modes"]]:
        """Norms of the parts, and the forces along them."""
        return np.exp(cls.log_norm(record)), np.asarray(record["pull"])

    @classmethod
    def interpolated(
        cls, record: LeafRecord, between: Callable[[np.ndarray], np.ndarray]
    ) -> Float[np.ndarray, "... modes"]:
        return between(cls.log_modes(record))
