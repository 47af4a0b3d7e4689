"""Dormant weights, whose logarithms grow linearly and are not felt: steps, rest, descent."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._base import State, Weight


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


def log_abs(log_s: np.ndarray, log_d: np.ndarray) -> Float[np.ndarray, "... modes"]:
    """log|θ| of θ = (s² − d²)/4."""
    larger = np.maximum(log_s, log_d)
    gap = np.minimum(log_s, log_d) - larger
    with np.errstate(divide="ignore"):
        return np.asarray(2.0 * larger - np.log(4.0) + np.log(-np.expm1(2.0 * gap)))
