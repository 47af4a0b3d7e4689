r"""What a plateau makes of dormant columns: along which modes they end, and how large.

Columns c₁, c₂, … under Z' = HZ; those of one level are of sizes whose ratio stays, and one of a
lower level is infinitely larger than those after it. In a time of order log(1/α), j columns
span a volume that grows along the j fastest modes. So the first mode takes of the first level
what their part along it spans, the columns that have none of it go to the next mode, and
smaller levels are cleared of what larger columns have there. Of several modes of one rate the
columns take singular directions, with singular values for sizes.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gflow.internal import svd

from ._saddle_leaf import log_abs


class Mode(NamedTuple):
    """A rate and an orthonormal basis of all that grows at it."""

    rate: float
    basis: np.ndarray


class Turned(NamedTuple):
    """Columns on a plateau: unit directions, log-sizes, rates, and the levels they are on now.

    `mixing`: orthonormal, the columns (second axis) as combinations of those before.
    """

    direction: np.ndarray
    size: np.ndarray
    rate: np.ndarray
    level: np.ndarray
    mixing: np.ndarray


def turned(
    content: np.ndarray, size: np.ndarray, level: np.ndarray, modes: Sequence[Mode]
) -> Turned:
    """Columns of these directions and log-sizes as the modes, fastest first, turn them.

    Of more columns than there are modes the rest, which neither grow nor stay, are left out.
    """
    content, modes = content.copy(), [m for m in modes if m.basis.shape[1]]
    directions, sizes, rates, levels, mixings = [], [], [], [], []
    for one in dict.fromkeys(level.tolist()):
        later = level > one
        known = not np.isnan(size[level == one]).any()
        top = float(np.max(size[level == one])) if known else 0.0
        top = top if np.isfinite(top) else 0.0
        scale = np.exp(size[level == one] - top) if known else np.ones(1)
        own = content[:, level == one] * scale
        mixing = np.eye(len(level))[:, level == one]
        while own.shape[1] and modes:
            rate, basis = modes.pop(0)
            u, s, vt = svd(basis.T @ own)
            count = len(s)
            along = basis @ u[:, :count]
            directions.append(along)
            sizes.append(log_abs(s) + top if known else np.full(count, np.nan))
            rates += [rate] * count
            levels += [len(sizes)] * count
            mixings.append(mixing @ vt[:count].T)
            # unit along their mode, with all that they have elsewhere
            taken = own @ vt[:count].T / np.where(s > 0.0, s, np.inf)
            content[:, later] -= taken @ (along.T @ content[:, later])
            own, mixing = own @ vt[count:].T, mixing @ vt[count:].T
            if count < basis.shape[1]:
                modes.insert(0, Mode(rate, basis @ u[:, count:]))
    empty = content[:, :0]
    return Turned(
        np.concatenate([empty, *directions], axis=1),
        np.concatenate([np.zeros(0), *sizes]),
        np.array(rates, float),
        np.array(levels, int),
        np.concatenate([np.zeros((len(level), 0)), *mixings], axis=1),
    )


def alike(rates: np.ndarray, basis: np.ndarray, tolerance: float) -> list[Mode]:
    """Modes of rates in descending order, those that agree to `tolerance` together."""
    edges = np.flatnonzero(np.diff(rates) < -tolerance) + 1
    bounds = [0, *edges.tolist(), len(rates)]
    return [
        Mode(float(np.mean(rates[i:j])), basis[:, i:j])
        for i, j in itertools.pairwise(bounds)
        if i < j
    ]


def complement(basis: np.ndarray) -> np.ndarray:
    """Orthonormal basis of all that is orthogonal to orthonormal columns."""
    rows, count = basis.shape
    return svd(basis, full_matrices=True)[0][:, count:] if count else np.eye(rows)
