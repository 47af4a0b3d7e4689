r"""f(m + r) − f(m) to the digits of r, by the mean-value integral ∫₀¹ f'(m + ur)[r]du."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ._tokens import ULP, Tokens, bounded_exp

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(6)
_ROOM = 64.0


def difference(
    f: Callable[[Array], Array], base: Array, along: Array, log: Array
) -> tuple[Array, Array, Array]:
    """f(base), (f(base + e^log·along) − f(base))/e^log, and whether by the integral, by entry.

    The integral has the digits of what is added; where it and the plain difference are apart by
    more than rounding, f has a kink between the two or bends, and the plain one is right.
    """
    size = bounded_exp(log)
    step = size * along
    start, end = f(base), f(base + step)
    # one graph for all nodes
    slopes = jax.vmap(lambda u: jax.jvp(f, (base + u * step,), (along,))[1])(
        jnp.asarray(0.5 * (1.0 + _NODES), base.dtype)
    )
    integral = jnp.tensordot(jnp.asarray(0.5 * _WEIGHTS, base.dtype), slopes, 1)
    plain = end - start
    room = _ROOM * ULP * jnp.maximum(jnp.abs(start), jnp.abs(end))
    agree = jnp.abs(size * integral - plain) <= room
    safe = jnp.where(size > 0.0, size, 1.0)
    return start, jnp.where(agree, integral, plain / safe), agree


def pointwise(f: Callable[[Array], Array], tokens: Tokens) -> Tokens:
    r"""f of every entry: an activation, any function of one number that JAX differentiates.

    ```python
    depth.pointwise(jnp.tanh, tokens)
    ```
    """
    # where there is no deviation the logarithm is −∞, and along is zero
    base = jnp.broadcast_to(tokens.common[None], tokens.deviation.shape)
    start, slope, _ = difference(f, base, tokens.deviation, tokens.log_size)
    zero = jnp.zeros_like(tokens.log_size)
    return tokens.with_parts((start[0], zero), (slope, tokens.log_size))
