"""The branch of square factors: the signs of their determinants, which no exact flow changes."""

import numpy as np

from ._record import LeafRecord


def steps_on_branch(record: LeafRecord) -> int:
    """Recorded steps up to which sgn det A · sgn det B of square factors is what it was.

    The balance AᵀA − BᵀB stays of the size it starts with, so that neither determinant changes
    sign while all columns are far above that; a column that has come down to it may escape on
    the other branch. A flip means that the error of the steps has taken the place of the balance
    in the last column, and with it of its next escape. Where the two factors round to the same
    numbers there is no error to flip a sign, and none of the balance either: then a column sinks
    below what the balance leaves it.
    """
    steps = len(record["value"])
    x, size = record["direction"], record["log_size"]
    r = x.shape[-1]
    if x.shape[-2] != 2 * r or record["value"].shape[-2] != r:
        return steps
    signs = np.linalg.slogdet(x[..., :r, :])[0] * np.linalg.slogdet(x[..., r:, :])[0]
    smallest = np.min(size, axis=-1).reshape(steps, -1)
    floor = np.max(size[:1], axis=-1).reshape(1, -1) + 5.0
    heads = zip(signs.reshape(steps, -1).T, smallest.T, (smallest > floor).T, strict=True)
    sunk = smallest < _least(x[0].reshape(-1, 2 * r, r), size[0].reshape(-1, r))
    below = np.flatnonzero(sunk.any(axis=1))
    return min(*(_lost_branch(*head) for head in heads), steps, *below[:1].tolist())


def _least(x: np.ndarray, size: np.ndarray) -> np.ndarray:
    """The logarithm of what every column of square factors keeps at least, by head.

    Z = [A; B] has ZᵀZ ± (AᵀA − BᵀB) ≥ 0, so that where the balance is definite no |Zq| falls below
    the root of its smallest eigenvalue; a tenth less is no rounding.
    """
    r = x.shape[-1]
    top = np.max(size, axis=-1)
    z = x * np.exp(size - top[:, None])[:, None, :]
    a, b = z[:, :r], z[:, r:]
    balance = np.linalg.eigvalsh(a.swapaxes(-1, -2) @ a - b.swapaxes(-1, -2) @ b)
    definite = np.all(balance > 0.0, axis=-1) | np.all(balance < 0.0, axis=-1)
    left = np.min(np.abs(balance), axis=-1) - 64.0 * r * np.finfo(float).eps
    known = definite & (left > 0.0)
    return np.where(known, top + 0.5 * np.log(np.where(known, left, 1.0)) - 0.1, -np.inf)


def _lost_branch(signs: np.ndarray, size: np.ndarray, clear: np.ndarray) -> int:
    """The step from which a clear stretch has another sign than at its start for too much.

    A column that has sunk by e^−D from its peak flips where the error of the steps, e^−2D of
    it, has become as large as what is left; if that error then grows by e^G before the column
    turns, what comes back of it is right to e^−(D − G). G ≤ D/2 is let pass.
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[False], clear, [False]]).astype(int)))
    for first, last in edges.reshape(-1, 2):
        other = np.concatenate([[False], signs[first:last] != signs[first], [False]])
        for start, end in np.flatnonzero(np.diff(other.astype(int))).reshape(-1, 2) + first:
            fall = np.max(size[first:start]) - size[start]
            if end == last or np.max(size[start:end]) - size[start] > 0.5 * fall:
                return int(start)
    return len(signs)
