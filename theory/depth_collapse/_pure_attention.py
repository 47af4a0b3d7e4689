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


def log_cubic_factor(WQK: Numbers, WV: Numbers, scale: Numbers) -> float:
    r"""ln of K = 4·scale·Σ_h ‖W_QK,h‖₂‖W_V,h‖₂: ‖res(out)‖ ≤ K‖res(X)‖³ for a layer of attention.

    Of Frobenius norms of X less its mean token. Where the logits r_i W_QK r_jᵀ·scale of a query
    have a range δ_i over the keys, |A_ij − p_j| ≤ p_j(e^{δ_i} − 1), p the attention of equal
    queries, and e^δ − 1 ≤ 2δ up to δ = 1.256. With δ_i ≤ 2·scale·‖W_QK‖₂‖r_i‖ max‖r_j‖ the rows
    (A − 1pᵀ)R have the norm of K‖r_i‖ max‖r_j‖², and to take their mean away adds nothing.

    **Arguments:** `WQK` (d, d) and `WV` (d, width), or with a leading axis of heads, whose outputs
    are summed; `scale` > 0. **Raises:** ValueError for shapes that do not fit, scale ≤ 0.
    **Regime:** no range of logits within a row of R W_QK Rᵀ·scale above 1.256; `log_residual_bound`
    of the paper has other norms. **Source:** derived; the form is that of 2103.03404.

    ```python
    log_cubic_factor(np.eye(4), np.eye(4), 0.5)    # ln 2
    ```
    """
    qk, values = real_array(WQK, "WQK"), real_array(WV, "WV")
    factor = real_array(scale, "scale")
    if qk.ndim not in (2, 3) or qk.shape[-1] != qk.shape[-2] or qk.shape[:-1] != values.shape[:-1]:
        raise ValueError(
            f"WQK has shape {qk.shape} and WV {values.shape}: give (d, d) and (d, width), both "
            "with the same heads in front or none."
        )
    if factor.ndim or not factor > 0.0:
        raise ValueError(f"scale = {scale}: one positive number, 1/√k of keys of width k.")
    sizes = (np.linalg.norm(x, 2, axis=(-2, -1)) for x in (qk, values))
    return float(np.log(4.0 * factor * np.sum(np.prod([*sizes], axis=0))))


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
