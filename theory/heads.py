r"""Heads: what their sum does not say of them, and what gradient flow decides (2604.23681).

    Y = Σ_h C_h W_O^h,   C_h (n, d_k) the content of head h, W_O^h (d_k, d) its rows of W_O.

Given Y and W_O the contents are known up to `ambiguity` dimensions. A learned W_O adds
C_h → C_hR, W_O^h → R⁻¹W_O^h, d_k² dimensions a head, at any rank.

Gradient flow decides where the sum does not. Heads that feel one force (value–output matrices
under uniform attention, sums of adapters), W = Σ_h A_hB_hᵀ, are one factor pair of H·r columns:
the whole of [A_1 … A_H]ᵀ[A_1 … A_H] − [B_1 … B_H]ᵀ[B_1 … B_H] is conserved, with decay λ it falls
as e^{−2λt}, and the split between the heads is frozen by the start (`shares`). Its blocks between
two heads drift as soon as these feel different forces: that is when heads become distinguishable.

The formulas are this project's; of the paper the abstract alone could be read.
"""

import numpy as np
from jaxtyping import Float

from gflow.internal import count, svd

from ._arguments import Numbers, real_array

__all__ = ["ambiguity", "shares"]


def __dir__() -> list[str]:
    return __all__


#: Singular values closer than this, of the largest, are a tie.
_TIE = 1e-12


def ambiguity(tokens: int, head_width: int, output: Numbers) -> int:
    r"""How many dimensions of the heads' contents a known sum Y and a known W_O leave open.

        n (H d_k − rank W_O)

    0 for an invertible W_O (d = H d_k, the usual choice): every head can be recovered. The paper's
    n(H − 1)d_k needs rank W_O = d_k: all heads write into one space of d_k dimensions, or only
    the sum Σ C_h is seen.

    **Arguments:** `tokens` n; `head_width` d_k; `output` W_O (H d_k, d), the heads below one
    another. **Raises:** ValueError for sizes that are no counts, for a W_O that is no matrix or
    whose rows are no multiple of d_k.
    **Regime:** exact; the rank is that of the matrix in float64. **Source:** derived, for
    2604.23681.

    ```python
    ambiguity(5, 2, np.eye(6))                     # 0: three heads of width 2
    ambiguity(5, 2, np.eye(6)[:, :4])              # 10
    ambiguity(5, 2, np.tile(np.eye(2), (3, 1)))    # 20 = n(H − 1)d_k
    ```
    """
    n = count("tokens", tokens, "how many tokens Y has")
    width = count("head_width", head_width, "how many columns the content of a head has")
    matrix = real_array(output, "output")
    if matrix.ndim != 2 or not matrix.size or len(matrix) % width:
        raise ValueError(
            f"output has shape {matrix.shape}: W_O is a matrix (H·{width}, d), the rows of the "
            "heads below one another."
        )
    return n * (len(matrix) - int(np.linalg.matrix_rank(matrix)))


def shares(left: Numbers, right: Numbers, gradient: Numbers) -> Float[np.ndarray, " heads"]:
    r"""The part of the first mode that each head gets, from a small start of heads that feel alike.

    With u, v the first singular pair of −∇L(0) and A = αA₀, B = αB₀,

        z = (A₀ᵀu + B₀ᵀv)/√2 ∈ R^{Hr},   share_h = ‖z_h‖²/‖z‖²,   uᵀW_hv → share_h · uᵀWv

    while W = Σ W_h has the one mode σuvᵀ; later modes are shared likewise, by minors
    (`theory.gradual_rank`). Decay leaves the shares of an aligned mode as they are. Beside the
    mode every head keeps O(α), which cancels in the sum.

    **Arguments:** `left` (H, m, r) and `right` (H, n, r), the factors of every head at any scale;
    `gradient` ∇L(0) (m, n) with respect to W, the same for all heads.
    **Returns:** shares, with sum 1.

    **Raises:** ValueError for shapes that do not fit, a gradient of zero or with a tie at the top,
    and a start without any part along it.
    **Regime:** α → 0: what is left out is O(α² ln 1/α); heads that share the force until the mode
    is learned. **Source:** derived, for 2604.23681.

    ```python
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(3, 4, 2)), rng.normal(size=(3, 5, 2))     # 3 heads of rank 2
    shares(left, right, -np.outer(np.ones(4), np.ones(5)))
    ```
    """
    given = ((left, "left"), (right, "right"), (gradient, "gradient"))
    a, b, slope = (real_array(x, name) for x, name in given)
    fits = a.ndim == b.ndim == 3 and a.shape[::2] == b.shape[::2]
    if not fits or not a.size or slope.shape != (a.shape[1], b.shape[1]):
        raise ValueError(
            f"left has shape {a.shape}, right {b.shape} and gradient {slope.shape}: they are "
            "(heads, m, r), (heads, n, r) and (m, n)."
        )
    u, values, vt = svd(-slope)
    if not values[0] > 0.0:
        raise ValueError("gradient is zero: at such a start no direction is the first to grow.")
    if len(values) > 1 and not values[0] > values[1] * (1.0 + _TIE):
        raise ValueError(
            f"The two largest singular values of the gradient are equal ({values[0]:.6g}): which "
            "mode comes first depends on the start."
        )
    parts = np.einsum("hmr,m->hr", a, u[:, 0]) + np.einsum("hnr,n->hr", b, vt[0])
    size = np.max(np.abs(parts))  # squares of tiny factors would vanish
    if not size > 0.0:
        raise ValueError("left and right have no part along the gradient: nothing grows there.")
    squares = np.sum((parts / size) ** 2, axis=-1)
    return squares / np.sum(squares)
