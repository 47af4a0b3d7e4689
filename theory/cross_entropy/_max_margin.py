r"""The hard-margin separator: where cross-entropy sends the direction of a linear map."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import nnls

from gflow.internal import least_squares

from .._arguments import Numbers
from ._separation import Constraints, constraints, feasible

#: Margins, of 1, to which the conditions of the optimum must hold.
_TOLERANCE = 1e-9


class MaxMargin(NamedTuple):
    """The separator of `max_margin`.

    `weights`: (d,) for two classes, (K, d) for more; smallest norm with all margins ≥ 1.
    `margin`: 1/‖weights‖ (Frobenius), the largest margin of a map of norm 1.
    `support`: examples with a margin of 1. `multipliers`: α ≥ 0 of the constraints, (n,), or
    (n, K) with 0 at the label: weights = Σ α y x, or Σ_ik α_ik (e_{y_i} − e_k)x_iᵀ.
    """

    weights: Float[np.ndarray, "*K d"]
    margin: float
    support: Int[np.ndarray, " s"]
    multipliers: Float[np.ndarray, "..."]


def max_margin(inputs: Numbers, labels: Numbers) -> MaxMargin:
    r"""Smallest W with margin 1: the direction in which cross-entropy ends on separable data.

        min ½‖w‖²   with y_i w·x_i ≥ 1                            (labels ±1, or 0 and 1)
        min ½‖W‖²   with (w_{y_i} − w_k)·x_i ≥ 1 for all k ≠ y_i    (labels 0 … K − 1)

    The second is the hard margin of Crammer and Singer 2001. w/‖w‖² is the point of the hull of
    the constraints that is nearest to 0, by non-negative least squares (SciPy's), and the
    conditions of the optimum are checked.

    **Arguments:** `inputs`: (n, d); there is no bias. `labels`: (n,) integers as written.
    **Returns:** weights, margin, support and multipliers (see `MaxMargin`).

    **Raises:** ValueError for data that are not separable (a linear programme decides), labels out
    of range, shapes, float32, and margins too small to be found to 1e-9.

    **Regime:** gradient flow of a linear map ends in this direction, as 1/log t (`late_separator`);
    normalised gradient descent too. **Source:** Soudry et al. 2018 (1710.10345); the stages of
    2409.17335 have one for W_OV and one for W_KQ.

    ```python
    max_margin([[2.0, 0.0], [0.0, 1.0]], [1, -1])       # weights (0.5, −1), margin 0.894…
    ```
    """
    return solved(constraints(inputs, labels))


def solved(problem: Constraints) -> MaxMargin:
    """`max_margin` of constraints."""
    if not feasible(problem.rows):
        raise ValueError(
            "The data are not linearly separable: no W (without bias) gives every example a "
            "positive margin, and the cross-entropy has a finite minimiser or an infimum above 0. "
            "Take more features than examples, a column of ones for a bias, or other labels."
        )
    size = float(np.max(np.linalg.norm(problem.rows, axis=1)))
    rows = problem.rows / size
    # the point of the hull nearest to 0 is where p is the minimiser of |Σ p z|² + (Σp − 1)²
    p, _ = nnls(np.vstack([rows.T, np.ones(len(rows))]), np.append(np.zeros(rows.shape[1]), 1.0))
    used = np.flatnonzero(p > 0)
    # the same point from the rows that make it, whose margins are all 1
    w = least_squares(rows[used], np.ones(used.size))
    alpha = np.zeros(len(rows))
    alpha[used], off = nnls(rows[used].T, w)
    margins = rows @ w
    scale = float(np.linalg.norm(w))
    short = max(1.0 - float(np.min(margins)), off / scale, float(np.max(np.abs(margins[used] - 1))))
    if short > _TOLERANCE:
        raise ValueError(
            f"The separator is known to {short:.1g} of its margin only, which is "
            f"{1.0 / scale:.3g} of the largest input: such data are separable by rounding alone."
        )
    attained = np.unique(problem.example[margins <= 1.0 + _TOLERANCE])
    weights = (w / size).reshape(problem.shape)
    return MaxMargin(weights, size / scale, attained, _by_class(problem, alpha) / size**2)


def _by_class(problem: Constraints, alpha: np.ndarray) -> np.ndarray:
    """(n,) for two classes, (n, K) for more."""
    if len(problem.shape) == 1:
        return alpha
    found = np.zeros((int(problem.example[-1]) + 1, problem.shape[0]))
    found[problem.example, problem.other] = alpha
    return found
