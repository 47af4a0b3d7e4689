"""What is read off recorded weights: logarithmic sizes and ranks."""

import numpy as np

from .spectra import log_singular


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
    sign for good while all columns are far above that; a column that has come down to it may
    escape on the other branch. A flip means that rounding has taken the place of the balance in
    the last column, and with it of its next escape.
    """
    steps = len(record["value"])
    if "direction" not in record:
        return steps
    x, size = record["direction"], record["log_size"]
    r = x.shape[-1]
    if x.shape[-2] != 2 * r or record["value"].shape[-2] != r:
        return steps
    signs = np.linalg.slogdet(x[..., :r, :])[0] * np.linalg.slogdet(x[..., r:, :])[0]
    clear = np.min(size, axis=-1) > np.max(size[:1], axis=-1) + 5.0
    heads = zip(signs.reshape(steps, -1).T, clear.reshape(steps, -1).T, strict=True)
    return min(_first_flip(*head) for head in heads)


def _first_flip(signs: np.ndarray, clear: np.ndarray) -> int:
    """The step from which a sign differs from that at the start of its clear stretch, to its end.

    While another column passes, directions turn and the sign may flip to and fro.
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[False], clear, [False]]).astype(int)))
    for first, last in edges.reshape(-1, 2):
        same = np.flatnonzero(signs[first:last] == signs[first])
        if same[-1] < last - first - 1:
            return int(first + same[-1] + 1)
    return len(signs)


def above_sqrt_alpha(log_abs: np.ndarray, log_alpha: float) -> np.ndarray:
    """How many along the last axis have |θ| > √α, that is log|θ|/log α < ½."""
    return np.sum(log_abs > 0.5 * log_alpha, axis=-1)
