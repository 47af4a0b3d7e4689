"""Starts of two layers whose softmax has a closed form: equiangular, and of a Hadamard basis."""

import numpy as np
from jaxtyping import Float, PRNGKeyArray
from scipy.linalg import hadamard, helmert

from .._arguments import Numbers, real_array
from ..exact_linear._starts import frame
from ._etf import class_count, sizes
from ._hadamard import hadamard_logits

Pair = tuple[Float[np.ndarray, "h K"], Float[np.ndarray, "K h"]]


def etf_start(classes: int, size: float, hidden: int, *, key: PRNGKeyArray) -> Pair:
    r"""Balanced (W₁, W₂) with W₂W₁ = a (I − 11ᵀ/K), the start of `etf_logit`.

    W₁ = √a O Vᵀ, W₂ = √a V Oᵀ: V (K, K − 1) an orthonormal basis of the vectors of zero sum, O
    (h, K − 1) random orthonormal columns.

    **Arguments:** `classes` K ≥ 2; `size` a ≥ 0; `hidden` h ≥ K − 1. **Raises:** ValueError for
    others.

    ```python
    w1, w2 = etf_start(5, 0.05, 7, key=jax.random.key(0))
    model = gflow.models.DeepLinear((w1, w2))
    objective = gflow.objectives.CrossEntropy(np.eye(5), np.arange(5))
    ```
    """
    k, a = class_count(classes), sizes(size, "size")
    if a.ndim:
        raise ValueError(f"size has shape {a.shape}: one number a ≥ 0.")
    _check_width(hidden, k - 1)
    left = helmert(k).T
    right = frame(key, hidden, k - 1)
    root = np.sqrt(a)
    return root * right @ left.T, root * left @ right.T


def hadamard_start(modes: Numbers, hidden: int, *, key: PRNGKeyArray) -> Pair:
    r"""Balanced (W₁, W₂) with W₂W₁ = H diag(a) H/K, the start of `hadamard_modes`.

    W₁ = R diag(√a) H/√K, W₂ = (H/√K) diag(√a) Rᵀ, R random with orthonormal columns; modes that
    are 0 are left out.

    **Arguments:** `modes` a ≥ 0: (K,), K = 2, 4, 8, …; `hidden` h, at least the number of modes
    that are not 0. **Raises:** ValueError for others.

    ```python
    w1, w2 = hadamard_start([0.0, 0.1, 0.2, 0.05], 4, key=jax.random.key(0))
    ```
    """
    a = real_array(modes, "modes")
    if a.ndim != 1:
        raise ValueError(f"modes have shape {a.shape}: give the K singular values of one start.")
    hadamard_logits(a)  # says what is wrong with other modes
    some = a > 0
    _check_width(hidden, int(np.sum(some)))
    basis = hadamard(a.size)[:, some] * np.sqrt(a[some] / a.size)
    right = frame(key, hidden, int(np.sum(some)))
    return right @ basis.T, basis @ right.T


def _check_width(hidden: int, modes: int) -> None:
    if hidden < max(modes, 1) or hidden != int(hidden):
        raise ValueError(
            f"hidden = {hidden}: {modes} modes need an integer of at least {max(modes, 1)}."
        )
