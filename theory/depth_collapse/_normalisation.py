r"""What normalisation does to the rank of tokens, layer after layer.

Batch normalisation keeps it (Daneshmand et al., 2003.01652 and 2021). That LayerNorm does so too
is false with the usual definitions: what it keeps is the rank of the tokens less the mean of their
own entries, `layer_norm_rank`.
"""

import numpy as np
from jaxtyping import Float

from .._arguments import Numbers, at_least, counts, real_array, token_rows


def orthogonality_gap(H: Numbers) -> Float[np.ndarray, "..."]:
    r"""V(H) = ‖HᵀH/‖H‖² − I/n‖_F of samples in columns, H (…, d, n); 0 if they are orthonormal.

    √(1 − 1/n) if they are equal. **Raises:** ValueError for less than two axes, H = 0.
    **Source:** Daneshmand, Joudaki, Bach 2021.

    ```python
    orthogonality_gap(np.eye(4)[:, :3])            # 0
    ```
    """
    h = real_array(H, "H")
    if h.ndim < 2 or h.shape[-1] == 0:
        raise ValueError(f"H has shape {h.shape}: samples are columns, give (width, samples).")
    size = np.sum(h**2, axis=(-2, -1), keepdims=True)
    if np.any(size == 0.0):
        raise ValueError("H is zero: no angle between samples is defined.")
    gram = h.swapaxes(-1, -2) @ h / size
    n = h.shape[-1]
    return np.asarray(np.linalg.norm(gram - np.eye(n) / n, axis=(-2, -1)))


def orthogonality_bound(
    layers: Numbers, samples: Numbers, width: Numbers, alpha: Numbers
) -> Float[np.ndarray, "..."]:
    r"""2(1 − 2α/3)^l + 3n/(α√d): bound on E V(H_{l+1}) of a deep linear network with BN.

    H_{l+1} = d^{−1/2} BN(W_lH_l), W_l ~ N(0, 1/d), BN(M) = diag(MMᵀ)^{−1/2}M, if the smallest
    singular value of H_k is at least α for k = 1…l. The decay with depth and a floor ~ n/√d are
    seen in networks; the constants are loose (0.07 against 3.3 at n = 5, d = 400).

    **Raises:** ValueError for n > d and α outside (0, 1/√n], which ‖H‖_F = 1 allows.
    **Source:** Daneshmand, Joudaki, Bach 2021, theorem 1.

    ```python
    orthogonality_bound([1, 10, 100], 5, 400, 0.3)
    ```
    """
    depth = counts("layers", layers, 0, "how many layers there are")
    n = counts("samples", samples, 1, "how many samples there are")
    d = counts("width", width, 1, "the width of the network")
    least = at_least("alpha", alpha, 0.0, "the smallest singular value")
    if np.any(n > d):
        raise ValueError(f"samples = {samples}, width = {width}: the bound needs n ≤ d.")
    if np.any(least <= 0.0) or np.any(least > (1.0 + 1e-12) / np.sqrt(n)):
        raise ValueError(
            f"alpha = {alpha}: a smallest singular value above 0 and at most 1/√n, which it is "
            "for orthogonal samples with ‖H‖ = 1."
        )
    return np.asarray(2.0 * (1.0 - 2.0 * least / 3.0) ** depth + 3.0 * n / (least * np.sqrt(d)))


def layer_norm_rank(X: Numbers, tolerance: float = 1e-10) -> int:
    r"""rank LN(X) = rank(XP), P = I − 11ᵀ/d: gains that are not zero, no bias.

    LN(X) = diag(1/s_i) X P diag(gain). The rank of X itself may be one more (tokens 1 + e₁ and e₁,
    e₁ = (1, −1, 0, 0): 2, and 1 after), and the affine rank, of X less its mean token, may rise
    (e₁ + t(0, 0, 1, −1), t = 0, 1, 3: 1, and 2 after).

    **Raises:** ValueError for a token without variance, which LN divides by.
    **Source:** derived; a caution on 2604.23681, of which the abstract was read.

    ```python
    layer_norm_rank([[2, 0, 1, 1], [1, -1, 0, 0]])  # 1
    ```
    """
    x = token_rows("X", X)
    centred = x - np.mean(x, axis=1, keepdims=True)
    sizes = np.linalg.norm(centred, axis=1)
    if np.any(sizes <= 1e-14 * np.linalg.norm(x, axis=1)):
        raise ValueError(
            f"Token {int(np.argmin(sizes))} of X has no variance: LayerNorm divides by it."
        )
    values = np.linalg.svdvals(centred / sizes[:, None])
    return int(np.sum(values > tolerance * values[0]))
