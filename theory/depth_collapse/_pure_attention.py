r"""Attention without residuals: each layer cubes what tells the tokens apart (Dong et al. 2021)."""

import math

import numpy as np
from jaxtyping import Float

from .._arguments import Numbers, at_least, counts, real_array, token_rows


def cubic_residual(
    X: Numbers, WQK: Numbers, WV: Numbers, scale: Numbers
) -> Float[np.ndarray, "tokens width"]:
    r"""(scale/n) R W_QK RᵀR W_V: the residual of a layer of softmax(scale·XW_QKXᵀ)XW_V.

    R = X − 1x̄. Row constants of the logits drop out of the softmax, and what is common to all
    rows does not tell them apart: what does is R W_QK Rᵀ, on which attention acts once more with
    R. The slope of ln‖res‖ from layer to layer is 3, and this is its constant.

    **Arguments:** tokens `X` (n, d), `WQK` (d, d), `WV` (d, width).
    **Raises:** ValueError for shapes that do not fit.
    **Regime:** ‖R‖ → 0; the next order is relative ‖R‖. **Source:** derived; the slope is that of
    2103.03404.

    ```python
    cubic_residual(X, np.eye(4), np.eye(4), 0.5)
    ```
    """
    x = token_rows("X", X)
    qk, values = real_array(WQK, "WQK"), real_array(WV, "WV")
    d = x.shape[1]
    if qk.shape != (d, d) or values.ndim != 2 or values.shape[0] != d:
        raise ValueError(
            f"WQK has shape {qk.shape} and WV {values.shape}: for tokens of width {d} they are "
            f"({d}, {d}) and ({d}, width)."
        )
    r = x - np.mean(x, axis=0)
    return np.asarray(real_array(scale, "scale") / len(x) * (r @ qk) @ (r.T @ (r @ values)))


def log_residual_bound(
    layers: Numbers, beta: float | int, heads: int, d_qk: int, residual: float | int
) -> Float[np.ndarray, "..."]:
    r"""ln of the bound (4βH/√d_qk)^{(3^L − 1)/2} ‖res(X)‖^{3^L} on the residual after L layers.

    Norms are ‖·‖_{1,∞} = √(‖·‖₁‖·‖_∞), which is none; ‖W_QK‖₁‖W_V‖_{1,∞} ≤ β in every head. It
    goes to −∞ where 4βH/√d_qk · residual² < 1 and says nothing elsewhere; it is loose by orders of
    magnitude, `cubic_residual` is not.

    **Raises:** ValueError for arguments that are not positive.
    **Source:** 2103.03404, theorem 2.2 and corollary 2.3; the constant is quoted from memory, and
    a later version of the paper has one more factor.

    ```python
    log_residual_bound([1, 2, 3], 0.5, 1, 16, 0.3)  # -4.31, -13.61, -41.52
    ```
    """
    depth = counts("layers", layers, 0, "how many layers there are")
    positive = {"beta": beta, "heads": heads, "d_qk": d_qk, "residual": residual}
    for name, x in positive.items():
        if not np.all(at_least(name, x, 0.0, "a positive number") > 0.0):
            raise ValueError(f"{name} = {x}: a positive number is needed.")
    power = 3.0**depth
    factor = math.log(4.0 * beta * heads / math.sqrt(d_qk))
    return np.asarray(0.5 * (power - 1.0) * factor + power * math.log(residual))
