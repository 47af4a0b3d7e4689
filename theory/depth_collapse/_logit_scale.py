r"""Random attention at any scale of the logits (Giorlandino & Goldt 2025, 2505.24333).

n → ∞ tokens with ⟨x_i, x_i⟩/d = q and ⟨x_i, x_j⟩/d = p, logits of standard deviation βq√(ln n).
Softmax is then a random-energy model: below β_c every token attends to all, and tokens collapse;
above, to few. Convergence is in 1/ln n: trends are to be compared, not values at n = 512.
β_c, Y and the update of a block are the paper's, the latter recalled and not read again.
"""

import numpy as np
from jaxtyping import Float

from .._arguments import Numbers, at_least, real_array


def critical_beta(q: Numbers, p: Numbers) -> Float[np.ndarray, "..."]:
    r"""β_c = √(2/(q(q − p))), ∞ for equal tokens, p = q.

    **Raises:** ValueError for q ≤ 0 and |p| > q, which no tokens have.
    **Source:** 2505.24333.

    ```python
    critical_beta(1.0, [0.0, 0.5, 1.0])            # 1.4142, 2, ∞
    ```
    """
    norm, overlap = _pair(q, p)
    with np.errstate(divide="ignore"):
        return np.asarray(np.sqrt(2.0 / (norm * (norm - overlap))))


def participation(beta: Numbers, q: Numbers, p: Numbers) -> Float[np.ndarray, "..."]:
    r"""Y = E Σ_j A_ij² = (1 − β_c/β)₊: what attention leaves of q − p, q → p + (q − p)Y.

    **Raises:** ValueError for β < 0, and as `critical_beta`.
    **Regime:** n → ∞; at n = 10⁶, β = 2, q = 1, p = 0 it is 0.36, and 0.293 in the limit.
    **Source:** 2505.24333.

    ```python
    participation([1.0, 2.0, 4.0], 1.0, 0.0)       # 0, 0.2929, 0.6464
    ```
    """
    b = at_least("beta", beta, 0.0, "a scale of the logits")
    with np.errstate(divide="ignore"):
        return np.asarray(np.maximum(0.0, 1.0 - critical_beta(q, p) / b))


def attention_correlation(rho: Numbers, beta: Numbers) -> Float[np.ndarray, "..."]:
    r"""ρ after a layer of attention alone, q = 1: ρ/(ρ + (1 − ρ)Y).

    1 below β_c = √(2/(1 − ρ)), ρ/(1 − √(2(1 − ρ))/β) above, where ρ ≠ 0.
    **Raises:** ValueError for ρ outside [0, 1], and as `participation`.
    **Source:** 2505.24333.

    ```python
    attention_correlation(0.5, [1.0, 4.0])         # 1, 2/3
    ```
    """
    p = _correlation(rho)
    left = p + (1.0 - p) * participation(beta, 1.0, p)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(left > 0.0, p / left, 0.0))


def block_correlation(
    rho: Numbers,
    beta: Numbers,
    attention_residual: float,
    mlp_residual: float,
    *,
    value_variance: float = 1.0,
    weight_variance: float = 2.0,
    bias_variance: float = 0.0,
) -> Float[np.ndarray, "..."]:
    r"""ρ after LayerNorm, attention and a ReLU MLP, residuals of strengths α_A and α_M.

    With p_att = ρ, q_att = ρ + (1 − ρ)Y, and κ(c) = (√(1 − c²) + c(π − arccos c))/π,

        p₀ = (σ_v²p_att + σ_b² + α_A²ρ)/(σ_v²q_att + σ_b² + α_A²)
        q₁ = σ_w² + σ_b²,   p₁ = σ_w²p₀ + σ_b²
        q₂ = σ_w²q₁/2 + σ_b²,   p₂ = σ_w²(q₁/2)κ(p₁/q₁) + σ_b²
        ρ' = (p₂ + α_M²p₀)/(q₂ + α_M²)

    **Raises:** ValueError as `attention_correlation`, and for variances below 0.
    **Regime:** n, d → ∞. **Source:** 2505.24333, recalled.

    ```python
    block_correlation(0.3, 1.0, 1.0, 1.0)          # 0.5429: attention to the mean alone
    ```
    """
    p = _correlation(rho)
    v, w, b = (
        float(at_least(name, x, 0.0, "a variance"))
        for name, x in (
            ("value_variance", value_variance), ("weight_variance", weight_variance),
            ("bias_variance", bias_variance),
        )
    )  # fmt: skip
    first, second = float(attention_residual) ** 2, float(mlp_residual) ** 2
    kept = p + (1.0 - p) * participation(beta, 1.0, p)
    with np.errstate(invalid="ignore", divide="ignore"):
        p0 = (v * p + b + first * p) / (v * kept + b + first)
        q1, p1 = w + b, w * p0 + b
        c = np.clip(p1 / q1, -1.0, 1.0)
        kappa = (np.sqrt(1.0 - c**2) + c * (np.pi - np.arccos(c))) / np.pi
        q2, p2 = 0.5 * w * q1 + b, 0.5 * w * q1 * kappa + b
        found = (p2 + second * p0) / (q2 + second)
    if not np.all(np.isfinite(found)):
        raise ValueError(
            f"Nothing of the tokens is left at rho = {rho}: with these variances and residuals a "
            "branch is zero. Give a residual or a variance that is not."
        )
    return np.asarray(found)


def _pair(q: Numbers, p: Numbers) -> tuple[np.ndarray, np.ndarray]:
    norm, overlap = np.broadcast_arrays(real_array(q, "q"), real_array(p, "p"))
    if np.any(norm <= 0.0) or np.any(np.abs(overlap) > norm):
        raise ValueError(f"q = {q}, p = {p}: tokens have q > 0 and |p| ≤ q.")
    return norm, overlap


def _correlation(rho: Numbers) -> np.ndarray:
    p = real_array(rho, "rho")
    if np.any((p < 0.0) | (p > 1.0)):
        raise ValueError(f"rho = {rho}: of very many tokens the correlation is in [0, 1].")
    return p
