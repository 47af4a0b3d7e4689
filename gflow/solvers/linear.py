"""Dense linear systems that are solved several times a step."""

from collections.abc import Callable

import jax.numpy as jnp
import jax.scipy.linalg
from jaxtyping import Array, Float

#: Up to this size the inverse is formed: one kernel a solve in place of three.
INVERTED = 32


def factorised(matrix: Float[Array, "n n"]) -> Callable[[Float[Array, " n"]], Float[Array, " n"]]:
    """b ↦ matrix⁻¹ b, with what can be shared between right-hand sides done once."""
    if matrix.shape[0] > INVERTED:
        lu = jax.scipy.linalg.lu_factor(matrix)
        return lambda b: jax.scipy.linalg.lu_solve(lu, b)
    inverse = jnp.linalg.inv(matrix)
    return lambda b: jnp.sum(inverse * b[None, :], axis=1)
