"""Coordinates in which a gradient step is exact: s⁺ = (1 − ηλ + ηg)s, d⁺ = (1 − ηλ − ηg)d."""

from collections.abc import Callable
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._base import Coordinates, State, Weight
from ._dormant import log_abs, product_descent
from ._record import LeafRecord


class SignedLogs(Coordinates):
    """log|s|, log|d| and the signs of both, with what rounding took from the logarithms."""

    product: ClassVar[bool] = True

    log_s: Float[Array, "..."]
    log_d: Float[Array, "..."]
    sign_s: Array
    sign_d: Array

    @property
    def size(self) -> int:
        return 6 * self.log_s.size

    def start(self) -> State:
        dtype, zero = self.log_s.dtype, jnp.zeros_like(self.log_s)
        signs = (self.sign_s.astype(dtype), self.sign_d.astype(dtype))
        return jnp.stack([self.log_s, self.log_d, *signs, zero, zero]).ravel()

    def _parts(self, state: State) -> Array:
        return state.reshape(6, *self.log_s.shape)

    def value(self, state: State) -> Weight:
        log_s, log_d, *_ = self._parts(state)
        return 0.25 * (jnp.exp(2.0 * log_s) - jnp.exp(2.0 * log_d))

    def velocity(self, state: State, force: Weight, decay: Float[Array, ""]) -> State:
        zero = jnp.zeros_like(force)
        return jnp.stack([force - decay, -force - decay, *4 * [zero]]).ravel()

    def descended(
        self, state: State, force: Weight, decay: Float[Array, ""], rate: Float[Array, ""]
    ) -> State:
        """State after s⁺ = (1 − ηλ + ηg)s, d⁺ = (1 − ηλ − ηg)d."""
        log_s, log_d, sign_s, sign_d, lost_s, lost_d = self._parts(state)
        for_s, for_d = rate * (force - decay), -rate * (force + decay)
        log_s, lost_s = compensated(log_s, lost_s, _log_abs1p(for_s))
        log_d, lost_d = compensated(log_d, lost_d, _log_abs1p(for_d))
        sign_s, sign_d = sign_s * jnp.sign(1.0 + for_s), sign_d * jnp.sign(1.0 + for_d)
        return jnp.stack([log_s, log_d, sign_s, sign_d, lost_s, lost_d]).ravel()

    def record(self, state: State) -> dict[str, Array]:
        log_s, log_d, sign_s, sign_d, *_ = self._parts(state)
        return {
            "value": self.value(state),
            "log_s": log_s,
            "log_d": log_d,
            "sign_s": sign_s.astype(jnp.int8),
            "sign_d": sign_d.astype(jnp.int8),
        }

    def at(self, record: LeafRecord) -> "SignedLogs":
        return SignedLogs(*(record[k] for k in ("log_s", "log_d", "sign_s", "sign_d")))

    def descent(self, state: State, force: Weight, decay: Float[Array, ""]) -> Float[Array, ""]:
        log_s, log_d, *_ = self._parts(state)
        return product_descent(log_s, log_d, force, decay)

    @classmethod
    def log_entries(cls, record: LeafRecord) -> Float[np.ndarray, "..."]:
        return log_abs(np.asarray(record["log_s"]), np.asarray(record["log_d"]))

    @classmethod
    def interpolated(
        cls, record: LeafRecord, between: Callable[[np.ndarray], np.ndarray]
    ) -> Float[np.ndarray, "... modes"]:
        return log_abs(between(record["log_s"]), between(record["log_d"]))


def _log_abs1p(x: Array) -> Array:
    """log|1 + x| to rounding: 1 + x is exact on [−2, −½], where log1p loses or fails."""
    near = x > -0.5
    return jnp.where(near, jnp.log1p(jnp.where(near, x, 0.0)), jnp.log(jnp.abs(1.0 + x)))


def compensated(total: Array, lost: Array, change: Array) -> tuple[Array, Array]:
    """total + change and what rounding lost (Kahan): at log α = −1e6 one ulp is 1e-10."""
    change = change - lost
    new = total + change
    lost = jnp.where(jnp.isfinite(new), (new - total) - change, 0.0)
    return new, lost
