"""What is read off recorded weights: logarithmic sizes and ranks."""

import numpy as np

from ..coordinates._spectra import log_singular


def log_abs_weight(record: dict[str, np.ndarray]) -> np.ndarray:
    """log|θ| of a recorded leaf, from its logarithms where it has them."""
    if "log_s" not in record:
        with np.errstate(divide="ignore"):
            return np.log(np.abs(record["value"]))
    larger = np.maximum(record["log_s"], record["log_d"])
    gap = np.minimum(record["log_s"], record["log_d"]) - larger
    with np.errstate(divide="ignore"):
        return 2.0 * larger - np.log(4.0) + np.log(-np.expm1(2.0 * gap))


def is_matrix(record: dict[str, np.ndarray]) -> bool:
    """Whether the leaf is a product of matrices, whose modes are singular values."""
    return "direction" in record or "factor_0" in record


def log_modes(record: dict[str, np.ndarray]) -> np.ndarray:
    """Logarithms of what can be active: singular values of a product, entries otherwise."""
    if "direction" in record:
        return log_singular(record)
    if "factor_0" in record:
        with np.errstate(divide="ignore"):
            return np.log(np.linalg.svd(record["value"], compute_uv=False))
    return log_abs_weight(record)


def modes(record: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Size of every mode and the force along it: singular values and uᵀGv, or the entries."""
    value, force = record["value"], record["force"]
    if not is_matrix(record):
        return value, force
    u, sizes, vt = np.linalg.svd(value, full_matrices=False)
    along = np.einsum("...mk,...mn,...kn->...k", u, force, vt)
    count = min(sizes.shape[-1], record.get("log_size", sizes).shape[-1])
    return sizes[..., :count], along[..., :count]


def leaves_its_branch(record: dict[str, np.ndarray]) -> int:
    """Recorded steps up to which sgn det A · sgn det B of square factors is what it was.

    The balance AᵀA − BᵀB stays of the size it starts with, so that neither determinant changes
    sign while all columns are far above that; a column that has come down to it may escape on
    the other branch. A flip means that the error of the steps has taken the place of the balance
    in the last column, and with it of its next escape.
    """
    steps = len(record["value"])
    if "direction" not in record:
        return steps
    x, size = record["direction"], record["log_size"]
    r = x.shape[-1]
    if x.shape[-2] != 2 * r or record["value"].shape[-2] != r:
        return steps
    signs = np.linalg.slogdet(x[..., :r, :])[0] * np.linalg.slogdet(x[..., r:, :])[0]
    smallest = np.min(size, axis=-1).reshape(steps, -1)
    floor = np.max(size[:1], axis=-1).reshape(1, -1) + 5.0
    heads = zip(signs.reshape(steps, -1).T, smallest.T, (smallest > floor).T, strict=True)
    return min(_lost_branch(*head) for head in heads)


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


def above_sqrt_alpha(log_abs: np.ndarray, log_alpha: float) -> np.ndarray:
    """How many along the last axis have |θ| > √α, that is log|θ|/log α < ½."""
    return np.sum(log_abs > 0.5 * log_alpha, axis=-1)
