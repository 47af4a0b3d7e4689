r"""Softmax heads of one number each: where training ends, and how slowly it gets there."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from .._arguments import Numbers, real_array, times
from ._plateaus import population_loss
from ._problem import pairs, problem, variance


class SoftmaxOptimum(NamedTuple):
    """|μ| and |ω| of a head, and the loss; μ = ∞ where the infimum is only approached."""

    mu: float
    omega: float
    loss: float


def softmax_optimum(heads: int, dimension: int, length: int, noise: float) -> SoftmaxOptimum:
    r"""(μ, ω, loss) where the population loss of softmax heads is smallest.

    Head h has key-query ω_h I and value μ_h on the labels; with c = (1 + σ²)/L

        L̃(μ, ω) = 1 + σ² − 2μᵀω + μᵀ(ωωᵀ + c exp(d ωωᵀ))μ       (entrywise exp)

    - H = 1: ω = 1/√d, μ = √d/(1 + e d c), loss 1 + σ² − 1/(1 + e d c). The other optimum is −μ, −ω.
    - H ≥ 2: **not attained.** Heads in ± pairs, Σμ = 0, bring the loss to 1 + σ² − 1/(1 + d c),
      that of one step of gradient descent without bias, as ω → 0 with μω fixed, for any H ≥ 2.
      Returned as μ = ∞, ω = 0 and the infimum; runs creep to it by `softmax_creep`.

    **Arguments:** `heads` H, `dimension` d, `length` L of the context, `noise` σ², a variance.

    **Raises:** ValueError for counts below 1, σ² < 0.
    **Regime:** exact for L̃, the paper's large-d approximation of softmax. **Source:** 2503.12734.

    ```python
    softmax_optimum(1, 5, 40, 0.1).loss, softmax_optimum(2, 5, 40, 0.1).loss   # 0.372…, 0.220…
    ```
    """
    h, d, c, top = _read(heads, dimension, length, noise)
    if h > 1:
        return SoftmaxOptimum(math.inf, 0.0, top - 1.0 / (1.0 + d * c))
    share = 1.0 + math.e * d * c
    return SoftmaxOptimum(math.sqrt(d) / share, 1.0 / math.sqrt(d), top - 1.0 / share)


def softmax_creep(
    heads: int, dimension: int, length: int, noise: float, t: Numbers
) -> Float[np.ndarray, "..."]:
    r"""How far above its infimum the loss of H ≥ 2 softmax heads still is at a late time t.

        L̃ − L̃_∞ ≈ c d³/(6(1 + cd)²) · (2c d³H t)^{−2/3},   c = (1 + σ²)/L

    from the valley μ = 1/((1 + cd)Hω), ω^{−6} = 2cd³H t of heads in ± pairs, all |ω| equal.

    **Arguments:** as `softmax_optimum`, `heads` even; times `t > 0` of any shape, ∞ included.
    Clock: θ' = −½ ∂L̃/∂θ (τ = 1).

    **Raises:** ValueError for an odd number of heads, whose pairs do not come out, t ≤ 0.
    **Regime:** late: relative corrections of order t^{−2/3}, 1.7 % at t = 3e3 for
    d = 5, L = 40, σ² = 0.1. **Source:** 2503.12734 has the infimum; the law is of this package.

    ```python
    softmax_creep(2, 5, 40, 0.1, [1e4, 1e6])
    ```
    """
    h, d, c, _ = _read(heads, dimension, length, noise)
    if h % 2:
        raise ValueError(
            f"heads = {heads}: the law is for heads in ± pairs of one size, an even number of them."
        )
    t = times(t)
    if np.any(t <= 0):
        raise ValueError("The law of the approach is for late times, t > 0.")
    scale = c * d**3 / (6.0 * (1.0 + c * d) ** 2)
    return np.asarray(scale * (2.0 * c * d**3 * h * t) ** (-2.0 / 3.0))


def softmax_linear_loss(
    mean: Numbers, matrix: Numbers, eigenvalues: Numbers, context: float, *, noise: float = 0.0
) -> Float[np.ndarray, "..."]:
    r"""E(y − ŷ)² of softmax heads to first order in key-query: linear attention on centred pairs.

        softmax_n(x_nᵀW x_q) = (1 + (x_n − x̄)ᵀW x_q)/N + O(W²),   so that with Σμ = m, Σμ_h W_h = M
        ŷ = m ȳ + (β − ȳ x̄)ᵀM x_q + O(μW²)
        L = tr Λ + σ² + m²(tr Λ + σ²)/N − 2s tr(MΛ²) + s² tr(B M Λ Mᵀ),   s = 1 − 1/N

    with B = Λ² + (Λ + tr Λ + σ²)Λ/(N − 1): but for the mean label, `population_loss` of sM for
    N − 1 pairs. The second order is odd in heads of ± pairs and drops out there.

    From a small start heads with Σμ = 0 grow at the rate s‖Λ²‖ (the escape takes ln(1/ε) over it),
    and Σμ at less, by the force −(Σμ)(tr Λ + σ²)/N on every μ.

    **Arguments:** `mean` m (a number or (...)), `matrix` M (..., D, D) in the eigenbasis;
    `eigenvalues` λ (D,), `context` N ≥ 2, `noise` σ².

    **Raises:** ValueError for N < 2, and as `population_loss`.
    **Regime:** x_nᵀW_h x_q ≪ 1; at rest it is not, unless |μ| ≫ |W|. **Source:** derived here.

    ```python
    softmax_linear_loss(0.0, np.eye(2), [0.7, 0.3], 31)
    ```
    """
    if not pairs(context) >= 2.0:
        raise ValueError(f"context = {context}: centred pairs are two or more, N ≥ 2.")
    n, m = pairs(context), real_array(mean, "mean")
    found = problem(eigenvalues, n, noise)
    share = 1.0 - 1.0 / n
    own = m**2 * (np.sum(found.eigenvalues) + found.noise) / n
    matrix = share * real_array(matrix, "matrix")
    return np.asarray(own + population_loss(matrix, eigenvalues, n - 1.0, noise=noise))


def _read(heads, dimension, length, noise) -> tuple[int, float, float, float]:
    counts = []
    for name, value in (("heads", heads), ("dimension", dimension), ("length", length)):
        found = float(real_array(value, name))
        if found < 1 or found != int(found):
            raise ValueError(f"{name} = {value}: an integer of at least 1.")
        counts.append(int(found))
    top = 1.0 + variance(noise)
    return counts[0], float(counts[1]), top / counts[2], top
