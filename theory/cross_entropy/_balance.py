r"""Balancing of gradients: exact identities of attention before an MLP with fixed signs.

The model of 2410.09605, tokens as columns of X (d, L), trained W_V, W_K, W_Q (m, d) and W (m₁, m),
a_j = ±1 fixed:

    F(X) = Σ_l Σ_j a_j w_jᵀ W_V X softmax(XᵀW_KᵀW_Q x_l/√m),   L = (1/n) Σ_i log(1 + e^{−y_iF_i}).

F is linear in u = Σ_j a_j w_j, and each w_j feels a_j times one force.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import expit

from .._arguments import Numbers, real_array


class Conserved(NamedTuple):
    """W_K W_Kᵀ − W_Q W_Qᵀ and WᵀW − W_V W_Vᵀ, both (..., m, m)."""

    keys: Float[np.ndarray, "*t m m"]
    values: Float[np.ndarray, "*t m m"]


def balance_identity(
    outputs: Numbers, labels: Numbers, units: int, *, norm2: Numbers = 0.0, decay: float = 0.0
) -> Float[np.ndarray, "*t"]:
    r"""d/dt ‖Σ_j a_j w_j‖² from outputs and labels alone.

        d/dt ‖Σ_j a_j w_j‖² = (2m₁/n) Σ_i g_i y_i F_i − 2λ‖Σ_j a_j w_j‖²,   g_i = 1/(1 + e^{y_iF_i})

    **Arguments:** `outputs` F: (..., n), leading axes of times, say; `labels` y: (n,) of ±1;
    `units` m₁; with decay λ of W also `norm2`: ‖Σ a_j w_j‖² (`readout_norm2`), (...).
    **Returns:** the rate, (...), in flow time of the mean loss.

    **Raises:** ValueError for shapes, labels other than ±1, m₁ < 1, λ < 0, float32.

    **Regime:** exact, at any time of any run, however W_V, W_K, W_Q move, for every F that is
    linear in Σ a_j w_j. **Source:** 2410.09605, eq. 5; the term of decay is of this package.

    ```python
    balance_identity(run_outputs, labels, 256)      # the slope of readout_norm2(a, W)
    ```
    """
    f, y = real_array(outputs, "outputs"), real_array(labels, "labels")
    m1, rate = real_array(units, "units"), float(real_array(decay, "decay"))
    if f.ndim < 1 or y.ndim != 1 or f.shape[-1] != y.size or not y.size:
        raise ValueError(f"outputs have shape {f.shape}, labels {y.shape}: give (..., n) and (n,).")
    if not np.all(np.abs(y) == 1):
        raise ValueError(f"labels contain {y[np.abs(y) != 1][0]:g}: they are +1 or −1.")
    if m1.ndim or m1 < 1 or rate < 0.0:
        raise ValueError(f"units = {units}, decay = {decay}: give m₁ ≥ 1 and λ ≥ 0.")
    gained = np.mean(expit(-y * f) * y * f, axis=-1)
    return np.asarray(2.0 * m1 * gained - 2.0 * rate * real_array(norm2, "norm2"))


def readout_norm2(signs: Numbers, W: Numbers) -> Float[np.ndarray, "*t"]:
    r"""‖Σ_j a_j w_j‖², the left side of `balance_identity`.

    **Arguments:** `signs` a: (m₁,) of ±1, `W`: (..., m₁, m), units as rows. **Raises:** ValueError
    for others.

    ```python
    readout_norm2([1, -1], [[1.0, 0.0], [0.0, 2.0]])        # 5
    ```
    """
    a, w = real_array(signs, "signs"), real_array(W, "W")
    if a.ndim != 1 or w.ndim < 2 or w.shape[-2] != a.size or not np.all(np.abs(a) == 1):
        raise ValueError(
            f"signs have shape {a.shape} and W {w.shape}: give ±1 (m₁,) and (..., m₁, m)."
        )
    return np.asarray(np.sum((a @ w) ** 2, axis=-1))


def conserved(W_K: Numbers, W_Q: Numbers, W_V: Numbers, W: Numbers) -> Conserved:
    r"""W_K W_Kᵀ − W_Q W_Qᵀ and WᵀW − W_V W_Vᵀ: constant; with decay λ of all they go as e^{−2λt}.

    For every loss of a model that depends on W_KᵀW_Q and on W W_V alone.

    **Arguments:** `W_K`, `W_Q`, `W_V`: (..., m, d), `W`: (..., m₁, m). **Raises:** ValueError for
    shapes, float32. **Source:** the balance of products, for the model of 2410.09605.

    ```python
    conserved(W_K, W_Q, W_V, W).keys                # (m, m)
    ```
    """
    k, q, v, w = (real_array(x, n) for x, n in ((W_K, "W_K"), (W_Q, "W_Q"), (W_V, "W_V"), (W, "W")))
    if min(x.ndim for x in (k, q, v, w)) < 2 or k.shape != q.shape or (
        v.shape[-2] != w.shape[-1] or v.shape[:-2] != w.shape[:-2]
    ):  # fmt: skip
        raise ValueError(
            f"W_K, W_Q, W_V and W have shapes {k.shape}, {q.shape}, {v.shape} and {w.shape}: give "
            "three of (..., m, d) and (..., m₁, m)."
        )
    return Conserved(k @ k.mT - q @ q.mT, w.mT @ w - v @ v.mT)
