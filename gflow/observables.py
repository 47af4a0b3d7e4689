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
