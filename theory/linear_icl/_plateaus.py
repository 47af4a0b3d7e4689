"""The population loss of any matrix, and of the saddles that separate heads visit."""

import numpy as np
from jaxtyping import Float

from .._arguments import Numbers, real_array
from ._problem import problem


def population_loss(
    matrix: Numbers, eigenvalues: Numbers, context: float, *, noise: float = 0.0
) -> Float[np.ndarray, "..."]:
    r"""E(y_q − βᵀM x_q)² of Gaussian prompts, exactly, for M in the eigenbasis of Λ.

        L(M) = tr Λ + σ² − 2 tr(MΛ²) + tr(E[ββᵀ] M Λ Mᵀ)
        E[ββᵀ] = Λ² + (Λ + tr Λ + σ²)Λ/N,     β = (1/N) Σ y_n x_n

    **Arguments:** `matrix` M: (..., D, D) in the eigenbasis, M = Eᵀ M E for Λ = E diag(λ) Eᵀ;
    `eigenvalues` λ: (D,); `context` N; `noise` σ², the variance of what is added to every label.

    **Raises:** ValueError for other shapes, negative eigenvalues, N < 1, float32.
    **Source:** 2501.16265, eq. 15; the term of σ² by E[ε²] Λ/N.

    ```python
    population_loss(np.zeros((2, 2)), [0.7, 0.3], 31)          # 1.0, the variance of y
    ```
    """
    found, m = problem(eigenvalues, context, noise), real_array(matrix, "matrix")
    lam = found.eigenvalues
    if m.shape[-2:] != (lam.size, lam.size):
        raise ValueError(
            f"matrix has shape {m.shape} and there are {lam.size} eigenvalues: give M as "
            f"(..., {lam.size}, {lam.size})."
        )
    linear = np.einsum("...dd,d->...", m, lam**2)
    square = np.einsum("a,...ab,b->...", found.second, m**2, lam)
    return np.asarray(np.sum(lam) + found.noise - 2.0 * linear + square)


def plateaus(
    eigenvalues: Numbers, context: float, *, noise: float = 0.0
) -> Float[np.ndarray, " levels"]:
    r"""Losses of the saddles M₀ = 0, M₁, …, M_D, in the order in which they are visited.

        L(M_m) = tr Λ + σ² − Σ_{d ≤ m} λ_d / (1 + (1 + (tr Λ + σ²)/λ_d)/N),     λ₁ ≥ λ₂ ≥ …

    Separate heads of rank one (`gflow.models.SeparateHeads`) from a small start learn one
    eigenvector after the other, the largest eigenvalue first; heads of rank R rest long at
    multiples of R only; merged heads go from the first to the last.

    **Arguments:** `eigenvalues` (D,), in any order; of equal ones it is not determined which is
    learned first, but the losses are. `context` N, an integer ≥ 1 or ∞; `noise` σ².

    **Returns:** E(y − ŷ)², (D + 1,); half of it is the "half_mean" of
    `gflow.objectives.InContextRegression`.

    **Raises:** ValueError for negative eigenvalues, N < 1, float32.
    **Regime:** exact. **Source:** 2501.16265, eq. 19.

    ```python
    plateaus([0.4, 0.3, 0.2, 0.1], 31)          # 1, 0.6405…, 0.3773…, 0.2098…, 0.1359…
    ```
    """
    found = problem(eigenvalues, context, noise)
    order = np.argsort(-found.eigenvalues, kind="stable")
    learned = np.concatenate([[0.0], np.cumsum(found.remaining[order])])
    ahead = np.concatenate([np.cumsum(found.eigenvalues[order][::-1])[::-1], [0.0]])
    return learned + ahead + found.noise
