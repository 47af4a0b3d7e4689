r"""Symmetric factorisation X' = (M − XXᵀ)X, solved: any rank of X, any signature of M.

Gradient flow of ¼‖XXᵀ − M‖², a Riccati flow like that of two layers (`_riccati`).
"""

import math

import numpy as np
from jaxtyping import Float

from gflow.internal import svd

from .._arguments import Numbers, real_array, times
from . import _riccati as riccati


def symmetric(x0: Numbers, target: Numbers, t: Numbers) -> Float[np.ndarray, "*t n n"]:
    r"""XXᵀ at the times `t` of X' = (M − XXᵀ)X, gradient flow of ¼‖XXᵀ − M‖².

        XXᵀ(t) = P (I + 2∫₀ᵗ PᵀP)⁻¹ Pᵀ,   P = e^{Mt}X(0)

    **Arguments:** `x0`: (n, r), any rank; `target` M: (n, n), symmetric of any signature;
    `t ≥ 0` of any shape, ∞ included. **Returns:** t.shape + (n, n).

    **Raises:** ValueError for shapes, float32, non-finite data, M ≠ Mᵀ, t < 0.

    **Regime:** exact. Directions of eigenvalue m > 0 saturate at m, at rate 2m; those of
    m < 0 decay exponentially, those of m = 0 as 1/(2t).
    **Source:** Oja's flow (Yan, Helmke, Moore 1994); Tarmoun et al. 2021; 2411.15972.

    ```python
    symmetric([[0.1], [0.2]], [[1.0, 0.0], [0.0, -0.5]], 5.0)
    ```
    """
    x, m = _symmetric_data(x0, target)
    # Q = √2 X follows Q' = MQ − ½QQᵀQ
    rates, basis = np.linalg.eigh(m)
    factor = riccati.solve(rates, basis, math.sqrt(2.0) * x).factor(times(t))
    return 0.5 * factor @ factor.mT


def schur_complement(x0: Numbers, target: Numbers, t: Numbers) -> Float[np.ndarray, "*t m m"]:
    r"""What XXᵀ of `symmetric` has beyond its part on the growing eigenspace of M.

    In eigenvectors of M = diag(Λ₁, −Λ₂), Λ₁ > 0 ≥ −Λ₂, eigenvalues descending, let XXᵀ =
    [[A, B], [Bᵀ, C]]. Then S = C − BᵀA⁺B follows a flow of its own,

        S' = −Λ₂S − SΛ₂ − 2S²,

    and decays as 1/(2t) where Λ₂ = 0, exponentially elsewhere. Needs A of full rank at the
    start for S to stay the Schur complement.

    **Returns:** t.shape + (m, m), m the number of eigenvalues of M that are ≤ 0, in the
    basis of their eigenvectors by `numpy.linalg.eigh`, descending. Errors as for `symmetric`.
    **Source:** 2411.15972.

    ```python
    schur_complement(x0, np.diag([1.0, 0.0]), 100.0)      # [[about 1/200]]
    ```
    """
    x, m = _symmetric_data(x0, target)
    rates, basis = (y[..., ::-1] for y in np.linalg.eigh(m))
    n_up = int(np.sum(rates > 8 * len(rates) * np.finfo(float).eps * np.max(np.abs(rates))))
    up, rest = basis[:, :n_up].T @ x, basis[:, n_up:].T @ x
    if np.linalg.matrix_rank(up) < n_up:
        raise ValueError(
            f"The start has rank {np.linalg.matrix_rank(up)} on the growing eigenspace of the "
            f"target, which has dimension {n_up}: its block of XXᵀ has no inverse. Give x0 at "
            f"least {n_up} columns in general position, or use theory.exact_linear.symmetric."
        )
    # C − BᵀA⁻¹B is the Gram matrix of what the rows of `rest` have outside those of `up`
    rows = svd(up)[2][n_up:]
    outside = rest @ rows.T
    return symmetric(outside, np.diag(np.minimum(rates[n_up:], 0.0)), t)


def _symmetric_data(x0, target) -> tuple[np.ndarray, np.ndarray]:
    x, m = real_array(x0, "x0"), real_array(target, "target")
    if x.ndim != 2 or m.shape != (x.shape[0], x.shape[0]) or x.size == 0:
        raise ValueError(f"x0 has shape {x.shape} and target {m.shape}: give (n, r) and (n, n).")
    skew = float(np.linalg.norm(m - m.T))
    if skew > 1e-13 * np.linalg.norm(m):
        raise ValueError(
            f"target is not symmetric: ‖M − Mᵀ‖ = {skew:.3g}. The gradient of ¼‖XXᵀ − M‖² only "
            "sees (M + Mᵀ)/2; pass that if it is meant."
        )
    return x, 0.5 * (m + m.T)
