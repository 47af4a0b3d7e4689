"""The exact flow of a model: dθ/dt = −∇L(θ) − λθ, each leaf in its own coordinates."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .._side_by_side import side_by_side
from ..coordinates._frame import HeadForces
from ..coordinates._record import LeafRecord
from ..integrate._field import Field
from ..kinks._treatments import AsWritten, Kinks
from ..parameters._base import Constant, heads_summed
from ..programs._closure import Traced
from ._decay import decay_rate

# a Callable[[Any], Float[Array, ""]]; anything else is refused in a sentence
Objective = Any


class Flow(Field):
    """Vector field of the gradient flow on one flat state vector.

    Made by `build_flow`. `velocity(t, state)` is d(state)/dt; `weights(state)` are the
    effective weights by leaf name; `forces(weights)` is the loss with g = −∂L/∂weights.
    `objective` is a program of the arrays it holds (`data`), those of the model that stay
    (`others`) and the weights.
    """

    stretches: ClassVar[bool] = True
    #: Whether weights move along the gradient, so that the loss falls.
    gradient: ClassVar[bool] = True

    coordinates: tuple[Any, ...]
    decay: tuple[Constant | Traced | None, ...]
    others: list[Array]
    data: list[Array]
    objective: Traced
    names: tuple[str, ...] = eqx.field(static=True)
    #: Times that a step of the integration ends at, in order (see `_schedule`).
    edges: Float[Array, " edges"] | None = None
    kinks: Kinks = AsWritten()
    #: The loss as a program of the sums of some weights over their heads besides (see `_together`).
    apart: Traced | None = None
    together: tuple[str, ...] = eqx.field(static=True, default=())

    def as_written(self, weights: Mapping[str, Array]) -> Float[Array, ""]:
        """The loss with its branches as JAX takes them."""
        # what depends on no weight may be a plain number
        return jnp.asarray(self.objective(self.data, self.others, dict(weights)))

    def loss(self, weights: Mapping[str, Array]) -> Any:  # `build_flow` checks that it is a scalar
        return self.kinks.loss(self.as_written, weights)

    def forces(self, weights: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        """Loss and g = −∂L/∂weight for every trained leaf."""
        loss, gradient = jax.value_and_grad(self.loss)(weights)
        return loss, jax.tree.map(jnp.negative, gradient)

    def pulls(self, weights: dict[str, Array]) -> tuple[Array, dict[str, Any]]:
        """Loss, and the force on every leaf as its coordinates take it (see `HeadForces`)."""
        apart = self.apart
        if apart is None:
            return self.forces(weights)

        def written(both):
            return jnp.asarray(apart(self.data, self.others, *both))

        both = dict(weights), {name: heads_summed(weights[name]) for name in self.together}
        loss, gradient = jax.value_and_grad(lambda x: self.kinks.loss(written, x))(both)
        force, common = jax.tree.map(jnp.negative, gradient)
        return loss, force | {name: HeadForces(g, force[name]) for name, g in common.items()}

    @property
    def dtype(self) -> Any:
        """Of the state."""
        return jax.tree.leaves(eqx.filter(self.coordinates, eqx.is_inexact_array))[0].dtype

    @property
    def size(self) -> int:
        """Length of the state."""
        return sum(c.size for c in self.coordinates)

    @property
    def moving(self) -> dict[str, PyTree[Array]]:
        """By field, what changes from one point of a run to another."""
        return {"coordinates": self.coordinates, "kinks": self.kinks}

    def resumed(self, record: Mapping[str, Any], frame: tuple[PyTree[Array], ...]) -> "Flow":
        """The same flow from a recorded point on, whose frame that was."""
        return dataclasses.replace(self.at(record["leaves"]), kinks=self.kinks.framed(frame[-1]))

    def start(self) -> Float[Array, " size"]:
        return jnp.concatenate([c.start() for c in self.coordinates])

    def split(self, state: Float[Array, " size"]) -> list[Array]:
        sizes = [c.size for c in self.coordinates]
        return jnp.split(state, np.cumsum(sizes)[:-1].tolist())

    def views(self, state: Float[Array, " size"]) -> dict[str, Any]:
        """The arrays of what observables see of every leaf."""
        parts = zip(self.names, self.coordinates, self.split(state), strict=True)
        return eqx.filter({name: c.view(part) for name, c, part in parts}, eqx.is_array)

    def weights(self, state: Float[Array, " size"]) -> dict[str, Array]:
        values = side_by_side(_value, self.coordinates, self.split(state))
        return dict(zip(self.names, values, strict=True))

    def velocity(self, t: Float[Array, ""], state: Float[Array, " size"]) -> Array:
        return self.kinks.settled(self, t, state).motion(t, state)

    def motion(self, t: Float[Array, ""], state: Float[Array, " size"]) -> Array:
        """d(state)/dt with the branches of the loss as they stand."""
        return _motion(self, t, state)

    def at(self, leaves: Mapping[str, LeafRecord]) -> "Flow":
        """The same flow with coordinates that start at a recorded point."""
        pairs = zip(self.names, self.coordinates, strict=True)
        moved = tuple(c.at(leaves[name]) for name, c in pairs)
        return eqx.tree_at(lambda f: f.coordinates, self, moved)

    def record(self, t: Float[Array, ""], state: Float[Array, " size"]) -> dict[str, Any]:
        """Loss, descent, whether what is needed is resolved, and per leaf its record and force."""
        settled = self.kinks.settled(self, t, state)
        loss, force = settled.pulls(self.weights(state))
        leaves, descent, resolved = {}, jnp.zeros_like(loss), jnp.array(True)
        for name, c, rate, part in zip(
            self.names, self.coordinates, self.decay, self.split(state), strict=True
        ):
            decay = decay_rate(rate, t, state.dtype)
            descent = descent + c.descent(part, force[name], decay)
            resolved = resolved & c.resolved(part, force[name])
            leaves[name] = LeafRecord(c.record(part) | c.felt(part, force[name]), c.chart)
        return {"loss": loss, "descent": descent, "leaves": leaves, "resolved": resolved}

    def drift(
        self, t: Float[Array, ""], state: Float[Array, " size"], origin: Float[Array, " size"]
    ) -> tuple[Array, Array]:
        """Speed and scale of every weight or column: what has to stop before the flow rests."""
        settled = self.kinks.settled(self, t, state)
        _, force = settled.pulls(self.weights(state))
        pairs = [
            c.drift(part, force[name], decay_rate(rate, t, state.dtype), begin)
            for name, c, rate, part, begin in zip(
                self.names, self.coordinates, self.decay, self.split(state), self.split(origin),
                strict=True,
            )
        ]  # fmt: skip
        return jnp.concatenate([x for x, _ in pairs]), jnp.concatenate([s for _, s in pairs])

    def first_step(self, t: Float[Array, ""], rtol: Float[Array, ""]) -> Float[Array, ""]:
        """A thousandth of what moves a logarithm by one; a hundredth of a raw weight's scale.

        ∞ where nothing moves.
        """
        start = self.start()
        speed = jnp.abs(self.velocity(t, start))
        atol, relative = self.tolerance(rtol)
        scale = (atol + relative * jnp.abs(start)) / rtol
        step = 1e-2 * jnp.where(speed > 0.0, scale / jnp.where(speed > 0.0, speed, 1.0), jnp.inf)
        return jnp.min(step)

    def tolerance(self, rtol: Float[Array, ""]) -> tuple[Array, Array]:
        pairs = [c.tolerance(rtol) for c in self.coordinates]
        return jnp.concatenate([a for a, _ in pairs]), jnp.concatenate([r for _, r in pairs])

    def allowed(
        self, tolerance: tuple[Array, Array], before: Float[Array, " size"],
        state: Float[Array, " size"],
    ) -> Float[Array, " size"]:  # fmt: skip
        error = Field.allowed(self, tolerance, before, state)
        if not self.together:
            return error
        _, force = self.pulls(self.weights(state))
        parts = zip(
            self.names, self.coordinates, self.split(error), self.split(before), self.split(state),
            strict=True,
        )  # fmt: skip
        return jnp.concatenate([c.allowed(*part, force[name]) for name, c, *part in parts])

    def frame(self) -> tuple[PyTree[Array], ...]:
        """One frame a leaf, and that of the kinks."""
        return *(c.frame() for c in self.coordinates), self.kinks.frame()

    def framed(self, frame: tuple[PyTree[Array], ...]) -> "Flow":
        pairs = zip(self.coordinates, frame[:-1], strict=True)
        moved = tuple(c.framed(x) for c, x in pairs)
        return dataclasses.replace(self, coordinates=moved, kinks=self.kinks.framed(frame[-1]))

    def recentred(self, state: Float[Array, " size"]) -> tuple[Any, Array, Array]:
        pairs = zip(self.coordinates, self.split(state), strict=True)
        frames, parts = zip(*(c.recentred(part) for c, part in pairs), strict=True)
        state = jnp.concatenate(parts)
        changed = jax.tree.map(lambda a, b: jnp.any(a != b), frames, self.frame()[:-1])
        sides, state = self.kinks.recentred(self.framed((*frames, self.kinks.frame())), state)
        changed = jax.tree.reduce(jnp.logical_or, changed, jnp.array(False))
        return (*frames, sides), state, changed

    def way(self, t0: Any, y0: Any, after: "Flow", t1: Any, y1: Any) -> Array:
        return self.kinks.way(self, t0, y0, after, t1, y1)

    def horizon(
        self, t: Float[Array, ""], state: Float[Array, " size"], atol: Float[Array, " size"]
    ) -> Float[Array, ""]:
        velocity = self.velocity(t, state)
        parts = zip(
            self.coordinates, self.split(state), self.split(velocity), self.split(atol),
            strict=True,
        )  # fmt: skip
        horizon = jnp.min(jnp.stack([c.horizon(*part) for c, *part in parts]))
        if self.edges is None:
            return horizon
        # an edge that rounding has put just behind or just before t is the one stood at
        rounding = 8.0 * jnp.finfo(t.dtype).eps * jnp.abs(t)
        ahead = jnp.searchsorted(self.edges, t + rounding, side="right")
        return jnp.minimum(horizon, self.edges[ahead] - t)


@eqx.filter_jit
def _motion(flow: Flow, t: Array, state: Array) -> Array:
    """`Flow.motion`: traced once for all the places of a program that ask for it."""
    _, force = flow.pulls(flow.weights(state))
    decay = [decay_rate(rate, t, state.dtype) for rate in flow.decay]
    rows = flow.split(state), [force[name] for name in flow.names], decay
    return jnp.concatenate(side_by_side(_velocity, flow.coordinates, *rows))


def _value(coordinates: Any, part: Array) -> Any:
    return coordinates.value(part)


def _velocity(coordinates: Any, part: Array, force: Any, decay: Array) -> Array:
    return coordinates.velocity(part, force, decay)
