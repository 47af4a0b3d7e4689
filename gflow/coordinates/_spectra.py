"""Singular values of A Bᵀ from columns of any size, each to its own relative accuracy."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._jacobi import orthogonal
from ._record import LeafRecord

#: Matrices treated in one compiled call.
_BLOCK = 256


def log_spectrum(
    direction: Float[Array, "rows r"], log_size: Float[Array, " r"], split: int
) -> Float[Array, " modes"]:
    """Logarithms of the min(m, n, r) singular values of A diag(e^{2ℓ}) Bᵀ, [A; B] = `direction`.

    With the columns in order of size and A = QR the rows of R diag(e^{2ℓ}) Bᵀ are graded; made
    orthogonal they are as long as the singular values, each to its own relative accuracy,
    however far below the float range.
    """
    order = jnp.argsort(-log_size)
    left, right, size = direction[:split, order], direction[split:, order], log_size[order]
    upper = jnp.linalg.qr(left, mode="r")
    upper = jnp.pad(upper, ((0, left.shape[1] - upper.shape[0]), (0, 0)))
    graded = upper * jnp.exp(jnp.minimum(2.0 * (size[None, :] - size[:, None]), 0.0))
    logs = orthogonal(jnp.matmul(right, graded.T), 2.0 * size, 8)[1]
    return -jnp.sort(-logs)[: min(left.shape[0], *right.shape)]


@functools.partial(jax.jit, static_argnums=2)
def log_spectra(
    direction: Float[Array, "... rows r"], log_size: Float[Array, "... r"], split: int
) -> Float[Array, "... modes"]:
    """`log_spectrum` along leading axes."""
    flat = direction.reshape(-1, *direction.shape[-2:]), log_size.reshape(-1, log_size.shape[-1])
    return jax.vmap(lambda x, size: log_spectrum(x, size, split))(*flat).reshape(
        *log_size.shape[:-1], -1
    )


def log_singular(record: LeafRecord) -> Float[np.ndarray, "... modes"]:
    """Of recorded columns, `direction` (..., m + n, r) and `log_size` (..., r), of W (..., m, n).

    It is not part of the record of a step, as it costs more than the step.
    """
    direction, log_size = (np.asarray(record[k]) for k in ("direction", "log_size"))
    split = np.shape(record["value"])[-2]
    shape = log_size.shape
    flat = direction.reshape(-1, *direction.shape[-2:]), log_size.reshape(-1, shape[-1])
    count = len(flat[1])
    parts = []
    for first in range(0, count, _BLOCK):
        rows = [x[first : first + _BLOCK] for x in flat]
        width = 1 << math.ceil(math.log2(len(rows[0])))  # compiled once for like numbers
        padded = [np.concatenate([x, np.repeat(x[-1:], width - len(x), axis=0)]) for x in rows]
        parts.append(np.asarray(log_spectra(*padded, split))[: len(rows[0])])
    return np.concatenate(parts).reshape(*shape[:-1], -1)
