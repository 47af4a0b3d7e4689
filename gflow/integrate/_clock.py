"""A gradient flow in the clock in which weights near a saddle of high order move by O(1)."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ..coordinates._raw import PolarCoordinates
from ..flow._flow import Flow

#: The first step in the clock, in which logarithms of norms move by no more than it does.
FIRST = 1e-3


class Clocked(Flow):
    r"""The flow in the clock r, dr = κ dt, where κ is the relative speed of the plain weights,

        κ² = Σ_W |∂L/∂W|²/‖W‖²   over the leaves in polar coordinates,

    so that no log‖W‖ grows faster than r, whatever the size of the weights; t' = 1/κ. The other
    leaves move in their own coordinates. The last component of the state is t.
    """

    stretches: ClassVar[bool] = False

    elapsed: Float[Array, ""] = dataclasses.field(kw_only=True)

    @classmethod
    def of(cls, flow: Flow, elapsed: float = 0.0) -> "Clocked":
        """From the start of a flow, its raw coordinates made polar."""
        polar = _polar(flow.coordinates)
        fields: dict[str, Any] = {f.name: getattr(flow, f.name) for f in dataclasses.fields(flow)}
        fields |= {"coordinates": polar, "elapsed": jnp.asarray(elapsed, flow.dtype)}
        return cls(**fields)

    @property
    def polar(self) -> dict[str, PolarCoordinates]:
        """The leaves that set the clock."""
        pairs = zip(self.names, self.coordinates, strict=True)
        return {name: c for name, c in pairs if isinstance(c, PolarCoordinates)}

    @property
    def moving(self) -> dict[str, PyTree[Array]]:
        return super().moving | {"elapsed": self.elapsed}

    def resumed(self, record: Mapping[str, Any], frame: tuple[PyTree[Array], ...]) -> Flow:
        there: Any = super().resumed(record, frame)
        return dataclasses.replace(there, elapsed=record["t"])

    @property
    def size(self) -> int:
        return super().size + 1

    def start(self) -> Float[Array, " size"]:
        return jnp.append(super().start(), self.elapsed)

    def split(self, state: Float[Array, " size"]) -> list[Array]:
        return super().split(state[:-1])

    def motion(self, t: Float[Array, ""], state: Float[Array, " size"]) -> Array:
        """d(state)/dr; `t` is r, of which the flow knows nothing."""
        velocity = super().motion(state[-1], state)
        # what belongs to t is cut off by `split`
        moved = self.split(jnp.append(velocity, 1.0))
        parts = zip(self.coordinates, self.split(state), moved, strict=True)
        speeds = [c.relative_speed(*part) for c, *part in parts if isinstance(c, PolarCoordinates)]
        return jnp.append(velocity, 1.0) / jnp.sqrt(jnp.sum(jnp.stack(speeds) ** 2))

    def record(self, t: Float[Array, ""], state: Float[Array, " size"]) -> dict[str, Any]:
        """That of the flow, and the flow time t."""
        return super().record(state[-1], state) | {"t": state[-1]}

    def first_step(self, t: Float[Array, ""], rtol: Float[Array, ""]) -> Float[Array, ""]:
        return jnp.asarray(FIRST, self.dtype)

    def tolerance(self, rtol: Float[Array, ""]) -> tuple[Array, Array]:
        """The weights' own, and a relative one for t."""
        atol, relative = super().tolerance(rtol)
        return jnp.append(atol, jnp.finfo(atol.dtype).tiny), jnp.append(relative, 0.1 * rtol)

    def recentred(self, state: Float[Array, " size"]) -> tuple[Any, Array, Array]:
        frame, weights, changed = super().recentred(state)
        return frame, jnp.append(weights, state[-1]), changed


@eqx.filter_jit
def _polar(coordinates: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(c.polar() for c in coordinates)
