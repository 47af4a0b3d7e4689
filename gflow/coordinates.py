"""Coordinates in which a weight is integrated: the same flow, never below the float floor.

Every trained leaf owns one `Coordinates` object and a flat state vector. The
coordinates turn the state into the effective weight the forward pass sees, and the
force g = −∂L/∂(weight) into the velocity of the state. The error of a state component
is measured against `atol + rtol·|state|` with the two arrays of `tolerance`.
"""

import abc

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

State = Float[Array, " size"]
Weight = Float[Array, "..."]


class Coordinates(eqx.Module):
    """How one leaf is represented in the state vector of the flow."""

    @abc.abstractmethod
    def start(self) -> State:
        """The state the coordinates were made at."""

    @abc.abstractmethod
    def value(self, state: State) -> Weight:
        """Effective weight at `state`."""

    @abc.abstractmethod
    def velocity(self, state: State, force: Weight, decay: Float[Array, ""]) -> State:
        """d(state)/dt under the force −∂L/∂weight and the decay rate λ(t)."""

    @abc.abstractmethod
    def tolerance(self, rtol: float) -> tuple[np.ndarray, np.ndarray]:
        """Absolute and relative tolerance of each state component."""

    @abc.abstractmethod
    def record(self, state: State) -> dict[str, Array]:
        """What a trajectory stores of `state`; enough for `at` and `Parameter.moved`."""

    @abc.abstractmethod
    def at(self, record: dict[str, Array]) -> "Coordinates":
        """The coordinates best suited to the recorded point, starting there."""

    @abc.abstractmethod
    def residual(self, state: State, force: Weight, decay: Float[Array, ""]) -> Array:
        """How far the weights are from rest; a dormant weight under a force is not."""

    @abc.abstractmethod
    def resolved(self, state: State) -> Array:
        """False where rounding has swallowed what the flow still needs."""


class LogCoordinates(Coordinates):
    r"""Logarithm of the larger of |s| and |d|, for a weight θ = (s² − d²)/4.

    With s' = g s and d' = −g d the product s·d is conserved, so one number per weight
    is enough: x = log|s| where `side` = +1 and x = log|d| where `side` = −1,

        x' = side·g − λ,    θ = side·(e^{2x} − e^{2(log|sd| − x)})/4.

    An active weight has x = O(1), a dormant one x = O(log α): both are held to full
    precision at any α. Under decay the last component is ∫λ dt, which lowers log|sd|
    by twice its value.
    """

    log: Float[Array, "..."]
    log_product: Float[Array, "..."]
    side: Float[Array, "..."]
    decays: bool = eqx.field(static=True)

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

    def tolerance(self, rtol: float) -> tuple[np.ndarray, np.ndarray]:
        # log|θ| moves at twice the speed of x, and ∫λ enters it twice as well; local errors
        # of many steps add up, so each may take a fifth of what is promised in the end
        size = self.log.size + int(self.decays)
        return np.full(size, 0.1 * rtol), np.zeros(size)

    def at(self, record: dict[str, Array]) -> "LogCoordinates":
        return type(self).from_logs(record["log_s"], record["log_d"], self.decays)

    def residual(self, state: State, force: Weight, decay: Float[Array, ""]) -> Array:
        return product_residual(self.value(state), force, decay)

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


class RawCoordinates(Coordinates):
    """The weight itself over a fixed factor: W = e^{log_scale}·state, W' = g − λW."""

    initial: Float[Array, "..."]
    log_scale: Float[Array, ""]

    def start(self) -> State:
        return self.initial.ravel()

    def value(self, state: State) -> Weight:
        return jnp.exp(self.log_scale) * state.reshape(self.initial.shape)

    def velocity(self, state: State, force: Weight, decay: Float[Array, ""]) -> State:
        return jnp.exp(-self.log_scale) * force.ravel() - decay * state

    def tolerance(self, rtol: float) -> tuple[np.ndarray, np.ndarray]:
        return _raw_tolerance(self.initial, rtol)

    def at(self, record: dict[str, Array]) -> "RawCoordinates":
        return eqx.tree_at(lambda c: c.initial, self, record["array"])

    def residual(self, state: State, force: Weight, decay: Float[Array, ""]) -> Array:
        return jnp.max(jnp.abs(force - decay * self.value(state)))

    def record(self, state: State) -> dict[str, Array]:
        return {"value": self.value(state), "array": state.reshape(self.initial.shape)}

    def resolved(self, state: State) -> Array:
        return jnp.array(True)


class FactorCoordinates(Coordinates):
    """The two factors themselves: θ = u⊙v, u' = v⊙g − λu, v' = u⊙g − λv."""

    u: Float[Array, "..."]
    v: Float[Array, "..."]

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

    def tolerance(self, rtol: float) -> tuple[np.ndarray, np.ndarray]:
        return _raw_tolerance(self.start(), rtol)

    def at(self, record: dict[str, Array]) -> "FactorCoordinates":
        return type(self)(record["u"], record["v"])

    def residual(self, state: State, force: Weight, decay: Float[Array, ""]) -> Array:
        return product_residual(self.value(state), force, decay)

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


def product_residual(value: Weight, force: Weight, decay: Float[Array, ""]) -> Array:
    """Growth rate left: |g| − λ of a dormant weight, and |θ|·||g| − λ| of an active one.

    At rest a weight is either zero with |g| ≤ λ, or not zero with |g| = λ.
    """
    excess = jnp.abs(force) - decay
    return jnp.max(jnp.maximum(excess, jnp.abs(value) * jnp.abs(excess)))


def _raw_tolerance(initial: Array, rtol: float) -> tuple[np.ndarray, np.ndarray]:
    """Tolerances tied to the initial scale: a bare atol above it ends the escape."""
    array = np.asarray(initial)
    scale = np.max(np.abs(array), initial=0.0)
    return np.full(array.size, rtol * (scale or 1.0)), np.full(array.size, rtol)
