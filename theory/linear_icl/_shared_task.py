r"""Linear self-attention where prompts share a task: what grows first, and the loss at the end."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from gflow.internal import Objective, svd
from gflow.objectives import SharedTaskRegression

#: Curvatures below this share of the largest are of directions that no prompt sees.
_UNSEEN = 1e-12


class SharedTask(NamedTuple):
    """Modes that grow from zero, fastest first, and a minimiser T with E(y − ŷ)² there."""

    rates: Float[np.ndarray, " D1"]
    value: Float[np.ndarray, "D1 D1"]
    key_query: Float[np.ndarray, "D1 D1 D"]
    tensor: Float[np.ndarray, "D1 D1 D"]
    loss: float


def shared_task(objective: Objective) -> SharedTask:
    r"""(rates, value, key_query, tensor, loss) of self-attention on prompts that share a task.

    With v_h the last row of W^PV_h, U_h all but the last column of W^KQ_h, T = Σ v_h ⊗ U_h and
    E(y − ŷ)² = E y² − 2⟨F, T⟩ + ⟨T, G T⟩,

        v_h' = (F − GT)·U_h,   U_h' = v_h·(F − GT)

    - From a small start modes grow as e^{σ_k t}, with F = Σ σ_k u_k ⊗ r_k as a matrix from (b, c)
      to a: v_h = g_hk u_k e^{σ_k t}, U_h = g_hk r_k e^{σ_k t}, g_hk = ½(⟨u_k, v_h⟩ + ⟨r_k, U_h⟩).
      The escape takes ln(1/ε)/σ₁. Of prompts with tasks of their own (share 0) F = Λ² in the block
      [y, x, x]: in-context learning alone; a shared task adds the others.
    - D + 1 heads reach any T, and the loss is a quadratic form in it: at the end it is its minimum.

    **Arguments:** `objective`: a `gflow.objectives.SharedTaskRegression`, of any share, noise and
    reduction. Times and loss are the papers': those of "half_mean", and of E(y − ŷ)².

    **Returns:** a named tuple: rates σ_k; value u_k and key_query r_k, one a row; tensor, the
    minimiser of smallest norm, and loss.

    **Raises:** ValueError for another objective.
    **Regime:** rates: weights much smaller than at the end; loss: D + 1 heads or more.
    **Source:** 2501.16265 trains these prompts; rates and minimum are of this package.

    ```python
    shared_task(gflow.objectives.SharedTaskRegression([0.5, 0.5], 31, [1.0, 1.0], 0.4)).rates[0]
    ```
    """
    if not isinstance(objective, SharedTaskRegression):
        raise ValueError(
            f"objective is a {type(objective).__name__}: give a "
            "gflow.objectives.SharedTaskRegression."
        )
    force, second = np.asarray(objective.force), np.asarray(objective.second)
    n, _, d = force.shape
    left, rates, right = svd(force.reshape(n, n * d), full_matrices=False)
    values, vectors = np.linalg.eigh(second)
    seen = values > _UNSEEN * values[-1]
    along = (vectors.T @ force.ravel())[seen]
    tensor = vectors[:, seen] @ (along / values[seen])
    loss = float(objective.top) - float(np.sum(along**2 / values[seen]))
    return SharedTask(rates, left.T, right.reshape(n, n, d), tensor.reshape(n, n, d), loss)
