r"""Whether labels are those of a linear map: rows z with one w such that z·w > 0 for all.

Two classes ±1: z_i = y_i x_i. K classes: z_ik = (e_{y_i} − e_k) ⊗ x_i for every k ≠ y_i, with the
K rows of W in one vector.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linprog

from .._arguments import Numbers, real_array


class Constraints(NamedTuple):
    """z·w > 0: `rows`, the example of each and the class it is told from, the shape of w."""

    rows: Float[np.ndarray, "rows size"]
    example: Int[np.ndarray, " rows"]
    other: Int[np.ndarray, " rows"]
    shape: tuple[int, ...]


def separable(inputs: Numbers, labels: Numbers) -> bool:
    r"""Whether some W has every label's logit above all others: then the cross-entropy can vanish.

    By a linear programme, z·w ≥ 1 for z_i = y_i x_i, or (e_{y_i} − e_k) ⊗ x_i of K classes. A w
    that it gives is checked: all margins are positive, beyond rounding.

    **Arguments:** `inputs`: (n, d); there is no bias (append a column of ones for one). `labels`:
    (n,), ±1 or {0, 1} for two classes, integers 0 … K − 1, each with an example, for more.

    **Raises:** ValueError for shapes, other labels, float32, data that are not finite.
    **Regime:** strict separability; margins that are a 1e-9th of |x| or less count as none.

    ```python
    separable([[1.0, 0.0], [0.0, 1.0]], [1, -1])                # True
    ```
    """
    return feasible(constraints(inputs, labels).rows)


def feasible(rows: np.ndarray) -> bool:
    """Whether some w has z·w > 0 for all rows z."""
    size = np.max(np.abs(rows), axis=1)
    if not np.all(size > 0):
        return False
    unit = rows / size[:, None]
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    n, d = unit.shape
    found = linprog(np.zeros(d), A_ub=-unit, b_ub=-np.ones(n), bounds=(None, None))
    if found.x is None:
        return False
    w = found.x
    return bool(np.min(unit @ w) > 1e-9 * float(np.linalg.norm(w)))


def constraints(inputs: Numbers, labels: Numbers) -> Constraints:
    """**Raises:** ValueError for shapes, and labels of no kind that `separable` names."""
    x, y = _data(inputs, labels)
    n, d = x.shape
    values = np.unique(y)
    if np.all(np.isin(values, (-1, 1))) or np.all(np.isin(values, (0, 1))):
        index = np.arange(n)
        return Constraints(np.where(y > 0, 1.0, -1.0)[:, None] * x, index, 0 * index, (d,))
    k = int(values[-1]) + 1
    if values[0] < 0 or values.size < k:
        missing = sorted(set(range(k)) - set(values.tolist()))
        what = f"{values[0]}" if values[0] < 0 else f"none of class {missing[0]}"
        raise ValueError(
            f"labels have {what}, and go up to {values[-1]}: two classes are ±1 or 0 and 1, more "
            f"are 0, 1, …, K − 1, each with an example or more."
        )
    example, other = np.nonzero(np.arange(k) != y[:, None])
    rows = (np.eye(k)[y[example]] - np.eye(k)[other])[:, :, None] * x[example][:, None, :]
    return Constraints(rows.reshape(len(example), k * d), example, other, (k, d))


def _data(inputs: Numbers, labels: Numbers) -> tuple[np.ndarray, np.ndarray]:
    x, y = real_array(inputs, "inputs"), real_array(labels, "labels")
    if x.ndim != 2 or y.shape != x.shape[:1] or not x.size:
        raise ValueError(
            f"inputs have shape {x.shape} and labels {y.shape}: they must be (n, d) and (n,)."
        )
    if np.any(y != np.round(y)):
        raise ValueError(f"labels contain {y[y != np.round(y)][0]:g}: they are integers.")
    return x, y.astype(int)
