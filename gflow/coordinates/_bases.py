"""A weight seen in orthogonal bases of its own along some of its axes."""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float


def along(
    weight: Float[Array, "..."], matrix: Float[Array, "new old"], axis: int
) -> Float[Array, "..."]:
    """`matrix` applied to one axis of a weight."""
    return jnp.moveaxis(jnp.tensordot(matrix, weight, (1, axis)), 0, axis)


def as_given(
    weight: Float[Array, "..."], axes: Sequence[int], bases: Sequence[Float[Array, "n n"]]
) -> Float[Array, "..."]:
    """The weight that has these components; the rows of every basis are its directions."""
    for axis, basis in zip(axes, bases, strict=True):
        weight = along(weight, basis.T, axis)
    return weight


def as_seen(
    weight: Float[Array, "..."], axes: Sequence[int], bases: Sequence[Float[Array, "n n"]]
) -> Float[Array, "..."]:
    """The components of a weight."""
    for axis, basis in zip(axes, bases, strict=True):
        weight = along(weight, basis, axis)
    return weight
