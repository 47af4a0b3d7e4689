"""What is read off recorded weights: logarithmic sizes and ranks."""

import numpy as np


def log_abs_weight(record: dict[str, np.ndarray]) -> np.ndarray:
    """log|θ| of a recorded leaf, from its logarithms where it has them."""
    if "log_s" not in record:
        with np.errstate(divide="ignore"):
            return np.log(np.abs(record["value"]))
    larger = np.maximum(record["log_s"], record["log_d"])
    gap = np.minimum(record["log_s"], record["log_d"]) - larger
    with np.errstate(divide="ignore"):
        return 2.0 * larger - np.log(4.0) + np.log(-np.expm1(2.0 * gap))


def is_active(log_abs: np.ndarray, log_alpha: float) -> np.ndarray:
    """True where |θ| > √α: the exponent log|θ|/log α is below ½."""
    return log_abs > 0.5 * log_alpha


def diagonal_rank(log_abs: np.ndarray, log_alpha: float) -> np.ndarray:
    """Rank of diag(θ) along the last axis: the number of active entries."""
    return np.sum(is_active(log_abs, log_alpha), axis=-1)


def log_spectrum(direction: np.ndarray, log_size: np.ndarray, split: int) -> np.ndarray:
    """Logarithms of the singular values of A diag(e^{2ℓ}) Bᵀ, largest first.

    `direction` is [A; B], (..., rows, r), with `split` rows of A. Columns are taken in
    groups of like size, each cleared of the larger ones: so graded ones keep their digits,
    and sizes below the float range are finite.
    """
    lead, (rows, r) = direction.shape[:-2], direction.shape[-2:]
    flat = zip(direction.reshape(-1, rows, r), log_size.reshape(-1, r), strict=True)
    out = [_log_spectrum(x, size, split) for x, size in flat]
    return np.reshape(out, (*lead, r))


#: Logarithm of the largest ratio of sizes that is resolved in one group.
_GROUP = 12.0


def _log_spectrum(x: np.ndarray, log_size: np.ndarray, split: int) -> np.ndarray:
    order = np.argsort(-log_size, kind="stable")
    left, right, size = x[:split, order], x[split:, order], log_size[order]
    logs: list[float] = []
    while size.size:
        count = max(int(np.searchsorted(size[0] - size, _GROUP)), 1)
        scale = np.exp(size[:count] - size[0])
        sides = [np.linalg.qr(y[:, :count] * scale) for y in (left, right)]
        values = np.linalg.svd(sides[0].R @ sides[1].R.T, compute_uv=False)
        with np.errstate(divide="ignore"):
            logs += list(np.log(values) + 2.0 * size[0])
        room = count - len(values)
        logs += [-np.inf] * room
        (ql, _), (qr, _) = sides
        left, right = (
            y[:, count:] - q @ (q.T @ y[:, count:]) for y, q in ((left, ql), (right, qr))
        )
        size = size[count:]
    return np.array(logs)
