"""NumPy for concrete values, JAX for traced ones.

An eager JAX operation on a shape that it has not seen compiles a program. What leaves of a model
compute of themselves, outside a compiled call, therefore runs in NumPy.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike

R = TypeVar("R")


def concrete(*values: Any) -> bool:
    """Numbers and arrays that are neither traced nor tied to a device."""
    return all(
        not (isinstance(x, jax.core.Tracer) or x.committed)
        if isinstance(x, jax.Array)
        else isinstance(x, np.ndarray | np.generic | int | float)
        for x in values
    )


def on_device(value: ArrayLike) -> Array:
    """A number or an array of the host as a JAX array.

    `jnp.asarray` compiles a program for every shape of it.
    """
    return jax.device_put(np.asarray(value))


def eager(function: Callable[..., R]) -> Callable[..., R]:
    """`function(xp, *arrays)` as a function of the arrays, with xp = NumPy or `jax.numpy`.

    It returns JAX arrays either way, of the same dtypes.
    """

    @functools.wraps(function)
    def chosen(*values: Any) -> R:
        if not concrete(*values):
            return function(jnp, *values)
        with np.errstate(all="ignore"):
            found = function(
                np, *(np.asarray(x) if isinstance(x, jax.Array) else x for x in values)
            )
        return jax.tree.map(on_device, found)

    return chosen
