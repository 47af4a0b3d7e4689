r"""Laws ½θᵀAθ + c·θ, found by linear algebra: θ ↦ Aθ + c is then orthogonal to every force.

For symmetric A this is Noether's theorem of a gradient flow: if θ ↦ e^{εA}θ leaves the outputs of
the model as they are, ½θᵀAθ is conserved, and the condition is linear in the entries of A.
"""

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import get_lapack_funcs, solve_triangular

#: What a monomial may still have of its square, of unit length, and count as bound by the others.
_NULL = 1e-11

#: Largest residual of a law at points that it was not found at.
RESIDUAL = 1e-9

#: More equations than monomials, as a part of these.
_SPARE = 1.05


def monomials(leaf_of: np.ndarray, across: bool) -> Int[np.ndarray, "monomials 2"]:
    """Pairs (i, j) of θ_iθ_j, i ≤ j, and (i, −1) of θ_i; without `across` within a leaf alone."""
    i, j = np.triu_indices(len(leaf_of))
    kept = np.full(len(i), True) if across else leaf_of[i] == leaf_of[j]
    linear = np.stack([np.arange(len(leaf_of)), np.full(len(leaf_of), -1)], axis=1)
    return np.concatenate([np.stack([i[kept], j[kept]], axis=1), linear])


def equations(count: int, size: int, rank: int) -> tuple[int, int]:
    """How many points, and forces at each of them, are enough for so many monomials.

    Points span all weights, or A would not be seen off their span.
    """
    points = max(size + 2, int(np.ceil(_SPARE * count / rank)))
    return points, min(rank, int(np.ceil(_SPARE * count / points)) + 1)


def slopes(terms: np.ndarray, points: np.ndarray, along: np.ndarray) -> np.ndarray:
    """Derivative of every monomial along `along` (points, k, size): (points, k, monomials)."""
    i, j = terms.T
    linear = j < 0
    at = np.where(linear, 1.0, points[:, j])[:, None, :]
    other = np.where(linear, 0.0, points[:, i])[:, None, :]
    return along[:, :, i] * at + along[:, :, j] * other


def null_space(matrix: Float[np.ndarray, "equations n"]) -> Float[np.ndarray, "laws n"]:
    """Combinations of columns that vanish, in echelon form: few terms each, the largest 1.

    Pivoted Cholesky decomposition of the Gram matrix picks the columns that bind the others;
    least squares, refined with the matrix itself, says how.
    """
    lengths = np.linalg.norm(matrix, axis=0)
    lengths[lengths == 0.0] = 1.0
    unit = matrix / lengths
    gram = unit.T @ unit
    factor, pivots, rank, _ = get_lapack_funcs("pstrf", (gram,))(gram, tol=_NULL, lower=0)
    pivots = pivots - 1
    bound, free = pivots[:rank], pivots[rank:]
    upper = np.triu(factor[:rank, :rank])

    def normal(x: np.ndarray) -> np.ndarray:
        return solve_triangular(upper, solve_triangular(upper, x, trans=1))

    found = np.zeros((len(free), len(pivots)))
    found[np.arange(len(free)), free] = 1.0
    for _ in range(3):
        found[:, bound] -= normal(unit[:, bound].T @ (unit @ found.T)).T
    return _tidy(found / lengths)


def _tidy(rows: np.ndarray) -> np.ndarray:
    """Largest entries 1, the first positive, what is within rounding of an integer made one."""
    if not len(rows):
        return rows
    rows = rows / np.max(np.abs(rows), axis=1, keepdims=True)
    near = np.round(rows)
    rows = np.where(np.abs(rows - near) < RESIDUAL, near, rows)
    first = np.take_along_axis(rows, np.argmax(rows != 0.0, axis=1)[:, None], axis=1)
    return rows * np.sign(first)
