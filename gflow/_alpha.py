"""The initial scale α: its natural logarithm, its power of ten, or α itself."""

import math
from typing import overload

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike

from ._arguments import numbers

#: Below it a float has lost digits, and then there is none.
_LEAST = float(np.finfo(np.float64).tiny)


@overload
def log_alpha_or_none(
    log_alpha: float | None, alpha: float | None, log10_alpha: float | None
) -> float | None: ...
@overload
def log_alpha_or_none(
    log_alpha: ArrayLike | None, alpha: ArrayLike | None, log10_alpha: ArrayLike | None
) -> ArrayLike | None: ...
def log_alpha_or_none(
    log_alpha: ArrayLike | None, alpha: ArrayLike | None, log10_alpha: ArrayLike | None
) -> ArrayLike | None:
    """log α from the one of the three that was given, None where none was.

    **Raises:** ValueError for two of them, and for an `alpha` that is no positive float.
    """
    three = {"log_alpha": log_alpha, "alpha": alpha, "log10_alpha": log10_alpha}
    given = [f"{name} = {value}" for name, value in three.items() if value is not None]
    if len(given) > 1:
        raise ValueError(
            f"{' and '.join(given)} were given: give α once, as log_alpha (its natural "
            "logarithm), log10_alpha (its power of ten) or alpha."
        )
    if log10_alpha is not None:
        if isinstance(log10_alpha, jax.core.Tracer):
            return math.log(10.0) * log10_alpha
        power = numbers("log10_alpha", log10_alpha, "the power of ten of the scale α")
        return _plain(math.log(10.0) * power)
    if alpha is None:
        return log_alpha
    if isinstance(alpha, jax.core.Tracer):
        return jnp.log(alpha)
    size = numbers("alpha", alpha, "the scale α")
    if not np.all((size >= _LEAST) & np.isfinite(size)):
        raise ValueError(
            f"alpha = {alpha} is no scale: α is positive, and a float down to {_LEAST:.1e}. "
            "Below that give log10_alpha=-400 for α = 1e-400; a logarithm is log_alpha."
        )
    return _plain(np.log(size))


def one_log_alpha(
    log_alpha: ArrayLike | None, alpha: ArrayLike | None, log10_alpha: ArrayLike | None
) -> ArrayLike:
    """log α from the one of the three that was given. **Raises:** ValueError as well for none."""
    found = log_alpha_or_none(log_alpha, alpha, log10_alpha)
    if found is None:
        raise ValueError(
            "The scale α is missing: give alpha=1e-100, log10_alpha=-100 or its natural logarithm "
            "log_alpha=-230.26, which are one scale."
        )
    return found


def _plain(value: ArrayLike) -> ArrayLike:
    value = np.asarray(value)
    return value if value.ndim else float(value)
