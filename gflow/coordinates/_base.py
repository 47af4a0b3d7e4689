"""Coordinates in which a weight is integrated: the same flow, never below the float floor.

Every trained leaf owns one `Coordinates` object and a flat state vector. The
coordinates turn the state into the effective weight the forward pass sees, and the
force g = −∂L/∂(weight) into the velocity of the state. The error of a state component
is measured against `atol + rtol·|state|` with the two arrays of `tolerance`.
"""

import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

State = Float[Array, " size"]
Weight = Float[Array, "..."]


class Coordinates(eqx.Module):
    """How one leaf is represented in the state vector of the flow."""

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """Number of components of the state."""

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

    @abc.abstractmethod
    def record(self, state: State) -> dict[str, Array]:
        """What a trajectory stores of `state`; enough for `at` and `Parameter.moved`."""

    @abc.abstractmethod
    def at(self, record: dict[str, Array]) -> "Coordinates":
        """The coordinates best suited to the recorded point, starting there."""

    @abc.abstractmethod
    def descent(self, state: State, force: Weight, decay: Float[Array, ""]) -> Float[Array, ""]:
        """|velocity of the factors|², by which loss + (λ/2)‖factors‖² falls."""

    @abc.abstractmethod
    def resolved(self, state: State) -> Array:
        """False where rounding has swallowed what the flow still needs."""


class FlowCoordinates(Coordinates):
    """Coordinates for continuous time: what adaptive steps need to know of them."""

    @abc.abstractmethod
    def tolerance(self, rtol: Float[Array, ""]) -> tuple[State, State]:
        """Absolute and relative tolerance of each state component."""

    @abc.abstractmethod
    def frame(self) -> PyTree[Array]:
        """The part of the coordinates that may change from one step to the next."""

    @abc.abstractmethod
    def framed(self, frame: PyTree[Array]) -> "FlowCoordinates":
        """The same coordinates with states written in `frame`."""

    @abc.abstractmethod
    def recentred(self, state: State) -> tuple[PyTree[Array], State]:
        """The frame in which `state` loses least to rounding, and the state in it."""

    @abc.abstractmethod
    def horizon(self, state: State, velocity: State, atol: State) -> Float[Array, ""]:
        """Longest step worth trying: until something yet unfelt comes to be felt."""

    @abc.abstractmethod
    def drift(
        self, state: State, force: Weight, decay: Float[Array, ""], origin: State
    ) -> tuple[Float[Array, " weights"], Float[Array, " weights"]]:
        """Speed of every weight or column, and the scale on which it is one of its own.

        All speeds are zero at rest and only there: a dormant weight under a force is not at
        rest, one that shrinks beside others is. `origin` is the state the run began at.
        """


class FixedFrame(FlowCoordinates):
    """Coordinates that stay as they are made, of weights whose growth is felt all along."""

    def frame(self) -> tuple[()]:
        return ()

    def framed(self, frame: tuple[()]) -> "FixedFrame":
        return self

    def recentred(self, state: State) -> tuple[tuple[()], State]:
        return (), state

    def horizon(self, state: State, velocity: State, atol: State) -> Float[Array, ""]:
        return jnp.asarray(jnp.inf, state.dtype)

    def drift(
        self, state: State, force: Weight, decay: Float[Array, ""], origin: State
    ) -> tuple[Float[Array, " weights"], Float[Array, " weights"]]:
        scale = jnp.maximum(jnp.abs(state), jnp.abs(origin))
        return self.velocity(state, force, decay), scale


class LogCoordinates(FlowCoordinates):
    r"""Logarithm of the larger of |s| and |d|, for a weight θ = (s² − d²)/4.

    With s' = g s and d' = −g d the product s·d is conserved, so one number per weight
    is enough: x = log|s| where `side` = +1 and x = log|d| where `side` = −1,

        x' = side·g − λ,    θ = side·(e^{2x} − e^{2(log|sd| − x)})/4.

    An active weight has x = O(1), a dormant one x = O(log α): both are held to full
    precision at any α, since `side` (the frame) follows the larger of the two from step to
    step. Under decay the last component is ∫λ dt, which lowers log|sd| by twice its value.

    A chart that is logarithmic while a weight is dormant and linear once it is active
    (asinh, softplus) takes as many steps for the same error in log|θ| and costs more a
    step, so there is none here.
    """

    log: Float[Array, "..."]
    log_product: Float[Array, "..."]
    side: Float[Array, "..."]
    decays: bool = eqx.field(static=True)

    @property
    def size(self) -> int:
        return self.log.size + int(self.decays)

    @classmethod
    def from_logs(cls, log_s: Array, log_d: Array, decays: bool) -> "LogCoordinates":
        """Coordinates at log|s|, log|d|, oriented to the larger of the two."""
        positive = log_s >= log_d
        side = jnp.where(positive, jnp.ones_like(log_s), -jnp.ones_like(log_s))
        return cls(jnp.where(positive, log_s, log_d), log_s + log_d, side, decays)

    def start(self) -> State:
        zero = jnp.zeros((int(self.decays),), self.log.dtype)
        return jnp.concatenate([self.log.ravel(), zero])

    def _logs(self, state: State) -> tuple[Array, Array]:
        size = self.log.size
        larger = state[:size].reshape(self.log.shape)
        product = self.log_product
        if self.decays:
            product = product - 2.0 * state[size]
        return larger, product - larger

    def value(self, state: State) -> Weight:
        larger, other = self._logs(state)
        return self.side * 0.25 * (jnp.exp(2.0 * larger) - jnp.exp(2.0 * other))

    def velocity(self, state: State, force: Weight, decay: Float[Array, ""]) -> State:
        rate = (self.side * force).ravel()
        if not self.decays:
            return rate
        return jnp.concatenate([rate - decay, decay[None]])

    def tolerance(self, rtol: Float[Array, ""]) -> tuple[State, State]:
        # log|θ| moves at twice the speed of x, and ∫λ enters it twice as well; local errors
        # of many steps add up, so each may take a fifth of what is promised in the end
        zero = jnp.zeros_like(self.start())
        return zero + 0.1 * rtol, zero

    def frame(self) -> Array:
        return self.side

    def framed(self, frame: Array) -> "LogCoordinates":
        return eqx.tree_at(lambda c: c.side, self, frame)

    def recentred(self, state: State) -> tuple[Array, State]:
        larger, other = self._logs(state)
        swap = other > larger
        side = jnp.where(swap, -self.side, self.side)
        x = jnp.where(swap, other, larger).ravel()
        return side, jnp.concatenate([x, state[self.log.size :]])

    def horizon(self, state: State, velocity: State, atol: State) -> Float[Array, ""]:
        size = self.log.size
        larger, other = (z.ravel() for z in self._logs(state))
        rate, fallen = velocity[:size], 0.0
        if self.decays:
            fallen = 2.0 * velocity[size]
        grows = rate > 0.0
        z = jnp.where(grows, larger, other)
        return growth_horizon(z, jnp.where(grows, rate, -rate - fallen), atol[:size])

    def at(self, record: dict[str, Array]) -> "LogCoordinates":
        return type(self).from_logs(record["log_s"], record["log_d"], self.decays)

    def drift(
        self, state: State, force: Weight, decay: Float[Array, ""], origin: State
    ) -> tuple[Float[Array, " weights"], Float[Array, " weights"]]:
        # at rest a weight is either zero with |g| ≤ λ, or not zero with |g| = λ
        larger, other = self._logs(state)
        pull = jnp.where(jnp.isfinite(other), jnp.abs(force), self.side * force)
        excess = jnp.where(jnp.isfinite(larger), pull - decay, 0.0).ravel()
        return felt(excess, excess, jnp.exp(2.0 * larger).ravel()), jnp.ones_like(excess)

    def descent(self, state: State, force: Weight, decay: Float[Array, ""]) -> Float[Array, ""]:
        larger, other = self._logs(state)
        positive = self.side > 0
        log_s, log_d = jnp.where(positive, larger, other), jnp.where(positive, other, larger)
        return product_descent(log_s, log_d, force, decay)

    def record(self, state: State) -> dict[str, Array]:
        larger, other = self._logs(state)
        positive = self.side > 0
        return {
            "value": self.value(state),
            "log_s": jnp.where(positive, larger, other),
            "log_d": jnp.where(positive, other, larger),
        }

    def resolved(self, state: State) -> Array:
        return jnp.array(True)


class RawCoordinates(FixedFrame):
    """The weight itself over a fixed factor: W = e^{log_scale}·state, W' = g − λW."""

    initial: Float[Array, "..."]
    log_scale: Float[Array, ""]

    @property
    def size(self) -> int:
        return self.initial.size

    def start(self) -> State:
        return self.initial.ravel()

    def value(self, state: State) -> Weight:
        return jnp.exp(self.log_scale) * state.reshape(self.initial.shape)

    def velocity(self, state: State, force: Weight, decay: Float[Array, ""]) -> State:
        return jnp.exp(-self.log_scale) * force.ravel() - decay * state

    def tolerance(self, rtol: Float[Array, ""]) -> tuple[State, State]:
        return raw_tolerance(self.start(), rtol)

    def at(self, record: dict[str, Array]) -> "RawCoordinates":
        return eqx.tree_at(lambda c: c.initial, self, record["array"])

    def descent(self, state: State, force: Weight, decay: Float[Array, ""]) -> Float[Array, ""]:
        return jnp.sum((force - decay * self.value(state)) ** 2)

    def record(self, state: State) -> dict[str, Array]:
        return {"value": self.value(state), "array": state.reshape(self.initial.shape)}

    def resolved(self, state: State) -> Array:
        return jnp.array(True)


class FactorCoordinates(FixedFrame):
    """The two factors themselves: θ = u⊙v, u' = v⊙g − λu, v' = u⊙g − λv."""

    u: Float[Array, "..."]
    v: Float[Array, "..."]

    @property
    def size(self) -> int:
        return 2 * self.u.size

    def start(self) -> State:
        return jnp.concatenate([self.u.ravel(), self.v.ravel()])

    def _factors(self, state: State) -> tuple[Array, Array]:
        u, v = state.reshape(2, *self.u.shape)
        return u, v

    def value(self, state: State) -> Weight:
        u, v = self._factors(state)
        return u * v

    def velocity(self, state: State, force: Weight, decay: Float[Array, ""]) -> State:
        u, v = self._factors(state)
        flow = jnp.concatenate([(v * force).ravel(), (u * force).ravel()])
        return flow - decay * state

    def tolerance(self, rtol: Float[Array, ""]) -> tuple[State, State]:
        return raw_tolerance(self.start(), rtol)

    def at(self, record: dict[str, Array]) -> "FactorCoordinates":
        return type(self)(record["u"], record["v"])

    def descent(self, state: State, force: Weight, decay: Float[Array, ""]) -> Float[Array, ""]:
        return jnp.sum(self.velocity(state, force, decay) ** 2)

    def record(self, state: State) -> dict[str, Array]:
        u, v = self._factors(state)
        return {"value": u * v, "u": u, "v": v}

    def resolved(self, state: State) -> Array:
        # c = s·d decides when an active weight switches off. With |d| near the
        # rounding of |s| the state no longer knows it.
        u, v = self._factors(state)
        s, d = jnp.abs(u + v), jnp.abs(u - v)
        floor = 32 * jnp.finfo(u.dtype).eps * jnp.maximum(s, d)
        return jnp.all(jnp.minimum(s, d) > floor)


def growth_horizon(z: State, speed: State, atol: State) -> Float[Array, ""]:
    """Longest step worth trying while dormant logarithms z grow linearly, at rates `speed`.

    A weight e^{2z}/4 is not felt before z comes to ½ log(0.4·atol): the error estimate is
    blind until then, however long the step, and a step that goes further ends in a
    transition it has not seen. A force that changes by e^{2z} at the end of a step of
    |z|/speed would move logarithms by e^{2z}|z|, hence ½ log(1 + 2|z|) more. From there on
    a step may cover 0.4 of the way to |θ| = 1.
    """
    unfelt = 0.5 * jnp.log(0.4 * atol) - 0.5 * jnp.log1p(2.0 * jnp.abs(z))
    way = jnp.maximum(unfelt - z, 0.4 * (jnp.log(2.0) - z))
    dormant = (z < 0.0) & jnp.isfinite(z) & (speed > 0.0)
    time = jnp.where(dormant, way / jnp.where(dormant, speed, 1.0), jnp.inf)
    return jnp.min(time, initial=jnp.inf)


def felt(growth: Array, motion: Array, size: Array) -> Array:
    """`growth` where it is positive, else `motion` of what is not negligible beside the rest."""
    negligible = size <= jnp.finfo(size.dtype).eps * jnp.max(size, initial=0.0)
    return jnp.where(growth > 0.0, growth, jnp.where(negligible, 0.0, motion))


def product_descent(
    log_s: Weight, log_d: Weight, force: Weight, decay: Float[Array, ""]
) -> Float[Array, ""]:
    """|u'|² + |v'|² = (|s'|² + |d'|²)/2 with s' = (g − λ)s, d' = −(g + λ)d."""
    s, d = jnp.exp(log_s), jnp.exp(log_d)
    return 0.5 * jnp.sum(((force - decay) * s) ** 2 + ((force + decay) * d) ** 2)


def raw_tolerance(initial: State, rtol: Float[Array, ""]) -> tuple[State, State]:
    """Tolerances tied to the initial scale: a bare atol above it ends the escape."""
    scale = jnp.max(jnp.abs(initial), initial=0.0)
    relative = jnp.broadcast_to(rtol, initial.shape)
    return relative * jnp.where(scale > 0.0, scale, 1.0), relative
