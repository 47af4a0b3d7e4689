"""The direction along which tokens condense, the time of the escape."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from .._arguments import Numbers, real_array

SOURCE = "2510.06954 (Chen, Luo 2025)"
VALIDITY = "gradient flow from small weights, one layer, scalar output, labels ±1"

#: σ and σ' of the activation between W1 and W2.
ACTIVATIONS = {
    "tanh": (np.tanh, lambda h: 1 - np.tanh(h) ** 2),
    "linear": (lambda h: h, np.ones_like),
}
#: −ℓ' of the loss at the margin q = y f.
SLOPES = {
    "exponential": lambda q: np.exp(-q),
    "logistic": lambda q: 0.5 * (1 - np.tanh(0.5 * q)),
}


class Direction(NamedTuple):
    """The unit `vector` v along Σ y_i x̄_i and the `strength` m = ‖(1/n) Σ y_i x̄_i‖."""

    vector: Float[np.ndarray, " d"]
    strength: float


def condensation_direction(X: Numbers, y: Numbers) -> Direction:
    r"""v = Σ y_i x̄_i/‖·‖ and m = ‖(1/n) Σ y_i x̄_i‖, with x̄_i the mean of the tokens of X_i.

    The columns of W_V turn to ±vᵀ; weights of size ε escape at a rate εm (−ℓ'(0) = 1).

    **Arguments:** `X`: (n, s, d), tokens as rows; `y`: (n,) of ±1. **Returns:** (vector,
    strength). **Raises:** ValueError for shapes, float32, labels other than ±1, and Σ y_i x̄_i = 0,
    where the term of the loss that selects a direction vanishes.
    **Regime:** columns of W_V follow v while the outer weights w obey w³ ≪ 1; the left vector of
    W_V then turns to the minimiser of the loss with uniform attention.
    **Source:** 2510.06954, Proposition 1.

    ```python
    v, m = condensation_direction(X, y)
    blow_up_time(v @ W_V / eps, W1 / eps, W2[:, 0] / eps)
    ```
    """
    x, y = _data(X, y)
    means = np.mean(x, axis=1)
    total = y @ means
    size = float(np.linalg.norm(total))
    if size <= 64 * np.finfo(float).eps * float(np.sum(np.linalg.norm(means, axis=1))):
        raise ValueError(
            "Σ y_i x̄_i = 0: there is no condensation direction, as the loss has no term of third "
            "order in the weights. Its escape is slower and none of these closed forms holds; "
            "check the labels and the mean token of each class."
        )
    return Direction(total / size, size / len(y))


def escape_time(
    time: float,
    epsilon: Numbers,
    strength: float,
    level: Numbers = math.inf,
    slope: float = 1.0,
) -> Float[np.ndarray, "..."]:
    r"""Flow time until the outer weights have norm w: T*/(εm) − 1/(wm), m → −ℓ'(0)m.

    With −ℓ'(0) = 1 (exponential loss), ½ for the logistic. Once ‖a‖ ≫ ‖start‖, ‖a‖, ‖B‖ and ‖c‖
    agree and are 1/(T* − t), so that any of them may be w.

    **Arguments:** `time` T* of the weights divided by ε; `epsilon` ε; `strength` m; `level` w,
    the default ∞ leaving the term out; `slope` −ℓ'(0). ε and w broadcast.
    **Returns:** flow time (learning rate × steps). **Raises:** ValueError for numbers that are
    not positive and w that the start exceeds.
    **Regime:** ε√d ≪ w ≪ 1, relative error O(ε) in a full model; gradient flow, not Adam.
    **Source:** 2510.06954, Proposition 1 (scaling of time); the second term is derived.

    ```python
    escape_time(blow_up_time(a, B, c), [1e-3, 1e-4], m, level=0.1)
    ```
    """
    eps = real_array(epsilon, "epsilon")
    w = real_array(level, "level", finite=False)
    numbers = {"time": time, "epsilon": eps, "strength": strength, "level": w, "slope": slope}
    for name, value in numbers.items():
        if not np.all(np.asarray(value) > 0):
            raise ValueError(f"{name} = {value}: it must be positive.")
    rate = float(strength) * float(slope)
    out = np.asarray(float(time) / (eps * rate) - 1 / (w * rate))
    if np.any(out < 0):
        raise ValueError(
            f"level = {level} is below the start, as 1/level > T*/epsilon: ask for a level "
            "w with ε√d ≪ w ≪ 1."
        )
    return out


def value_cosines(value: Numbers, direction: Numbers, a: Numbers) -> Float[np.ndarray, "*t d"]:
    r"""Cosines of the columns of W_V with v at the time when vW_V = a, from W_V at the start.

        cos_k = a_k / √(a_k² + ‖R_k‖²),   R = W_V(0) − vᵀvW_V(0), which does not move

    **Arguments:** `value` W_V(0): (d, d'), `direction` v: (d,), of any length; `a`: (..., d'), with
    the scale of `value`. **Returns:** the shape of `a`. Near T* they are sign(p_k), with
    1 − |cos| ≈ ‖R_k‖²(T* − t)²/(2p_k²).
    **Raises:** ValueError for shapes, float32, v = 0. **Regime:** exact in the effective flow.
    **Source:** 2510.06954, Theorem 2; the formula is derived.

    ```python
    value_cosines(W_V, v, v @ W_V)           # those of the start
    ```
    """
    w, v, a = real_array(value, "value"), real_array(direction, "direction"), real_array(a, "a")
    if not (w.ndim == 2 and v.shape == w.shape[:1] and a.ndim and a.shape[-1] == w.shape[1]):
        raise ValueError(
            f"value has shape {w.shape}, direction {v.shape} and a {a.shape}: they must be "
            "(d, d'), (d,) and (..., d'), as in a = direction @ value."
        )
    norm = float(np.linalg.norm(v))
    if norm == 0:
        raise ValueError("direction is 0: give v, e.g. from condensation_direction.")
    v = v / norm
    rest = np.linalg.norm(w - np.outer(v, v @ w), axis=0)
    length = np.hypot(a, rest)
    return np.divide(a, length, out=np.zeros_like(a), where=length > 0)


def key_query_matrix(
    X: Numbers,
    y: Numbers,
    value: Numbers,
    inner: Numbers,
    readout: Numbers,
    *,
    activation: str = "tanh",
    loss: str = "exponential",
) -> Float[np.ndarray, "d d"]:
    r"""F of W_Q' = F W_K, W_K' = FᵀW_Q at given outer weights: minus dL/d(W_QW_Kᵀ) at zero.

        F = (1/(n s √d)) Σ_i −ℓ'(y_i f_i) y_i X_{i,s}ᵀ (C_i u_i)ᵀ
        C_i = Σ_j (X_{i,j} − x̄_i)ᵀ(X_{i,j} − x̄_i)
        f_i = σ(h_i)W2,   h_i = x̄_i W_V W1,   u_i = W_V W1 (σ'(h_i)ᵀ ⊙ W2)

    rank F ≤ dim span of the last tokens X_{i,s}: with the same last token for all samples F has
    rank one and W_Q, W_K collapse at the rate σ₁.

    **Arguments:** `X`: (n, s, d), `y`: (n,) of ±1; `value` W_V: (d, d), `inner` W1: (d, h),
    `readout` W2: (h,) or (h, 1); `activation` between W1 and W2: "tanh" or "linear"; `loss`:
    "exponential" or "logistic". **Returns:** (d, d).

    **Raises:** ValueError for shapes, float32, labels other than ±1, unknown names.
    **Regime:** exact at W_QW_Kᵀ = 0. A plateau needs pooled tokens x̄_i that are **not** linearly
    separable by y; otherwise the outer weights grow and F decays. Take F at mid-plateau.
    **Source:** 2510.06954, Proposition 3 (linear, exponential); this form and others are derived.

    ```python
    F = key_query_matrix(X, y, W_V, W1, W2)
    np.linalg.svdvals(F)[:2]                  # σ₁ and σ₂: their gap decides the collapse
    ```
    """
    x, y = _data(X, y)
    n, s, d = x.shape
    w, b, c = real_array(value, "value"), real_array(inner, "inner"), real_array(readout, "readout")
    shape = c.shape
    c = c[:, 0] if c.ndim == 2 and c.shape[1] == 1 else c
    if not (w.shape == (d, d) and b.ndim == 2 and b.shape[0] == d and c.shape == b.shape[1:]):
        raise ValueError(
            f"X has tokens of dimension {d}, value has shape {w.shape}, inner {b.shape} and "
            f"readout {shape}: they must be (d, d), (d, h) and (h,), as in X @ value @ inner."
        )
    for name, given, known in (("activation", activation, ACTIVATIONS), ("loss", loss, SLOPES)):
        if given not in known:
            raise ValueError(f'{name} = "{given}" is not known: {" or ".join(map(repr, known))}.')
    sigma, sigma_slope = ACTIVATIONS[activation]
    means = np.mean(x, axis=1)
    hidden = means @ w @ b
    pull = SLOPES[loss](y * (sigma(hidden) @ c)) * y
    u = (sigma_slope(hidden) * c) @ (w @ b).T
    spread = x - means[:, None]
    scattered = np.einsum("nsd,nse,ne->nd", spread, spread, u, optimize=True)
    return np.einsum("n,nd,ne->de", pull, x[:, -1], scattered, optimize=True) / (
        n * s * math.sqrt(d)
    )


def _data(x, y) -> tuple[np.ndarray, np.ndarray]:
    x, y = real_array(x, "X"), real_array(y, "y")
    if not (x.ndim == 3 and y.shape == x.shape[:1] and x.size):
        raise ValueError(
            f"X has shape {x.shape} and y {y.shape}: they must be (n, s, d), tokens as rows, "
            "and (n,)."
        )
    if not np.all(np.abs(y) == 1):
        raise ValueError(f"y contains {y[np.abs(y) != 1][0]:g}: labels are +1 or −1.")
    return x, y
