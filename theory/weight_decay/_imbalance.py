r"""The imbalance AᵀA − BᵀB of two factors, and the gap to the nuclear norm it bounds.

For any loss of W = ABᵀ with decay λ on both factors G' = −2λG: an exact law of gradient flow,
of which gradient descent has an exact counterpart (`theory.weight_decay` has the setting).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.integrate import quad

from .._arguments import Numbers, real_array, times
from ._balanced import decays, factor_pair, one_decay

#: λ, an array of λ over the leading axes, or a schedule λ(t) of flow time.
Decay = Numbers | Callable


class GapBounds(NamedTuple):
    """lower ≤ ½‖A‖² + ½‖B‖² − ‖ABᵀ‖_* ≤ upper."""

    lower: Float[np.ndarray, "..."]
    upper: Float[np.ndarray, "..."]


def imbalance(
    left: Numbers, right: Numbers, decay: Decay, t: Numbers
) -> Float[np.ndarray, "*t_and_batch r r"]:
    r"""G(t) = AᵀA − BᵀB = e^{−2λt}G(0), entry by entry, for every loss of W = ABᵀ.

    With a schedule G(t) = exp(−2∫₀ᵗλ)G(0). In a chain W_L ⋯ W₂W₁ all neighbours obey it, with
    left = W_{l+1} and right = W_lᵀ.

    **Attention**, a head at a time (heads as leading axes), W_• of shape (d_h, d), P of (d, d_h):

    | product | left A | right B | G |
    | --- | --- | --- | --- |
    | W_KᵀW_Q | W_Kᵀ | W_Qᵀ | W_K W_Kᵀ − W_Q W_Qᵀ |
    | P W_V | P | W_Vᵀ | PᵀP − W_V W_Vᵀ |

    Code that stores W_K as (d, d_h) and computes x @ W_K passes it is; nn.Linear stores
    (d_h, d) and passes the transpose, per head. The other transpose gives d×d matrices that obey
    no law. `gflow.Factored` has kq.left = W_Qᵀ, kq.right = W_Kᵀ: G changes sign, the law does
    not. Query and key biases: append them as one more row of A and B (if they decay too).
    Keys shared by several queries: stack the queries' rows into one B. RoPE: only the trace of
    each 2×2 rotation block of G obeys the law. QK-normalisation: no law.

    **Arguments:** `left`: (..., m, r), `right`: (..., n, r), both at t = 0; flow time `t ≥ 0`
    (learning rate × steps) of any shape, ∞ included. `decay`: λ ≥ 0, an array of λ that broadcasts
    with the leading axes, or a function of t (sampled: one shorter than 1e-7·t may be missed).

    **Returns:** t.shape + leading axes + (r, r).

    **Raises:** ValueError for shapes that do not chain, float32, λ < 0 or NaN (a schedule: at
    the times it is asked), and where ∫λ to ∞ can not be decided.
    **Regime:** exact for gradient flow, any differentiable L, equal decay of both factors. For
    SGD see `descent_imbalance`. Not for Adam(W), momentum, clipping of one factor.
    **Source:** 2410.23819; the schedule and the special architectures are derived.

    ```python
    imbalance(w_k.mT, w_q.mT, 0.1, [0.0, 10.0])        # (2, heads, d_h, d_h)
    ```
    """
    a, b = factor_pair(left, right)
    g, t = _gram_difference(a, b), times(t)
    shrunk = _shrunk(decay, t, g.shape[:-2])
    return shrunk[..., None, None] * g


def descent_imbalance(
    left: Numbers,
    right: Numbers,
    left_gradient: Numbers,
    right_gradient: Numbers,
    learning_rate: float,
    decay: float = 0.0,
) -> Float[np.ndarray, "*batch r r"]:
    r"""G after one step of gradient descent with decay, exactly: discretisation told from bugs.

        G⁺ = (1 − ηλ)²G + η²(g_Aᵀg_A − g_Bᵀg_B),   A⁺ = (1 − ηλ)A − ηg_A,  B⁺ likewise

    with the plain gradients g_A = MB, g_B = MᵀA of the step, minibatch gradients included. For
    attention G⁺ = (1 − ηλ)²G + η²(g_K g_Kᵀ − g_Q g_Qᵀ).

    **Arguments:** factors as for `imbalance` and gradients of their shapes, without decay.
    **Returns:** G⁺, (..., r, r).

    **Raises:** ValueError for shapes, η ≤ 0, λ < 0, and for gradients that no M can have:
    Aᵀg_A ≠ g_BᵀB (QK-normalisation, RoPE, a wrong transpose, one factor clipped).
    **Regime:** plain SGD, `weight_decay=λ`, no momentum. **Source:** derived for 2410.23819.

    ```python
    descent_imbalance(a, b, m @ b, m.mT @ a, learning_rate=0.05, decay=0.1)
    ```
    """
    a, b = factor_pair(left, right)
    ga, gb = (
        real_array(left_gradient, "left_gradient"),
        real_array(right_gradient, "right_gradient"),
    )
    eta, rate = float(learning_rate), one_decay(decay)
    if ga.shape != a.shape or gb.shape != b.shape:
        raise ValueError(
            f"left_gradient has shape {ga.shape} and right_gradient {gb.shape}, the factors "
            f"{a.shape} and {b.shape}: a gradient has the shape of its factor."
        )
    if not (eta > 0 and math.isfinite(eta)):
        raise ValueError(f"learning_rate = {eta}: it is positive.")
    from_left, from_right = a.mT @ ga, gb.mT @ b
    size = np.linalg.norm(a) * np.linalg.norm(ga) + np.linalg.norm(b) * np.linalg.norm(gb)
    if np.linalg.norm(from_left - from_right) > 1e-9 * size:
        raise ValueError(
            f"left.T @ left_gradient and right_gradient.T @ right differ by "
            f"{np.linalg.norm(from_left - from_right):.3g}: these are not gradients of a function "
            "of left @ right.T (normalised or rotated queries and keys, a transposed weight, "
            "decay in the gradient), and no law holds."
        )
    kept = (1.0 - eta * rate) ** 2
    return kept * _gram_difference(a, b) + eta**2 * _gram_difference(ga, gb)


def gap_bounds(
    left: Numbers, right: Numbers, decay: Decay, t: Numbers, size: Numbers | None = None
) -> GapBounds:
    r"""Bounds on `gap` at later times, for every loss: the objective becomes L + λ‖W‖_*.

        ½(N − sqrt(N² − ‖G‖_*²)) ≤ ½‖A‖² + ½‖B‖² − ‖ABᵀ‖_* ≤ ½‖G‖_*,   ‖G‖_* = e^{−2λt}‖G(0)‖_*

    The upper one is Powers–Størmer's inequality. The lower one needs `size`, N(t) = ‖A(t)‖² +
    ‖B(t)‖² (it is then about ‖G‖_*²/4N, the late rate e^{−4λt}); without it, it is 0.

    **Arguments:** as for `imbalance`; `size` of shape t.shape + leading axes. **Returns:** a
    named tuple (lower, upper) of that shape. **Raises:** as `imbalance`, and for N < ‖G‖_*.
    **Regime:** exact bounds for gradient flow with any L. **Source:** Powers–Størmer 1970 with
    the law of `imbalance`; the lower bound is that of Fuchs and van de Graaf, not normalised.

    ```python
    gap_bounds(a, b, 0.1, np.linspace(0, 50, 6)).upper
    ```
    """
    g = imbalance(left, right, decay, t)
    norm = np.asarray(np.linalg.norm(g, "nuc", axis=(-2, -1)))
    if size is None:
        return GapBounds(np.zeros(norm.shape), 0.5 * norm)
    n = real_array(size, "size")
    if n.shape != norm.shape or np.any(n < norm * (1.0 - 1e-12)):
        raise ValueError(
            f"size has shape {n.shape}: it must be ‖A(t)‖² + ‖B(t)‖² for every t and head, shape "
            f"{norm.shape}, and so at least ‖G(t)‖_*."
        )
    return bounds(norm, n)


def bounds(norm: Float[np.ndarray, "..."], size: Float[np.ndarray, "..."]) -> GapBounds:
    """`gap_bounds` from ‖G‖_* and ‖A‖² + ‖B‖²; below ‖G‖_* no gap is between them."""
    root = np.sqrt(np.maximum((size - norm) * (size + norm), 0.0))
    lower = 0.5 * norm**2 / np.where(size > 0, size + root, 1.0)
    return GapBounds(lower, 0.5 * norm)


def gap_late_constant(left: Numbers, right: Numbers, gram: Numbers) -> Float[np.ndarray, "..."]:
    r"""C of gap(t) ≃ C·e^{−4λt}, for factors that keep their full rank r.

        C = Σ_{ij} G̃_ij²/(4(s_i + s_j)),   G̃ = RᵀG(0)R,   AᵀA, BᵀB → R diag(s) Rᵀ

    **Arguments:** `left`, `right`: factors at t = 0; `gram`: the limit of AᵀA, (..., r, r), such as
    leftᵀleft of the last time of a run. Its eigenvalues s are the singular values of W(∞), its
    directions depend on the start. A start (A, B)(t₁) with the Gram matrix at the end gives the
    constant of e^{−4λ(t − t₁)}.

    **Raises:** ValueError for shapes, float32, and a Gram matrix that is singular or not
    symmetric (modes that die have another rate: `gap_late_slope`).
    **Regime:** late times, d_r > λ. **Source:** second-order expansion of the Bures distance.

    ```python
    gap_late_constant(a, b, a_end.T @ a_end) * np.exp(-4 * 0.1 * t)
    ```
    """
    a, b = factor_pair(left, right)
    g, end = _gram_difference(a, b), real_array(gram, "gram")
    if end.shape != g.shape:
        raise ValueError(f"gram has shape {end.shape}, AᵀA of the factors has {g.shape}.")
    if np.max(np.abs(end - end.mT), initial=0.0) > 1e-9 * np.max(np.abs(end), initial=0.0):
        raise ValueError("gram is not symmetric: give the limit of left.T @ left.")
    s, r = np.linalg.eigh(end)
    if np.any(s[..., 0] <= 1e-12 * s[..., -1]):
        raise ValueError(
            f"gram is singular, with eigenvalues from {np.min(s):.3g} to {np.max(s):.3g}: some "
            "modes die, and the gap does not decay as e^{−4λt}. See gap_late_slope."
        )
    turned = r.mT @ g @ r
    pairs = 4.0 * (s[..., :, None] + s[..., None, :])
    return np.asarray(np.sum(turned**2 / pairs, axis=(-2, -1)))


def _gram_difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a.mT @ a - b.mT @ b


def _shrunk(decay: Decay, t: np.ndarray, batch: tuple[int, ...]) -> np.ndarray:
    """exp(−2∫₀ᵗλ), shape t.shape + batch."""
    if callable(decay):
        factor = np.asarray(np.exp(-2.0 * _integrals(decay, t)))
        return np.broadcast_to(factor.reshape(t.shape + (1,) * len(batch)), t.shape + batch)
    rate = decays(decay)
    try:
        rate = np.broadcast_to(rate, batch)
    except ValueError:
        raise ValueError(
            f"decay has shape {rate.shape}, which does not broadcast to the leading axes {batch} "
            "of the factors: give one λ, one for each head, or a function of t."
        ) from None
    t = t.reshape(t.shape + (1,) * len(batch))
    with np.errstate(invalid="ignore"):
        return np.asarray(np.exp(-2.0 * np.where(rate > 0, rate * t, 0.0)))


def _integrals(decay: Callable, t: np.ndarray) -> np.ndarray:
    """∫₀ᵗλ of a schedule, octave by octave so that early features are seen from late times."""

    def rate(time: float) -> float:
        value = float(decay(time))
        if not (value >= 0.0 and math.isfinite(value)):
            raise ValueError(
                f"decay(t) is {value} at t = {time:.6g}: a schedule must be finite and ≥ 0."
            )
        return value

    flat = t.ravel()
    finite = np.unique(flat[np.isfinite(flat) & (flat > 0)])
    octaves = finite[-1:] * 0.5 ** np.arange(24.0) if finite.size else finite
    known, total, last = {0.0: 0.0}, 0.0, 0.0
    for time in np.unique(np.concatenate([finite, octaves])):
        total, last = total + _integral(rate, last, float(time)), float(time)
        known[last] = total
    if np.any(np.isinf(flat)):
        known[math.inf] = _total(rate)
    return np.array([known[float(time)] for time in flat]).reshape(t.shape)


def _integral(rate: Callable, start: float, end: float) -> float:
    value, error, *_ = quad(rate, start, end, epsabs=0.0, epsrel=1e-13, limit=200, full_output=1)
    # quad's error estimate has a floor of about 1e-14 of the integral of |λ|
    if error > 1e-9 * max(value, 1e-3):
        raise ValueError(
            f"The integral of decay(t) from {start:.6g} to {end:.6g} is {value:.6g} only to within "
            f"{error:.1g}: the schedule is too rough. Put its jumps among the times t."
        )
    return value


def _total(rate: Callable) -> float:
    """∫₀^∞λ: ∞ once G has underflowed, else what the last octaves do not change."""
    total, end, steps = _integral(rate, 0.0, 1e-3), 1e-3, []
    while end < 1e60:
        steps.append(_integral(rate, end, 2.0 * end))
        total, end = total + steps[-1], 2.0 * end
        if total > 400.0:
            return math.inf
    if sum(steps[-10:]) <= 1e-15 * max(total, 1e-3):
        return total
    raise ValueError(
        f"∫λ dt has reached {total:.3g} at t = {end:.1g} and still grows: whether G decays to 0 "
        "can not be told. Ask for finite times."
    )
