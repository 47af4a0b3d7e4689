r"""Whether the mean tokens x̄_i of a data set can be separated linearly by the labels.

While attention is uniform a one-layer transformer sees only x̄_i = (1/s) Σ_j X_{i,j}. The loss
(1/n) Σ_i ℓ(y_i x̄_i·u) has a finite minimiser u* if, and only if, no direction w has
y_i x̄_i·w ≥ 0 for all i with one of them positive (Albert & Anderson 1984). Without u* the outer
weights grow without end, F of W_Q' = F W_K decays, and there is no plateau before W_Q, W_K move.
"""

import warnings
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.optimize import linprog, nnls

from .._arguments import Numbers, real_array

#: Margins below this share of the longest x̄_i are rounding.
ROUNDING = 1e-9


class Separability(NamedTuple):
    """How far the mean tokens can be separated: see `separability`.

    Separable: `margin` > 0. No plateau: `separated` > 0, which is weaker.
    """

    margin: float
    direction: Float[np.ndarray, " d"]
    separated: int
    examples: int

    @property
    def has_plateau(self) -> bool:
        """Whether a loss of the mean tokens alone has a finite minimiser."""
        return self.separated == 0


def separability(X: Numbers, y: Numbers) -> Separability:
    r"""Margin of the mean tokens, γ = max_{‖w‖=1} min_i y_i x̄_i·w, and the w that attains it.

    γ > 0 is the distance of the hull of the y_i x̄_i from the origin, found by non-negative least
    squares. If the hull contains the origin γ = 0, and a linear programme counts how many y_i x̄_i·w
    can be positive while none is negative, over all w:

        max Σ_i t_i   over w, 0 ≤ t_i ≤ 1, t_i ≤ y_i x̄_i·w .

    **Arguments:** `X`: (n, s, d), tokens as rows, or (n, d), the features themselves; `y`: (n,) of
    ±1. There is no bias: f = x̄·w. **Returns:** `margin` γ in units of X; `direction` w, of unit
    length, zero if there is none; `separated`: the count above, n for separable data and 0 where
    the loss has a finite minimiser; `examples` n.

    **Raises:** ValueError for shapes, float32, labels other than ±1, means that are all zero.
    **Regime:** f linear in x̄_i, or odd and increasing in x̄_i·w; margins below 1e-9 of the
    longest x̄_i count as 0.
    **Source:** condition derived for 2510.06954; Albert & Anderson, Biometrika 71 (1984).

    ```python
    separability(task.inputs, task.labels).has_plateau
    ```
    """
    rows = _signed_means(X, y)
    n, d = rows.shape
    size = float(np.max(np.linalg.norm(rows, axis=1)))
    if size == 0.0:
        raise ValueError("All mean tokens are 0: no direction tells the labels apart.")
    rows = rows / size
    # the point of the hull nearest to 0 is where p is the minimiser of |Σ p z|² + (Σp − 1)²
    weights, _ = nnls(np.vstack([rows.T, np.ones(n)]), np.append(np.zeros(d), 1.0))
    nearest = weights @ rows / np.sum(weights)
    distance = float(np.linalg.norm(nearest))
    if distance > ROUNDING:
        direction = nearest / distance
        return Separability(size * float(np.min(rows @ direction)), direction, n, n)
    w, separated = _weakly_separating(rows)
    return Separability(0.0, w, separated, n)


def check_not_separable(X: Numbers, y: Numbers) -> Separability:
    """`separability`, with a warning where the second stage of condensation has no plateau.

    ```python
    check_not_separable(task.inputs, task.labels)
    ```
    """
    found = separability(X, y)
    if not found.has_plateau:
        how = (
            f"linearly separable with margin {found.margin:.3g}"
            if found.margin > 0
            else f"weakly separable: a direction has {found.separated} of {found.examples} on "
            "the right side and none on the wrong one"
        )
        warnings.warn(
            f"The mean tokens are {how}. The outer weights then grow without end, F decays, and "
            "there is no plateau on which W_Q and W_K collapse to low rank: take more examples "
            "(n well above 2d), or labels that depend on attention "
            "(gflow.tasks.attention_labels).",
            stacklevel=2,
        )
    return found


def _weakly_separating(rows: np.ndarray) -> tuple[np.ndarray, int]:
    """The w that has most rows on its positive side and none on the other."""
    n, d = rows.shape
    found = linprog(
        np.concatenate([np.zeros(d), -np.ones(n)]),
        A_ub=np.hstack([-rows, np.eye(n)]),
        b_ub=np.zeros(n),
        bounds=[(None, None)] * d + [(0.0, 1.0)] * n,
    )
    w = found.x[:d]
    # t_i = 1 or 0 at the optimum, as w may be scaled up
    separated = round(-found.fun)
    if separated == 0:
        return np.zeros(d), 0
    return w / np.linalg.norm(w), separated


def _signed_means(x, y) -> np.ndarray:
    x, y = real_array(x, "X"), real_array(y, "y")
    if not (x.ndim in (2, 3) and x.size and y.shape == x.shape[:1]):
        raise ValueError(
            f"X has shape {x.shape} and y {y.shape}: they must be (n, s, d), tokens as rows, or "
            "(n, d), and (n,)."
        )
    if not np.all(np.abs(y) == 1):
        raise ValueError(f"y contains {y[np.abs(y) != 1][0]:g}: labels are +1 or −1.")
    means = np.mean(x, axis=1) if x.ndim == 3 else x
    return y[:, None] * means
