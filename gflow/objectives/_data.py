"""The data that objectives hold, checked in one place."""

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike


def floats(x: ArrayLike, name: str) -> Array:
    """`x` as an array of floats over examples. **Raises:** ValueError as `examples`."""
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        x = x.astype(jnp.result_type(float))
    return examples(x, name)


def examples(x: ArrayLike, name: str) -> Array:
    """`x` as an array whose leading axis counts examples.

    **Raises:** ValueError where it has none, and for NaN or infinite entries.
    """
    x = jnp.asarray(x)
    if x.ndim == 0 or x.shape[0] == 0:
        raise ValueError(f"{name} has shape {x.shape}: the leading axis must count examples.")
    if not isinstance(x, jax.core.Tracer) and not np.all(np.isfinite(np.asarray(x))):
        raise ValueError(f"{name} contains NaN or infinite entries.")
    return x
