"""Coordinates in which a weight is integrated: the same flow, never below the float floor.

Every trained leaf owns one `Coordinates` object and a flat state vector. The
coordinates turn the state into the effective weight the forward pass sees, and the
force g = −∂L/∂(weight) into the velocity of the state. The error of a state component
is measured against `atol + rtol·|state|` with the two arrays of `tolerance`.
"""

import abc
import importlib
import sys
from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .._svd import svd
from ._record import LeafRecord
from ._view import View

State = Float[Array, " size"]
Weight = Float[Array, "..."]


class Coordinates(eqx.Module):
    """How one leaf is represented in the state vector of the flow.

    `start`, `value` and `velocity` are the contract; all else has a default that holds for
    weights integrated as they are, in coordinates that stay as they are made.
    """

    #: Whether the state holds logarithms, which are stiff on every plateau.
    logarithmic: ClassVar[bool] = False
    #: Whether the Jacobian of the flow in them is similar to a symmetric matrix.
    symmetric: ClassVar[bool] = False
    #: Whether they are a weight itself over a fixed factor: of size zero, it may stay there.
    plain: ClassVar[bool] = False
    #: Whether a way down from a saddle shows in `drift` and not in the Jacobian.
    turning: ClassVar[bool] = False
    #: Whether what can be active are the singular values of the weight, and not its entries.
    spectral: ClassVar[bool] = False
    #: Whether what can be active are the entries of the weight.
    entrywise: ClassVar[bool] = True
    #: Whether the weight is a product of factors, which all vanish together at small α.
    product: ClassVar[bool] = False

    @abc.abstractmethod
    def start(self) -> State:
        """The state the coordinates were made at."""

    @abc.abstractmethod
    def value(self, state: State) -> Weight:
        """Effective weight at `state`."""

    @abc.abstractmethod
    def velocity(self, state: State, force: Weight, decay: Float[Array, ""]) -> State:
        """d(state)/dt under the force −∂L/∂weight and the decay rate λ(t)."""

    def descended(
        self, state: State, force: Weight, decay: Float[Array, ""], rate: Float[Array, ""]
    ) -> State:
        """State after a step of gradient descent; by default of factors held as they are."""
        return state + rate * self.velocity(state, force, decay)

    @property
    def chart(self) -> type["Coordinates"]:
        """Whose record it is that `record` makes."""
        return type(self)

    def arrays(self, state: State) -> PyTree[Array] | None:
        """The plain factors that `state` is made of, one after the other; None of anything else."""
        return None

    @property
    def size(self) -> int:
        """Number of components of the state."""
        return jax.eval_shape(self.start).size

    def tolerance(self, rtol: Float[Array, ""]) -> tuple[State, State]:
        """Absolute and relative tolerance of each state component."""
        return raw_tolerance(self.start(), rtol)

    def view(self, state: State) -> PyTree:
        """What an observable sees in place of the parameter: its value, factors, invariant."""
        return View(self.value(state))

    def record(self, state: State) -> dict[str, Array]:
        """What a trajectory stores of `state`; enough for `at` and `Parameter.at_record`."""
        return {"value": self.value(state), "state": state}

    def felt(self, state: State, force: Weight) -> dict[str, Array]:
        """What is recorded of the force there."""
        return {"force": force}

    def at(self, record: LeafRecord) -> "Coordinates":
        """The coordinates best suited to the recorded point, starting there."""
        return Moved(self, record["state"])

    def descent(self, state: State, force: Weight, decay: Float[Array, ""]) -> Float[Array, ""]:
        """|velocity of the factors|², by which loss + (λ/2)‖factors‖² falls."""
        return jnp.sum(self.velocity(state, force, decay) ** 2)

    def resolved(self, state: State, force: Weight) -> Array:
        """False where rounding has swallowed what the flow still needs."""
        return jnp.array(True)

    def allowed(self, error: State, before: State, state: State, force: Weight) -> State:
        """The error that a step from `before` to `state` may have; `error` is what tolerances say.

        `force` is that at `state`.
        """
        return error

    def drift(
        self, state: State, force: Weight, decay: Float[Array, ""], origin: State
    ) -> tuple[Float[Array, " weights"], Float[Array, " weights"]]:
        """Speed of every weight or column, and the scale on which it is one of its own.

        All speeds are zero at rest and only there: a dormant weight under a force is not at
        rest, one that shrinks beside others is. `origin` is the state the run began at.
        """
        scale = jnp.maximum(jnp.abs(state), jnp.abs(origin))
        return self.velocity(state, force, decay), scale

    def log_sizes(self) -> Float[Array | np.ndarray, "..."]:
        """Logarithms in the state at the start, which floats hold to a rounding of their own."""
        return np.zeros(0)

    def polar(self) -> "Coordinates":
        """The same start as direction and logarithm of the norm, where it is a plain weight."""
        return self

    # What may change from one step to the next

    def frame(self) -> PyTree[Array]:
        """The part of the coordinates that may change from one step to the next."""
        return ()

    def framed(self, frame: PyTree[Array]) -> "Coordinates":
        """The same coordinates with states written in `frame`."""
        return self

    def recentred(self, state: State) -> tuple[PyTree[Array], State]:
        """The frame in which `state` loses least to rounding, and the state in it."""
        return (), state

    def horizon(self, state: State, velocity: State, atol: State) -> Float[Array, ""]:
        """Longest step worth trying: until something yet unfelt comes to be felt."""
        return jnp.asarray(jnp.inf, state.dtype)

    # What a record of them says, with any leading axes of time

    @classmethod
    def log_norm(cls, record: LeafRecord) -> Float[np.ndarray, "..."] | None:
        """log‖W‖, where it is part of the record."""
        return None

    @classmethod
    def log_entries(cls, record: LeafRecord) -> Float[np.ndarray, "..."]:
        """log|θ| of every entry of the weight, from its logarithms where it has them."""
        with np.errstate(divide="ignore"):
            return np.log(np.abs(np.asarray(record["value"])))

    @classmethod
    def log_modes(cls, record: LeafRecord) -> Float[np.ndarray, "... modes"]:
        """Logarithms of what can be active: entries, or singular values where `spectral`."""
        if not cls.spectral:
            return cls.log_entries(record)
        with np.errstate(divide="ignore"):
            return np.log(np.linalg.svdvals(np.asarray(record["value"])))

    @classmethod
    def modes(
        cls, record: LeafRecord
    ) -> tuple[Float[np.ndarray, "... modes"], Float[np.ndarray, "... modes"]]:
        """Size of every mode and the force along it: the entries, or singular values and uᵀGv."""
        value, force = np.asarray(record["value"]), np.asarray(record["force"])
        if not cls.spectral:
            return value, force
        u, sizes, vt = svd(value, full_matrices=False)
        along = np.einsum("...mk,...mn,...kn->...k", u, force, vt)
        count = min(sizes.shape[-1], cls.count_modes(record, sizes.shape[-1]))
        return sizes[..., :count], along[..., :count]

    @classmethod
    def count_modes(cls, record: LeafRecord, most: int) -> int:
        """How many of up to `most` singular values can differ from zero."""
        return most

    @classmethod
    def interpolated(
        cls, record: LeafRecord, between: Callable[[np.ndarray], np.ndarray]
    ) -> Float[np.ndarray, "... modes"]:
        """`log_modes` at times between the recorded ones, by `between` of what is straight."""
        return between(cls.log_modes(record))

    @classmethod
    def steps_on_branch(cls, record: LeafRecord) -> int:
        """Recorded steps up to which the run is on the branch that it started on."""
        return len(record["value"])


def movable(coordinates: Coordinates) -> Coordinates:
    """The coordinates, as ones whose `at` keeps their structure: compiled code goes on in them."""
    if type(coordinates).at is not Coordinates.at:
        return coordinates
    return Moved(coordinates, coordinates.start())


class Moved(Coordinates):
    """Coordinates that start somewhere else, with the tolerances of where they were made."""

    inner: Coordinates
    state: State

    @property
    def chart(self) -> type[Coordinates]:
        return self.inner.chart

    @property
    def size(self) -> int:
        return self.state.size

    def start(self) -> State:
        return self.state

    def value(self, state: State) -> Weight:
        return self.inner.value(state)

    def velocity(self, state: State, force: Weight, decay: Float[Array, ""]) -> State:
        return self.inner.velocity(state, force, decay)

    def arrays(self, state: State) -> PyTree[Array] | None:
        return self.inner.arrays(state)

    def tolerance(self, rtol: Float[Array, ""]) -> tuple[State, State]:
        return self.inner.tolerance(rtol)

    def descended(
        self, state: State, force: Weight, decay: Float[Array, ""], rate: Float[Array, ""]
    ) -> State:
        return self.inner.descended(state, force, decay, rate)

    def view(self, state: State) -> PyTree:
        return self.inner.view(state)

    def record(self, state: State) -> dict[str, Array]:
        return self.inner.record(state)

    def felt(self, state: State, force: Weight) -> dict[str, Array]:
        return self.inner.felt(state, force)

    def at(self, record: LeafRecord) -> "Moved":
        return Moved(self.inner, record["state"])

    def descent(self, state: State, force: Weight, decay: Float[Array, ""]) -> Float[Array, ""]:
        return self.inner.descent(state, force, decay)

    def resolved(self, state: State, force: Weight) -> Array:
        return self.inner.resolved(state, force)

    def allowed(self, error: State, before: State, state: State, force: Weight) -> State:
        return self.inner.allowed(error, before, state, force)

    def drift(
        self, state: State, force: Weight, decay: Float[Array, ""], origin: State
    ) -> tuple[Float[Array, " weights"], Float[Array, " weights"]]:
        return self.inner.drift(state, force, decay, origin)

    def log_sizes(self) -> Float[Array | np.ndarray, "..."]:
        return self.inner.log_sizes()

    def frame(self) -> PyTree[Array]:
        return self.inner.frame()

    def framed(self, frame: PyTree[Array]) -> "Moved":
        return Moved(self.inner.framed(frame), self.state)

    def recentred(self, state: State) -> tuple[PyTree[Array], State]:
        return self.inner.recentred(state)

    def horizon(self, state: State, velocity: State, atol: State) -> Float[Array, ""]:
        return self.inner.horizon(state, velocity, atol)


def chart_name(chart: type[Coordinates]) -> str:
    """What a file calls the coordinates that a record is of."""
    return f"{chart.__module__}:{chart.__qualname__}"


def chart_named(name: str) -> type[Coordinates]:
    """The coordinates that a file names; where they are not at hand the weight alone is read."""
    module, _, qualified = name.partition(":")
    if module.startswith("gflow."):
        importlib.import_module(module)
    found = getattr(sys.modules.get(module), qualified, Coordinates)
    known = isinstance(found, type) and issubclass(found, Coordinates)
    return found if known else Coordinates


def raw_tolerance(initial: State, rtol: Float[Array, ""]) -> tuple[State, State]:
    """Tolerances tied to the initial scale: a bare atol above it ends the escape."""
    scale = jnp.max(jnp.abs(initial), initial=0.0)
    relative = jnp.broadcast_to(rtol, initial.shape)
    return relative * jnp.where(scale > 0.0, scale, 1.0), relative
