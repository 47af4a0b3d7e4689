"""What the flow of attention heads leaves constant, whatever the covariance."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from .._arguments import Numbers, real_array
from ._clocks import checked_heads


class Conserved(NamedTuple):
    """v² − ‖K‖² of every head, and KᵀK − QᵀQ between its R columns."""

    value: Float[np.ndarray, " H"]
    keys: Float[np.ndarray, "H R R"]


def conserved(v: Numbers, k: Numbers, q: Numbers) -> Conserved:
    r"""v_i² − ‖K_i‖² and K_iᵀK_i − Q_iᵀQ_i of separate heads; with decay γ they shrink as e^{−2γt}.

    For every loss of ŷ = Σ v_i βᵀK_iQ_iᵀx_q, in any basis.

    **Arguments:** `v`: (H,); `k`, `q`: (H, D) or (H, D, R). (The weights of a
    `gflow.models.SeparateHeads` are (H, R, D): `np.swapaxes(key, 1, 2)`.)
    **Raises:** ValueError for other shapes, R > D, float32.
    **Source:** 2501.16265, sections 4 and 5.

    ```python
    conserved(v, k, q).value                    # (H,)
    ```
    """
    shape = np.shape(np.asarray(k))
    heads = checked_heads(v, k, q, shape[1] if len(shape) > 1 else 0)
    grams = [np.einsum("hdr,hds->hrs", x, x) for x in (heads.k, heads.q)]
    return Conserved(heads.v**2 - np.trace(grams[0], axis1=1, axis2=2), grams[0] - grams[1])


def conserved_merged(value: Numbers, key_query: Numbers) -> Float[np.ndarray, "H H"]:
    r"""v_i v_j − ⟨U_i, U_j⟩ of merged heads; with decay γ it shrinks as e^{−2γt}.

    For every loss of ŷ = Σ v_i βᵀU_i x_q. One head: u² − ‖U‖² of 2306.09927.

    **Arguments:** `value`: (H,); `key_query`: (H, D, D). **Raises:** ValueError for other shapes.

    ```python
    conserved_merged(v, u)                      # (H, H)
    ```
    """
    v, u = real_array(value, "value"), real_array(key_query, "key_query")
    if v.ndim != 1 or u.ndim != 3 or len(u) != v.size or u.shape[1] != u.shape[2]:
        raise ValueError(
            f"value has shape {v.shape} and key_query {u.shape}: they must be (H,) and (H, D, D)."
        )
    flat = u.reshape(v.size, -1)
    return np.outer(v, v) - flat @ flat.T
