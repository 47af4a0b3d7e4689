"""What softmax attention reads, to all digits of what it leaves out."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def attended(logits: Float[Array, " tokens"], values: Float[Array, "tokens d"]) -> Array:
    r"""Σ_j softmax(s)_j v_j as v_m + Σ_{j≠m} a_j (v_j − v_m), m the largest logit.

    Once attention is on one token, forces on the logits are differences of what is all but equal,
    and below 1 − a_m = 10⁻¹⁶ nothing but rounding. From v_m on they keep their digits down to the
    smallest float.
    """
    top = jax.lax.stop_gradient(logits)
    first = jnp.cumsum(top == jnp.max(top)) == 1
    largest = first & (top == jnp.max(top))
    s, v = (jnp.sum(jnp.where(mask, x, 0.0), axis=0) for mask, x in (
        (largest, logits), (largest[:, None], values),
    ))  # fmt: skip
    odds = jnp.where(largest, 0.0, jnp.exp(logits - s))
    weights = odds / (1.0 + jnp.sum(odds))
    return v + weights @ (values - v[None])
