"""LayerNorm, token by token, and batch normalisation, feature by feature."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._blocks import Block
from ._tokens import Tokens, bounded_exp, direction, scaled_sum, some_floats

#: What is below, of the largest, is rounding.
_SAME = 1e-15


class LayerNorm(Block):
    r"""(x_i − mean of its entries)/(their standard deviation), then gain and bias, token by token.

    There is no ε in the denominator: a token without variance is an error.

    ```python
    depth.Chain((depth.LayerNorm(), attention))
    ```
    """

    gain: Float[Array, "... d"] | None = eqx.field(default=None, converter=some_floats)
    bias: Float[Array, "... d"] | None = eqx.field(default=None, converter=some_floats)

    def __call__(self, tokens: Tokens) -> Tokens:
        d = tokens.mean.shape[-1]
        mean, log_mean = direction(_centred(tokens.mean), tokens.log_mean)
        r = _centred(tokens.deviation)
        ratio = bounded_exp(tokens.log_size - log_mean)  # ∞ − ∞ is NaN: nothing to normalise
        near = ratio < 0.1
        size = jnp.where(near, ratio, 0.0)
        # x_i = mean + size·r_i, with a mean of norm one
        along, square = r @ mean, jnp.sum(r**2, axis=1)
        moved = (2.0 * along + size * square) / d
        flat = jnp.sqrt(1.0 / d)
        own = jnp.sqrt(1.0 / d + size * moved)
        slope = r / own[:, None] - (moved / (flat * own * (flat + own)))[:, None] * mean[None]
        whole, _ = scaled_sum(
            (jnp.broadcast_to(mean[None], r.shape), log_mean), (r, tokens.log_size)
        )
        spread = jnp.std(whole, axis=1, keepdims=True)
        regular = spread > 10.0 * _SAME * jnp.max(jnp.abs(whole))
        whole = whole / jnp.where(regular, spread, jnp.nan)
        zero = jnp.zeros_like(tokens.log_size)
        common = jnp.where(near, mean / flat, jnp.zeros_like(mean))
        apart = jnp.where(near, slope, whole)
        log = jnp.where(near, tokens.log_size - log_mean, zero)
        found = tokens.with_parts((common, zero), (apart, log))
        if self.gain is not None:
            found = found @ jnp.diag(self.gain)
        return found if self.bias is None else found.shifted(self.bias)


class BatchNorm(Block):
    r"""Every feature over its standard deviation among the tokens, then gain and bias.

    `centred=False` divides by the root mean square and subtracts nothing, as the papers on batch
    normalisation and rank do. A feature that is the same for all tokens (0 for all) is an error.

    ```python
    depth.Chain((depth.Linear(weight), depth.BatchNorm(centred=False)))
    ```
    """

    gain: Float[Array, "... d"] | None = eqx.field(default=None, converter=some_floats)
    bias: Float[Array, "... d"] | None = eqx.field(default=None, converter=some_floats)
    centred: bool = eqx.field(static=True, default=True)

    def __call__(self, tokens: Tokens) -> Tokens:
        share = tokens.counts / jnp.sum(tokens.counts)
        variance = share @ tokens.deviation**2
        zero = jnp.zeros_like(tokens.log_size)
        if self.centred:
            nothing = (jnp.zeros_like(tokens.mean), zero)
            apart = tokens.deviation / jnp.sqrt(_regular(variance))[None]
            found = tokens.with_parts(nothing, (apart, zero))
        else:
            square, log = scaled_sum(
                (tokens.mean**2, 2.0 * tokens.log_mean), (variance, 2.0 * tokens.log_size)
            )
            factor = 1.0 / jnp.sqrt(_regular(square))
            found = tokens.with_parts(
                (tokens.mean * factor, tokens.log_mean - 0.5 * log),
                (tokens.deviation * factor[None], tokens.log_size - 0.5 * log),
            )
        if self.gain is not None:
            found = found @ jnp.diag(self.gain)
        return found if self.bias is None else found.shifted(self.bias)


def _centred(x: Float[Array, "... d"]) -> Float[Array, "... d"]:
    """x less the mean of its entries, 0 where that is rounding."""
    found = x - jnp.mean(x, axis=-1, keepdims=True)
    level = _SAME * jnp.max(jnp.abs(x), axis=-1, keepdims=True)
    return jnp.where(jnp.max(jnp.abs(found), axis=-1, keepdims=True) > level, found, 0.0)


def _regular(squares: Float[Array, " d"]) -> Float[Array, " d"]:
    """Squares of features, NaN where one is rounding beside the largest."""
    return jnp.where(squares > _SAME**2 * jnp.max(squares), squares, jnp.nan)
