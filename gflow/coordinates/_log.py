"""Logarithms of the two factors of a weight: any scale, 10^-1000000 included."""

from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int8

from ._base import Coordinates, State, Weight
from ._dormant import felt, growth_horizon, log_abs, product_descent
from ._record import LeafRecord
from ._view import View


class LogCoordinates(Coordinates):
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

    logarithmic: ClassVar[bool] = True
    symmetric: ClassVar[bool] = True
    product: ClassVar[bool] = True

    log: Float[Array, "..."]
    log_product: Float[Array, "..."]
    side: Float[Array, "..."]
    signs: Int8[Array, "two ..."]
    decays: bool = eqx.field(static=True)

    @property
    def size(self) -> int:
        return self.log.size + int(self.decays)

    @classmethod
    def from_logs(
        cls, log_s: Array, log_d: Array, signs: Int8[Array, "two ..."], decays: bool
    ) -> "LogCoordinates":
        """Coordinates at log|s|, log|d|, oriented to the larger of the two; `signs` of s and d."""
        positive = log_s >= log_d
        side = jnp.where(positive, jnp.ones_like(log_s), -jnp.ones_like(log_s))
        return cls(jnp.where(positive, log_s, log_d), log_s + log_d, side, signs, decays)

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

    def at(self, record: LeafRecord) -> "LogCoordinates":
        return type(self).from_logs(record["log_s"], record["log_d"], self.signs, self.decays)

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

    def view(self, state: State) -> View:
        logs = self.record(state)
        s, d = (
            sign.astype(state.dtype) * jnp.exp(logs[name])
            for sign, name in zip(self.signs, ("log_s", "log_d"), strict=True)
        )
        return View(logs["value"], (0.5 * (s + d), 0.5 * (s - d)), s * d)

    def log_sizes(self) -> Float[Array | np.ndarray, "..."]:
        return self.log

    @classmethod
    def log_entries(cls, record: LeafRecord) -> Float[np.ndarray, "..."]:
        return log_abs(np.asarray(record["log_s"]), np.asarray(record["log_d"]))

    @classmethod
    def interpolated(
        cls, record: LeafRecord, between: Callable[[np.ndarray], np.ndarray]
    ) -> Float[np.ndarray, "... modes"]:
        return log_abs(between(record["log_s"]), between(record["log_d"]))
