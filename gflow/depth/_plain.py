"""Any function of arrays as a block, as far as floats see."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ._blocks import Block
from ._pointwise import difference
from ._tokens import ULP, Tokens, direction, scaled_sum

#: Rows of f(equal tokens) that differ by less of their size are equal.
_EQUAL = 1e-13


class Plain(Block):
    r"""A function X (n, d) ↦ (n, width) of plain arrays as a block.

    What it does to the deviation comes from its derivative along it, integrated from equal tokens,
    and from plain differences where f bends or has kinks. That has all digits at any depth where
    the derivative tells tokens apart (residuals, norms, MLPs). Of attention alone it does not: the
    derivative is common to all tokens, and what is left of it after three layers or so is
    rounding. `Tokens.rounding` says so, and `follow` returns NaN from there: write such a block on
    `Tokens`, with `depth.attend`.

    ```python
    depth.follow(depth.Repeated(lambda x: x + 0.1 * jnp.tanh(x @ w), 1000), X)
    ```
    """

    function: Callable[[Array], Array]

    def __call__(self, tokens: Tokens) -> Tokens:
        n = tokens.deviation.shape[0]
        base = jnp.broadcast_to(tokens.common[None], tokens.deviation.shape)
        start, slope, agree = difference(self.function, base, tokens.deviation, tokens.log_size)
        if start.ndim != 2 or start.shape[0] != n:
            raise ValueError(
                f"A block takes {n} tokens to an array of shape {start.shape}: it is to return "
                f"({n}, width). Fewer tokens come from depth.Merge."
            )
        m = tokens.counts
        mean = m @ start / jnp.sum(m)
        own = start - mean[None]
        tells = jnp.linalg.norm(own) > _EQUAL * jnp.linalg.norm(start)
        own = jnp.where(tells, own, 0.0)
        zero = jnp.zeros_like(tokens.log_size)
        apart = scaled_sum(direction(own, zero), (slope, tokens.log_size))
        found = tokens.with_parts((mean, zero), apart)
        # in units of e^log_size
        plain = ULP * jnp.max(jnp.abs(start)) * jnp.exp(-jnp.maximum(tokens.log_size, -690.0))
        # sums that cancel in the slope have the rounding of what any direction gives
        any_way = np.random.default_rng(0).normal(size=base.shape)
        along = jnp.asarray(any_way / np.linalg.norm(any_way), base.dtype)
        _, gain = jax.jvp(self.function, (base,), (along,))
        noise = jnp.linalg.norm(ULP * jnp.abs(slope) + jnp.where(agree, 0.0, plain))
        noise = noise + ULP * jnp.linalg.norm(gain)
        lost = noise * jnp.exp(tokens.log_size - found.log_size)
        lost = jnp.where(tokens.log_size > -jnp.inf, lost, 0.0)
        return eqx.tree_at(lambda t: t.rounding, found, tokens.rounding + lost)
