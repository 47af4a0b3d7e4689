r"""How a flow treats the kinks of its loss: as written, held and located, or rounded off.

With every branch held the flow is smooth, θ' = −∇L_a(θ), between the times at which a switching
function changes sign. On a surface h_i = 0 that both of its sides push towards, the flow slides:
θ' = −Σ of the gradients of both sides, with the fractions b_i ∈ [0, 1] that keep h_i = 0
(Filippov; where L is continuous this is the subgradient flow θ' ∈ −∂L).
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from ._switches import Held, Natural, Rule, Smoothed, read

#: A rounding of a double, as a share.
_ROUNDING = 1e-15
#: Points inside a step at which a double crossing is looked for.
_POINTS = 9
#: A function that dips beyond zero inside a step by less than this share of its range does not.
_DIP = 1e-10
#: Iterations for the fractions; one is enough where no path meets two of the surfaces.
_NEWTON = 8


class Kinks(eqx.Module):
    """What a flow does at the kinks of its loss.

    `closeness`: share of the tolerance of the run that its companion is held to.
    """

    closeness: ClassVar[float] = 1.0

    @abc.abstractmethod
    def loss(self, function: Callable[[PyTree], Any], weights: PyTree) -> Any:
        """The loss with branches as they stand."""

    @abc.abstractmethod
    def companion(self) -> "Kinks":
        """The same for the companion whose distance from the run is the error bar."""

    @abc.abstractmethod
    def settled(self, flow: Any, t: Array, state: Array) -> Any:
        """The flow with the branches of a point."""

    @abc.abstractmethod
    def frame(self) -> PyTree[Array]:
        """The part that may change between two steps."""

    @abc.abstractmethod
    def framed(self, frame: PyTree[Array]) -> "Kinks":
        """The same with this frame."""

    @abc.abstractmethod
    def recentred(self, flow: Any, state: Array) -> tuple[PyTree[Array], Array]:
        """The frame after a step that ended at `state`, and the state on its surfaces."""

    @abc.abstractmethod
    def way(self, before: Any, t0: Any, y0: Any, after: Any, t1: Any, y1: Any) -> Array:
        """Of a step: 1 where no kink lies on it, ½ where a shorter one would tell, else 0."""


class AsWritten(Kinks):
    """Branches as JAX takes them: for losses without kinks, or without a way to follow them."""

    def loss(self, function, weights):
        return function(weights)

    def companion(self):
        return self

    def settled(self, flow, t, state):
        return flow

    def frame(self):
        return ()

    def framed(self, frame):
        return self

    def recentred(self, flow, state):
        return (), state

    def way(self, before, t0, y0, after, t1, y1):
        return jnp.ones(())


class Rounded(AsWritten):
    """Every kink rounded off over a width δ of its own switching function.

    What that changes is proportional to δ, so that a companion with 4δ is three times as far
    from the run as the run is from the flow with the kinks (near a corner at least as far). Where
    a step meets one, halves of it are hardly more exact, and the two errors could be alike: the
    companion takes more parts there, to a hundredth of the tolerance.
    """

    closeness: ClassVar[float] = 0.01

    width: Float[Array, "..."]

    def loss(self, function, weights):
        return read(function, weights, Smoothed(self.width))[0]

    def companion(self):
        return Rounded(4.0 * self.width)


class Beside(AsWritten):
    """The branches of a point next to the weights, at a distance `moves` that is not felt.

    At weights that are exactly zero it says which side of a kink there they are on.
    """

    moves: dict[str, Float[Array, "..."]]

    def loss(self, function, weights):
        moved = {name: jax.lax.stop_gradient(w) + self.moves[name] for name, w in weights.items()}
        mask = read(function, moved, Natural())[1] > 0.0
        return read(function, weights, Held(mask.astype(self.dtype)))[0]

    @property
    def dtype(self) -> Any:
        return jnp.result_type(*self.moves.values())


class Sides(Kinks):
    """The side of every kink the flow is on, and the surfaces it slides on.

    `side`: whether h_i > 0. `slot`: which sliding surface a function belongs to (functions that
    vanish together share one), the number of surfaces for none. `lead`: for each surface one of
    its functions. `fraction`: b of each surface, 0 for the side that `side` names. `floor`: how
    far beyond zero is still rounding.
    """

    side: Bool[Array, " k"]
    slot: Int[Array, " k"]
    lead: Int[Array, " m"]
    fraction: Float[Array, " m"]
    floor: Float[Array, " k"]
    #: Whether steps are held up by what they meet.
    watched: bool = eqx.field(static=True, default=True)

    @classmethod
    def of(cls, count: int, dtype: Any) -> "Sides":
        """On the near side of all, with nothing slid on."""
        none, slot = np.zeros(0, np.int32), np.zeros(count, np.int32)
        side, fraction, floor = np.zeros(count, bool), np.zeros(0, dtype), np.zeros(count, dtype)
        side, slot, none, fraction, floor = map(jnp.asarray, (side, slot, none, fraction, floor))
        return cls(side, slot, none, fraction, floor)

    def unwatched(self) -> "Sides":
        """The same branches for steps that meet nothing."""
        return dataclasses.replace(self, watched=False)

    def companion(self):
        return self

    def rule(self) -> Rule:
        mask = self.side.astype(self.floor.dtype)
        if not self.lead.size:
            return Held(mask)
        all_of_it = jnp.concatenate([self.fraction, jnp.zeros_like(self.fraction[:1])])
        return Held(mask + (1.0 - 2.0 * mask) * all_of_it[self.slot])

    def loss(self, function, weights):
        return read(function, weights, self.rule())[0]

    def heights(self, flow: Any, state: Array) -> Float[Array, " k"]:
        """The switching functions, positive on the side that `side` names."""
        h = read(flow.as_written, flow.weights(state), self.rule())[1]
        return jnp.where(self.side, h, -h)

    def with_fraction(self, fraction: Array) -> "Sides":
        return dataclasses.replace(self, fraction=fraction)

    def rates(self, flow: Any, t: Array, state: Array, fraction: Array) -> Float[Array, " m"]:
        """d(height)/dt of the sliding surfaces under these fractions; b − ½ for empty slots."""
        sides = self.with_fraction(fraction)
        here = dataclasses.replace(flow, kinks=sides)

        def heights(y):
            return jnp.take(sides.heights(here, y), self.lead, mode="fill", fill_value=0.0)

        _, rates = jax.jvp(heights, (state,), (here.motion(t, state),))
        return jnp.where(self.lead < self.side.size, rates, fraction - 0.5)

    def fractions(self, flow: Any, t: Array, state: Array) -> Float[Array, " m"]:
        """The b for which the flow stays on its surfaces."""
        begin = jnp.full_like(self.fraction, 0.5)

        def rates(b):
            return self.rates(flow, t, state, b)

        def step(carry):
            i, b, r, scale = carry
            slope = jax.jacfwd(rates)(b)
            b = b - jnp.linalg.solve(slope, r)
            scale = jnp.maximum(scale, jnp.max(jnp.abs(slope), axis=1))
            return i + 1, b, rates(b), scale

        def unfinished(carry):
            i, _, r, scale = carry
            return (i < _NEWTON) & ((i == 0) | jnp.any(jnp.abs(r) > 1e-12 * scale))

        first = rates(begin)
        return jax.lax.while_loop(unfinished, step, (0, begin, first, jnp.abs(first)))[1]

    def settled(self, flow, t, state):
        if not self.lead.size:
            return flow
        return dataclasses.replace(flow, kinks=self.with_fraction(self.fractions(flow, t, state)))

    def frame(self):
        return self.side

    def framed(self, frame):
        return dataclasses.replace(self, side=frame)

    @property
    def free(self) -> Bool[Array, " k"]:
        return self.slot >= self.lead.size

    def flipped(self, which: Bool[Array, " k"]) -> "Sides":
        return dataclasses.replace(self, side=self.side ^ which)

    def felt(self, flow: Any, state: Array, which: Bool[Array, " k"]) -> Bool[Array, ""]:
        """Whether the other branch of these functions is another force.

        max and |·| that cancel, or that nothing depends on at this point, are no kinks.
        """

        def differ():
            weights = flow.weights(state)
            _, one = flow.forces(weights)
            _, other = dataclasses.replace(flow, kinks=self.flipped(which)).forces(weights)
            a, b = (jax.flatten_util.ravel_pytree(g)[0] for g in (one, other))
            return jnp.max(jnp.abs(a - b)) > 1e-13 * jnp.max(jnp.abs(a))

        return jax.lax.cond(jnp.any(which), differ, lambda: jnp.array(False))

    def recentred(self, flow, state):
        if not self.watched:
            return self.side, self.projected(flow, state)
        beyond = self.free & (self.heights(flow, state) < -self.floor)
        side = jnp.where(self.felt(flow, state, beyond), self.side, self.side ^ beyond)
        return side, self.projected(flow, state)

    def projected(self, flow: Any, state: Array) -> Array:
        """The point of the sliding surfaces next to `state`."""
        if not self.lead.size:
            return state
        used = self.lead < self.side.size

        def heights(y):
            return jnp.take(self.heights(flow, y), self.lead, mode="fill", fill_value=0.0)

        for _ in range(2):
            h, normals = heights(state), jax.jacrev(heights)(state)
            # squares of the normals at weights of 1e-200 would be zero
            largest = jnp.where(used, jnp.max(jnp.abs(normals), axis=1), 1.0)
            scaled = normals / largest[:, None]
            long = jnp.where(used, jnp.linalg.norm(scaled, axis=1), 1.0)
            length, unit = largest * long, scaled / long[:, None]
            gram = unit @ unit.T + jnp.diag(jnp.where(used, 0.0, 1.0))
            state = state - jnp.linalg.solve(gram, jnp.where(used, h / length, 0.0)) @ unit
        return state

    def way(self, before, t0, y0, after, t1, y1):
        if not self.watched:
            return jnp.ones(())
        kinks = after.kinks
        one, two = (dataclasses.replace(f, kinks=kinks) for f in (before, after))

        def motion(flow, t, y):
            here = kinks.settled(flow, t, y)
            h, rate = jax.jvp(lambda z: here.kinks.heights(here, z), (y,), (here.motion(t, y),))
            return h, rate, here.kinks.fraction

        (h0, d0, _), (h1, d1, b) = motion(one, t0, y0), motion(two, t1, y1)
        free, h = kinks.free, t1 - t0
        beyond = free & (h1 < jnp.minimum(-kinks.floor, jnp.minimum(h0, 0.0)))
        left = (kinks.lead < kinks.side.size) & ((b < -1e-10) | (b > 1.0 + 1e-10))
        lowest = jnp.full_like(h0, jnp.inf)
        for i in range(1, _POINTS + 1):
            s = i / (_POINTS + 1)
            value = (1 + 2 * s) * (1 - s) ** 2 * h0 + s * (1 - s) ** 2 * h * d0
            value += s * s * (3 - 2 * s) * h1 - s * s * (1 - s) * h * d1
            lowest = jnp.minimum(lowest, value)
        depth = kinks.floor + _DIP * (jnp.abs(h0) + jnp.abs(h1) + h * (jnp.abs(d0) + jnp.abs(d1)))
        same = kinks.side == before.kinks.side
        dip = free & same & ~beyond & (lowest < -depth)
        double = kinks.felt(two, y1, dip)
        return jnp.where(jnp.any(beyond) | jnp.any(left), 0.0, jnp.where(double, 0.5, 1.0))
