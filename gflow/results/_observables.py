"""Ranks as papers count them: what is larger than √α."""

import numpy as np
from jaxtyping import Float, Int


def above_sqrt_alpha(
    log_abs: Float[np.ndarray, "... modes"], log_alpha: float
) -> Int[np.ndarray, "..."]:
    """How many along the last axis have |θ| > √α, that is log|θ|/log α < ½."""
    return np.sum(log_abs > 0.5 * log_alpha, axis=-1)
