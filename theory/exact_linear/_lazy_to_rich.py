r"""From lazy to rich in one formula: two layers whose product starts at zero.

Papers: Tu, Aranguri, Jacot 2024 (2405.17580); Domine et al. 2024 (2409.14623).
"""

import numpy as np
from jaxtyping import Float, PRNGKeyArray

from gflow.internal import svd

from .._arguments import Numbers, real_array, times
from ._starts import Pair, frame


def orthogonal_start(sizes: tuple[int, int, int], *, gain: float, key: PRNGKeyArray) -> Pair:
    """W₂W₁ = 0, W₁ᵀW₁ = gI, W₂W₂ᵀ = gI: the start of `lazy_to_rich`, and what a Gaussian one of
    variance g/h tends to as h → ∞.

    **Arguments:** `sizes`: (i, h, o) with h ≥ i + o; `gain` g ≥ 0.

    ```python
    w1, w2 = orthogonal_start((4, 9, 3), gain=0.1, key=jax.random.key(0))
    ```
    """
    i, h, o = sizes
    g = float(gain)
    if not (h >= i + o and g >= 0 and np.isfinite(g)):
        raise ValueError(f"sizes = {sizes}, gain = {g}: this start needs h ≥ i + o and g ≥ 0.")
    columns = np.sqrt(g) * frame(key, h, i + o)
    return columns[:, :i], columns[:, i:].T


def lazy_to_rich(target: Numbers, gain: float, t: Numbers) -> Float[np.ndarray, "*t o i"]:
    r"""W₂W₁ from W₂W₁ = 0, W₁ᵀW₁ = gI, W₂W₂ᵀ = gI: from rich (g → 0) to lazy (g → ∞).

    The modes of Σ never mix, and each strength follows w' = 2(s − w)sqrt(w² + g²). With
    ω = sqrt(s² + g²), w = g sinh log E and

        E = 1 + (1 − E₋)(1 − e^{−2ωt})/(e^{−2ωt} + r),
        1 − E₋ = (s + ω + g)/(s + ω),   r = g(1 − E₋)/(s + ω − g).

    **Arguments:** `target`: (o, i); `gain` g ≥ 0; `t ≥ 0` of any shape, ∞ included.
    **Returns:** t.shape + (o, i). **Raises:** ValueError for shapes, g < 0, t < 0, float32.

    **Regime:** exact for `orthogonal_start`, h ≥ i + o. For Gaussian factors of variance g/h it
    is the limit of infinite width. Two layers, no decay. G is not a multiple of I here.
    **Source:** the mixed dynamics of Tu, Aranguri, Jacot 2024 (2405.17580), in closed form.

    ```python
    lazy_to_rich(target, 0.1, np.linspace(0, 5, 50))
    ```
    """
    sigma, t, g = real_array(target, "target"), times(t), float(gain)
    if sigma.ndim != 2 or not (g >= 0 and np.isfinite(g)):
        raise ValueError(f"target has shape {sigma.shape}, gain = {g}: give (o, i) and g ≥ 0.")
    u, s, vt = svd(sigma, full_matrices=False)
    if g == 0.0:
        return np.zeros((*t.shape, *sigma.shape))
    omega = np.hypot(s, g)
    # s + ω − g, with ω − g = s²/(ω + g)
    ahead = np.where(s > 0, s + s**2 / (omega + g), 1.0)
    first = (s + omega + g) / (s + omega)
    ratio = g * first / ahead
    x = 2.0 * omega * t[..., None]
    excess = first * -np.expm1(-x) / (np.exp(-x) + ratio)  # E − 1
    w = np.where(s > 0, 0.5 * g * excess * (excess + 2.0) / (excess + 1.0), 0.0)
    return (u * w[..., None, :]) @ vt
