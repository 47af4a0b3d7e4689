"""Singular values of W_Q and W_K, simulated and predicted, to relative accuracy at any ratio.

On a plateau from ε = 1e-100 the largest singular value is 1e50 times the next, which the SVD of
the matrix does not see. Both the columns of a `gflow.Factored` leaf and the modes of the linear
flow are graded as they stand: made orthogonal one pair at a time, each keeps its digits.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from gflow.internal import orthogonal, svd


def factors(leaf) -> tuple[np.ndarray, np.ndarray]:
    """W_Q and W_K of one record or several, up to one rotation of the columns of both."""
    both = leaf["direction"] * np.exp(leaf["log_size"])[..., None, :]
    cut = both.shape[-2] // 2
    return both[..., :cut, :], both[..., cut:, :]


@jax.jit
@jax.vmap
def _graded(columns, log_size):
    """Left singular vectors, in order, and logarithms of the singular values."""
    columns, logs = orthogonal(columns, log_size)
    order = jnp.argsort(-logs)
    return columns[:, order], logs[order]


def spectra(leaf) -> list[tuple[np.ndarray, np.ndarray]]:
    """For W_Q and W_K: left singular vectors and log singular values, however far apart.

    Relative accuracy comes from the columns of the record, whose sizes are logarithms.
    """
    x, cut = leaf["direction"], leaf["direction"].shape[-2] // 2
    halves = x[..., :cut, :], x[..., cut:, :]
    pairs = (_graded(jnp.asarray(half), jnp.asarray(leaf["log_size"])) for half in halves)
    return [(np.asarray(u), np.asarray(logs)) for u, logs in pairs]


def predicted_spectra(F, Q0, K0, t) -> list[np.ndarray]:
    """Log singular values of W_Q and W_K under W_Q' = F W_K, W_K' = FᵀW_Q at times t > 0.

    The rows of UᵀW_Q and VᵀW_K, ½e^{σ_i t}(s_i⁺ ± e^{−2σ_i t}s_i⁻), are graded as they stand.
    """
    u, sigma, vt = svd(F)
    plus, minus = u.T @ Q0 + vt @ K0, u.T @ Q0 - vt @ K0
    fallen = np.exp(-2 * np.multiply.outer(t, sigma))[..., None]
    logs = jnp.asarray(np.multiply.outer(t, sigma) - math.log(2))
    return [
        np.asarray(_graded(jnp.asarray((plus + sign * fallen * minus).mT), logs)[1])
        for sign in (1, -1)
    ]


def excess(logs: np.ndarray) -> np.ndarray:
    """Stable rank, less 1, from log singular values."""
    return np.sum(np.exp(2 * (logs[..., 1:] - logs[..., :1])), axis=-1)
