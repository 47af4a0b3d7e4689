r"""Dormant columns on a plateau: what its constant force makes of them.

H is the symmetric matrix of the plateau, Q its eigenvectors from the largest eigenvalue down.
Columns follow Z' = HZ, each cleared of all larger ones: e^{Ht}Z, orthonormalised column by column.
"""

import math
from collections.abc import Callable

import numpy as np

from ..gradual_rank._columns import Columns
from ..gradual_rank._saddle_leaf import log_abs
from ..gradual_rank._symmetric import SymmetricColumns
from ..gradual_rank._turning import complement

#: Directions whose growth rates differ by less than this, of the largest, never part.
_ALIKE = 1e-9
#: Largest difference of growth, in e-folds, within one orthonormalisation.
_SPREAD = 30.0
#: Directions that turn by less than this are taken to stand still.
_TURNED = 1e-14


def flag(
    part: Columns, free: np.ndarray, logs: np.ndarray
) -> tuple[np.ndarray, Callable[[float], np.ndarray], np.ndarray]:
    """Eigenvectors of a plateau, what of the others is in every column a time later, log-sizes."""
    values, basis = growth(part)
    # the largest first: a triangle then keeps the relative accuracy of every one
    order, most = np.argsort(-logs), float(np.max(logs))
    seen = basis.T @ (free * np.exp(logs - most)[None])[:, order]
    lower = np.asarray(np.linalg.qr(seen.T, "r")).T
    sizes = np.diag(lower)
    lower = lower / np.where(sizes == 0.0, 1.0, sizes)[None]
    count = len(sizes)
    gap = values[None, :count] - values[:, None]
    apart = gap > _ALIKE * np.max(np.abs(values), initial=1e-300)

    def left(t: float) -> np.ndarray:
        found = np.where(apart, lower * np.exp(-np.where(apart, gap, 0.0) * t), 0.0)
        found[:count] -= found[:count].T
        return found

    return basis, left, log_abs(sizes) + most


def growth(part: Columns) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues of the plateau's H and eigenvectors: those of the columns, then the others.

    Both descend; where several modes have one rate those of the columns span their part of it.
    """
    first, split = part.directions, part.split
    if part.branch < 0:  # in place of the last, the mode that grows
        flip = np.ones_like(first)
        flip[split:, -1] = -1.0
        first = first * flip
    if isinstance(part, SymmetricColumns):
        half = math.sqrt(2.0) * first[:split]
        other = complement(half)
        values, turn = np.linalg.eigh(other.T @ (part.force + part.force.T) @ other)
        other = np.concatenate([other @ turn] * 2) / math.sqrt(2.0)
    else:
        rows, columns = part.force.shape
        h = np.block(
            [[np.zeros((rows, rows)), part.force], [part.force.T, np.zeros((columns,) * 2)]]
        )
        other = complement(first)
        values, turn = np.linalg.eigh(other.T @ h @ other)
        other = other @ turn
    basis = np.concatenate([first, other[:, ::-1]], axis=1)
    return np.concatenate([part.strength, values[::-1]]), basis


def sign_of(x: np.ndarray | np.floating) -> np.ndarray:
    return np.where(x < 0.0, -1.0, 1.0)


def graded(part: Columns, columns: np.ndarray, span: float) -> tuple[np.ndarray, np.ndarray]:
    """Columns, each infinitely larger than the next, `span` later: directions and log-sizes.

    The last one keeps to its branch: on the shrinking one it has no part that grows, and
    rounding shall not make one.
    """
    values, basis = growth(part)
    values = values - part.decay
    count = columns.shape[1]
    seen, logs, done = basis.T @ columns, np.zeros(count), 0.0
    most = float(np.ptp(values))
    while done < span and most > 0.0:
        step = min(span - done, _SPREAD / most)
        if part.branch < 0:
            seen[len(part.exponent) - 1, -1] = 0.0
        top = float(np.max(values))
        q, r = np.linalg.qr(np.exp((values - top) * step)[:, None] * seen)
        q = q * sign_of(np.diag(r))[None]
        gained, change = log_abs(np.diag(r)) + top * step, np.max(np.abs(q - seen))
        seen, logs, done = q, logs + gained, done + step
        if change < _TURNED:
            return basis @ seen, logs + gained * ((span - done) / step)
    return basis @ seen, logs + (0.0 if most > 0.0 else values[0] * span)
