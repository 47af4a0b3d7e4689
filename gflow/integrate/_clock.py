"""A gradient flow in the clock in which weights near a saddle of high order move by O(1)."""

import dataclasses

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ..coordinates._raw import PolarCoordinates
from ..flow._flow import Flow
from ._march import Field


class Clocked(Field):
    r"""The flow in the clock r, dr = κ dt, where κ is the relative speed of the plain weights,

        κ² = Σ_W |∂L/∂W|²/‖W‖²   over the leaves in polar coordinates,

    so that no log‖W‖ grows faster than r, whatever the size of the weights; t' = 1/κ. The other
    leaves move in their own coordinates. The last component of the state is t.
    """

    flow: Flow
    state: Float[Array, " size"]

    @classmethod
    def of(cls, flow: Flow) -> "Clocked":
        """From the start of a flow, its raw coordinates made polar."""
        return _clocked(flow)

    @property
    def polar(self) -> dict[str, PolarCoordinates]:
        """The leaves that set the clock."""
        pairs = zip(self.flow.names, self.flow.coordinates, strict=True)
        return {name: c for name, c in pairs if isinstance(c, PolarCoordinates)}

    def log_norms(self, state: Float[Array, " size"]) -> dict[str, Float[Array, ""]]:
        """log‖W‖ of the leaves that set the clock."""
        parts = dict(zip(self.flow.names, self.flow.split(state[:-1]), strict=True))
        return {name: c.polar(parts[name])[1] for name, c in self.polar.items()}

    def loss(self) -> Float[Array, ""]:
        """At the start of the field."""
        return self.flow.loss(self.weights())

    def weights(self) -> dict[str, Array]:
        """The effective weights at the start of the field."""
        return self.flow.weights(self.state[:-1])

    def _speeds(self, r: Float[Array, ""], state: Float[Array, " weights"]) -> tuple[Array, Array]:
        """d(state)/dt and κ."""
        velocity = self.flow.velocity(r, state)
        parts = zip(
            self.flow.coordinates, self.flow.split(state), self.flow.split(velocity), strict=True
        )
        speeds = [c.relative_speed(*part) for c, *part in parts if isinstance(c, PolarCoordinates)]
        return velocity, jnp.sqrt(jnp.sum(jnp.stack(speeds) ** 2))

    def start(self) -> Float[Array, " size"]:
        return self.state

    def velocity(self, t: Float[Array, ""], state: Float[Array, " size"]) -> Array:
        """d(state)/dr; `t` is r, of which the flow knows nothing."""
        velocity, speed = self._speeds(t, state[:-1])
        return jnp.concatenate([velocity, jnp.ones_like(speed)[None]]) / speed

    def horizon(
        self, t: Float[Array, ""], state: Float[Array, " size"], atol: Float[Array, " size"]
    ) -> Float[Array, ""]:
        _, speed = self._speeds(t, state[:-1])
        return speed * self.flow.horizon(t, state[:-1], atol[:-1])

    def tolerance(self, rtol: Float[Array, ""]) -> tuple[Array, Array]:
        """The weights' own, and a relative one for t."""
        atol, relative = self.flow.tolerance(rtol)
        tiny = jnp.full((1,), jnp.finfo(atol.dtype).tiny)
        return jnp.concatenate([atol, tiny]), jnp.concatenate([relative, 0.1 * rtol[None]])

    def frame(self) -> PyTree[Array]:
        return self.flow.frame()

    def framed(self, frame: PyTree[Array]) -> "Clocked":
        return dataclasses.replace(self, flow=self.flow.framed(frame))

    def recentred(self, state: Float[Array, " size"]) -> tuple[PyTree[Array], Array, Array]:
        frame, weights, changed = self.flow.recentred(state[:-1])
        return frame, jnp.concatenate([weights, state[-1:]]), changed

    def at(self, state: Float[Array, " size"], frame: PyTree[Array]) -> "Clocked":
        """The same field, starting at a recorded point."""
        return dataclasses.replace(self.framed(frame), state=state)


@eqx.filter_jit
def _clocked(flow: Flow) -> Clocked:
    flow = dataclasses.replace(flow, coordinates=tuple(c.polar() for c in flow.coordinates))
    start = flow.start()
    return Clocked(flow, jnp.concatenate([start, jnp.zeros_like(start[:1])]))
