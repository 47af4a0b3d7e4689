r"""The energy that attention on the sphere climbs (Geshkovski et al. 2024, 2312.10794).

    E_β = (1/(2βn²)) Σ_{ij} e^{β⟨x_i, x_j⟩}

With Q = K = V = I unnormalised attention is its gradient ascent on the sphere, x_i' = n grad_i E_β;
softmax attention is x_i' = (n²/Z_i) grad_i E_β, Z_i = Σ_k e^{β⟨x_i, x_k⟩}: a gradient flow in the
metric weighted by Z_i alone. E_β increases along both.
"""

import numpy as np
from jaxtyping import Float

from .._arguments import Numbers, real_array, token_rows
from ._equal_overlap import _check_kind


def energy(X: Numbers, beta: Numbers) -> float:
    r"""E_β = (1/(2βn²)) Σ_{ij} e^{β⟨x_i, x_j⟩} of tokens (n, d) on the sphere, largest if equal.

    **Raises:** ValueError for tokens off the unit sphere, β ≤ 0.
    **Source:** 2312.10794, section 3.

    ```python
    energy(np.eye(3), 1.0)                         # 0.7864
    ```
    """
    x, b = _problem(X, beta)
    return float(np.sum(np.exp(b * (x @ x.T))) / (2.0 * b * len(x) ** 2))


def token_velocity(
    X: Numbers, beta: Numbers, kind: str = "softmax"
) -> Float[np.ndarray, "tokens d"]:
    r"""x_i' as a multiple of the gradient of E_β on the sphere: n²/Z_i (SA), n (USA) times it.

    **Raises:** ValueError as `energy`, and for another kind.

    ```python
    token_velocity(np.eye(3), 1.0)
    ```
    """
    x, b = _problem(X, beta)
    return _pace(x, b, kind)[:, None] * _gradient(x, b)


def energy_rate(X: Numbers, beta: Numbers, kind: str = "softmax") -> float:
    r"""dE_β/dt ≥ 0: Σ (n²/Z_i)‖grad_i‖² along softmax attention, n Σ‖grad_i‖² else.

    **Raises:** ValueError as `token_velocity`.

    ```python
    energy_rate(np.eye(3), 1.0)                    # 0 at equal tokens, and nowhere on the way
    ```
    """
    x, b = _problem(X, beta)
    return float(np.sum(_pace(x, b, kind) * np.sum(_gradient(x, b) ** 2, axis=1)))


def _pace(x: np.ndarray, beta: Numbers, kind: str) -> np.ndarray:
    _check_kind(kind)
    n = float(len(x))
    if kind == "unnormalised":
        return np.full(len(x), n)
    return n**2 / np.sum(np.exp(beta * (x @ x.T)), axis=1)


def _gradient(x: np.ndarray, beta: Numbers) -> np.ndarray:
    free = np.exp(beta * (x @ x.T)) @ x / len(x) ** 2
    return free - np.sum(free * x, axis=1, keepdims=True) * x


def _problem(X: Numbers, beta: Numbers) -> tuple[np.ndarray, float]:
    x, b = token_rows("X", X), real_array(beta, "beta")
    if b.ndim or not b > 0.0:
        raise ValueError(f"beta = {beta}: one positive number; E_β is divided by it.")
    lengths = np.linalg.norm(x, axis=1)
    if np.any(np.abs(lengths - 1.0) > 1e-6):
        raise ValueError(
            f"A token of X has norm {lengths[np.argmax(np.abs(lengths - 1.0))]:.6g}: tokens are on "
            "the unit sphere. Divide each by its norm."
        )
    return x, float(b)
