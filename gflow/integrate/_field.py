"""What steps are taken of: a vector field whose coordinates know about good steps."""

import abc
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

#: Factor by which a step may be longer than the one before, of most fields.
GROW = 10.0


class Pace(eqx.Module):
    """What the choice of the next step rests on; it carries one call of `march` into the next.

    `step` is to be tried next; `kept_step` was the last one kept and `kept_error` its error
    as a share of the tolerance.
    """

    step: Float[Array | np.ndarray, "..."]
    kept_step: Float[Array | np.ndarray, "..."]
    kept_error: Float[Array | np.ndarray, "..."]

    @classmethod
    def at(cls, step: Any) -> "Pace":
        """For a first step, with nothing behind it."""
        return cls(step, step, np.ones(np.shape(step), jnp.result_type(step)))


class Landing(eqx.Module):
    """Where a step has ended: the frame to go on in, the state there, whether the frame is another.

    `again`: the step may not stand, and is to be tried once more, at its length, in `frame`
    (None: every step may).
    """

    frame: PyTree[Array]
    state: Float[Array, " size"]
    changed: Bool[Array, ""]
    again: Bool[Array, ""] | None = None


class Field(eqx.Module):
    """A vector field on a flat state, and what its coordinates know about good steps.

    The `frame` is the part of the coordinates that may change from one step to the next
    (which of two charts a weight is in); between two steps `recentred` chooses it anew. A field
    whose frame holds its clock as well chooses it in `landed`, once a step, and where a step is
    taken in parts they all have the frame of the step.
    """

    #: Factor by which a step may be longer than the one before.
    grow: ClassVar[float] = GROW

    #: Whether time may pass by factors in a step: it is flow time, and no clock of the field's own.
    stretches: ClassVar[bool] = False

    @abc.abstractmethod
    def start(self) -> Float[Array, " size"]:
        """The state the field was made at."""

    @abc.abstractmethod
    def velocity(self, t: Float[Array, ""], state: Float[Array, " size"]) -> Array:
        """d(state)/dt."""

    @abc.abstractmethod
    def horizon(
        self, t: Float[Array, ""], state: Float[Array, " size"], atol: Float[Array, "..."]
    ) -> Float[Array, ""]:
        """The longest step worth trying from here; ∞ where nothing is known."""

    @abc.abstractmethod
    def frame(self) -> PyTree[Array]:
        """The frame `start` is written in."""

    @abc.abstractmethod
    def framed(self, frame: PyTree[Array]) -> "Field":
        """The same field with states written in `frame`."""

    @abc.abstractmethod
    def recentred(self, state: Float[Array, " size"]) -> tuple[PyTree[Array], Array, Array]:
        """The best frame for a point, its state there, and whether the frame is another."""

    def begun(self, state: Float[Array, " size"]) -> Array:
        """The state that a step starts from, where one has ended at `state`."""
        return state

    def landed(
        self, before: Float[Array, " size"], state: Float[Array, " size"], h: Float[Array, ""]
    ) -> Landing:
        """The frame to go on in after a step of length `h` from `before` to `state`."""
        return Landing(*self.recentred(state))

    def followed(self, state: Float[Array, " size"], frame: Any, own: PyTree[Array]) -> Any:
        """State and frame of a companion that has made a step, in the frame `own`, in its parts.

        The run goes on in `frame` (None: there is no other run). By default it keeps its own.
        """
        return state, own

    def paced(self, frame: PyTree[Array], pace: "Pace") -> tuple[PyTree[Array], "Pace"]:
        """The frame for the next step, and the pace there."""
        return frame, pace

    def allowed(
        self, tolerance: tuple[Array, Array], before: Float[Array, " size"],
        state: Float[Array, " size"],
    ) -> Float[Array, " size"]:  # fmt: skip
        """The error that a step from `before` to `state` may have."""
        atol, rtol = tolerance
        return atol + rtol * jnp.maximum(jnp.abs(before), jnp.abs(state))

    def way(self, t0: Any, y0: Any, after: Any, t1: Any, y1: Any) -> Array:
        """Of the step from (t0, y0) to (t1, y1) of the field `after` it: 1 where it may stand.

        0 where it ends beyond a surface at which the field is another: the march stops before
        it. Between the two: the share of it to be tried next.
        """
        return jnp.ones(())


class Unframed(Field):
    """A field from `state` on, in coordinates that stay as they are, with no word on steps."""

    state: Float[Array, " size"]

    def start(self) -> Float[Array, " size"]:
        return self.state

    def horizon(
        self, t: Float[Array, ""], state: Float[Array, " size"], atol: Float[Array, "..."]
    ) -> Float[Array, ""]:
        return jnp.full((), jnp.inf, state.dtype)

    def frame(self) -> PyTree[Array]:
        return ()

    def framed(self, frame: PyTree[Array]) -> "Unframed":
        return self

    def recentred(self, state: Float[Array, " size"]) -> tuple[PyTree[Array], Array, Array]:
        return (), state, jnp.array(False)
