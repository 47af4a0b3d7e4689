"""Normalised gradient descent: steps of one length, however small the gradient is."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree


def normalised(rate: float) -> optax.GradientTransformation:
    """−rate·g/‖g‖ over all weights.

    `optax.normalize_by_update_norm` adds 10⁻⁶ to ‖g‖, from where on it is gradient descent, and
    squares underflow at 10⁻¹⁶⁰.
    """

    def update(gradient: PyTree, params: PyTree) -> PyTree:
        leaves = jax.tree.leaves(gradient)
        top = jnp.max(jnp.stack([jnp.max(jnp.abs(x)) for x in leaves]))
        norm = jnp.sqrt(sum(jnp.sum((x / top) ** 2) for x in leaves))
        return jax.tree.map(lambda x: -rate * (x / top) / norm, gradient)

    return optax.stateless(update)
