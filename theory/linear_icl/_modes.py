"""One layer of linear attention whose tasks share an eigenbasis: a logistic a mode."""

import numpy as np
from jaxtyping import Float

from .._arguments import Numbers, real_array, times
from ._problem import problem


def modes(
    variances: Numbers, context: float, size: Numbers, t: Numbers, *, noise: float = 0.0
) -> Float[np.ndarray, "*t modes"]:
    r"""a(t) = pq of every mode from p = q = `size`: sigmoids, each on its own clock 1/s².

        p' = s²q(1 − s∞pq),   q' = s²p(1 − s∞pq),   s∞ = ((N + 1)s + tr S + σ²)/N
        a(t) = a₀/(s∞a₀ + (1 − s∞a₀)e^{−2s²t}),     a₀ = size²

    Half-way at t = ln(1/(s∞a₀) − 1)/(2s²), so that modes of larger variance come first, as s^{−2}.
    ŷ = Σ a e eᵀ in the shared basis; E(y − ŷ)² = `population_loss` of diag(a). For p ≠ q, whose
    p² − q² is conserved, take `theory.exact_linear.aligned_mode(√s∞ q, √s∞ p, 1, s²t)`, whose
    product is s∞a.

    **Arguments:** `variances` s of the inputs: (modes,); `context` N; `size` > 0, one or one a
    mode; `t ≥ 0` of any shape, ∞ included. Clock: the flow of ½E(y − ŷ)² (τ = 1), the flow time of
    the "half_mean" objective; the paper's is η P times that (learning rate, prompts). `noise`: σ².

    **Raises:** ValueError for negative variances, N < 1, size ≤ 0, t < 0, float32.
    **Regime:** exact in the shared eigenbasis. **Source:** 2504.12916.

    ```python
    modes([1.0, 0.5], 31, 1e-50, [230.0, 1000.0, math.inf])
    ```
    """
    found, t = problem(variances, context, noise), times(t)
    p = sizes_of(size, found.eigenvalues)
    rate, end = found.force, found.spread
    with np.errstate(invalid="ignore", over="ignore"):
        x = np.where(rate > 0, 2.0 * rate * t[..., None], 0.0)
        start = np.exp(-2.0 * np.log(p) - x)
    return 1.0 / (-end * np.expm1(-x) + start)


def sizes_of(size: Numbers, variances: np.ndarray) -> np.ndarray:
    found = real_array(size, "size")
    if found.shape not in ((), variances.shape) or np.any(found <= 0.0):
        raise ValueError(
            f"size = {size}: give p = q > 0, one number or one for each of the {variances.size} "
            "modes."
        )
    return found
