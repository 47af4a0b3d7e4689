"""Angles between what two matrices act on: their leading singular subspaces."""

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from .._arguments import count
from .._svd import thin_svd
from ..parameters._base import float_array


def principal_angles(
    one: ArrayLike, other: ArrayLike, rank: int
) -> tuple[Float[Array, "... rank"], Float[Array, "... rank"]]:
    r"""Angles between the column spaces, and between the row spaces, of two matrices of low rank.

    Of the spans of their `rank` leading left, and right, singular vectors: ascending, in
    [0, π/2], from sines and cosines together (θ = atan2 of the singular values of (1 − UUᵀ)V and
    of UᵀV), so that small angles and those near π/2 are right to a rounding. NaN where a matrix
    has a rank below `rank`, whose span is arbitrary. **Source:** Björck & Golub 1973.

    **Arguments:** (..., m, n) each, leading axes (times, heads) one by one.
    **Raises:** ValueError for two shapes, no matrices, and a rank that they cannot have.

    ```python
    updates = np.diff(run.observables["kq"], axis=0)         # (times, heads, d, d)
    left, right = observables.principal_angles(updates[1:], updates[:-1], rank=2)
    ```
    """
    matrices = float_array(one, "one"), float_array(other, "other")
    shapes = tuple(x.shape for x in matrices)
    if shapes[0] != shapes[1] or len(shapes[0]) < 2:
        raise ValueError(
            f"principal_angles of shapes {shapes[0]} and {shapes[1]}: give matrices (..., m, n) of "
            "one shape."
        )
    most = min(shapes[0][-2:])
    if count("rank", rank, "the number of singular vectors") > most:
        raise ValueError(f"rank = {rank}: matrices of shape {shapes[0]} have a rank of {most}.")
    (u, v), (u2, v2) = (_leading(x, rank) for x in matrices)
    return _angles(u, u2), _angles(v, v2)


def _leading(x: Float[Array, "... m n"], rank: int) -> tuple[Array, Array]:
    """Leading left and right singular vectors as columns; NaN beyond the rank."""
    u, s, vt = thin_svd(x)
    rounding = max(x.shape[-2:]) * jnp.finfo(s.dtype).eps
    known = s[..., rank - 1] > rounding * s[..., 0]
    bases = u[..., :rank], vt[..., :rank, :].swapaxes(-1, -2)
    left, right = (jnp.where(known[..., None, None], b, jnp.nan) for b in bases)
    return left, right


def _angles(u: Float[Array, "... m k"], v: Float[Array, "... m k"]) -> Float[Array, "... k"]:
    within = jnp.matmul(u.swapaxes(-1, -2), v)
    cosines = jnp.linalg.svdvals(within)
    sines = jnp.linalg.svdvals(v - jnp.matmul(u, within))
    return jnp.arctan2(sines[..., ::-1], cosines)
