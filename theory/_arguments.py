"""Arguments of closed forms as float64 arrays, or a sentence that says what is wrong."""

import numpy as np
from jaxtyping import ArrayLike, Float

#: What becomes an array: also a list of numbers, or of rows.
Numbers = ArrayLike | list | tuple


def real_array(x: Numbers, name: str, finite: bool = True) -> Float[np.ndarray, "..."]:
    """`x` as float64. **Raises** ValueError for lower precision, complex or non-finite data."""
    array = np.asarray(x)
    if array.dtype.kind not in "fiub":
        # bfloat16 and its like are extension types of kind V
        if array.dtype.kind == "V" and "float" in array.dtype.name:
            raise _too_coarse(name, array.dtype)
        raise ValueError(f"{name} has dtype {array.dtype}: give real numbers.")
    if array.dtype.kind == "f" and array.dtype.itemsize < 8:
        raise _too_coarse(name, array.dtype)
    array = array.astype(float)
    if finite and not np.all(np.isfinite(array)):
        raise ValueError(f"{name} contains NaN or infinite entries.")
    return array


def times(t: Numbers) -> Float[np.ndarray, "..."]:
    """Flow times: float64, t ≥ 0, ∞ allowed."""
    array = real_array(t, "t", finite=False)
    bad = ~(array >= 0.0)
    if np.any(bad):
        raise ValueError(
            f"t contains {array[bad].ravel()[0]}: flow times are ≥ 0 (∞ is allowed). Backwards in "
            "time the closed forms do not hold."
        )
    return array


def _too_coarse(name: str, dtype: np.dtype) -> ValueError:
    return ValueError(
        f"{name} is {dtype}: closed forms are evaluated to about 1e-14, which needs float64. In "
        'JAX call jax.config.update("jax_enable_x64", True) before making the arrays.'
    )


def at_least(name: str, x: Numbers, least: float, what: str) -> Float[np.ndarray, "..."]:
    """`x` as float64, none of it below `least`. **Raises** ValueError that says `what` it is."""
    array = real_array(x, name)
    if np.any(array < least):
        raise ValueError(f"{name} = {x}: {what}, at least {least:g}.")
    return array


def counts(name: str, x: Numbers, least: int, what: str) -> Float[np.ndarray, "..."]:
    """Whole numbers as float64, none below `least`. **Raises** ValueError as `at_least`."""
    array = at_least(name, x, least, what)
    if np.any(array != np.round(array)):
        raise ValueError(f"{name} = {x}: {what}, a whole number.")
    return array


def token_rows(name: str, x: Numbers) -> Float[np.ndarray, "tokens d"]:
    """Tokens as rows. **Raises** ValueError for another shape."""
    array = real_array(x, name)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"{name} has shape {array.shape}: tokens are rows, give (tokens, d).")
    return array
