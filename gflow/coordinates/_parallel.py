"""Heads whose columns run parallel, and whether what tells them apart is still known."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

#: Columns of a head that count as its own space: down to this (a logarithm) below the largest.
_SPAN = -4.0

#: Roundings below which columns of two heads are parallel.
_ROUNDINGS = 64.0

#: Noise in a direction that changes times by its square, and one that is large.
FELT, LARGE = 1e-4, 0.3

#: A difference so many times that of the forces is not their doing.
_OUTGROWN = 100.0


def differences(
    x: Float[Array, "heads rows r"], log_size: Float[Array, "heads r"]
) -> Float[Array, "heads heads"]:
    """What the large columns of every head have outside of the span of those of each other one."""
    own = log_size > jnp.max(log_size, axis=-1, keepdims=True) + _SPAN
    x = jnp.where(own[:, None, :], x, 0.0)
    one = jnp.eye(x.shape[-1], dtype=x.dtype)
    gram = jnp.matmul(x.swapaxes(-1, -2), x) + jnp.where(own[:, None, :], 0.0, one)
    first = jnp.broadcast_to(x[:, None], (len(x), *x.shape))
    other = jnp.broadcast_to(x[None], first.shape)
    grams = jnp.broadcast_to(gram[:, None], (len(x), *gram.shape))
    along = jnp.linalg.solve(grams, jnp.matmul(first.swapaxes(-1, -2), other))
    outside = other - jnp.matmul(first, along)
    return jnp.max(jnp.sqrt(jnp.sum(outside**2, axis=-2)), axis=-1)


def blurred(
    before: Bool[Array, "heads heads"],
    x: Float[Array, "heads rows r"],
    log_size: Float[Array, "heads r"],
) -> Bool[Array, "heads heads"]:
    """Pairs of heads that have been parallel to rounding, until they are far from it again."""
    if len(x) == 1:
        return before
    apart = differences(x, log_size)
    pair = ~jnp.eye(len(x), dtype=bool)
    return (before | (apart < _ROUNDINGS * jnp.finfo(x.dtype).eps)) & (apart < LARGE) & pair


def noise_felt(
    blurred: Bool[Array, "heads heads"],
    x: Float[Array, "heads rows r"],
    log_size: Float[Array, "heads r"],
    force: Float[Array, "heads m n"],
) -> Bool[Array, ""]:
    """Whether rounding, in place of what told two heads apart, has grown to be felt.

    It grows at the rate of the next mode of their sum from the rounding of the first one, and not
    where the forces on the heads differ by as much: what these bring about outgrows it.
    """
    if len(x) == 1:
        return jnp.array(False)
    apart = differences(x, log_size)
    sizes = jnp.sqrt(jnp.sum(force**2, axis=(-2, -1)))
    unlike = jnp.sqrt(jnp.sum((force[:, None] - force[None]) ** 2, axis=(-2, -1)))
    largest = jnp.maximum(sizes[:, None], sizes[None, :])
    return jnp.any(blurred & (apart > FELT) & (apart * largest > _OUTGROWN * unlike))
