r"""Key and query weights on the plateau, W_Q' = F W_K, W_K' = Fᵀ W_Q, and their rank collapse.

With F = Σ σ_i u_i v_iᵀ and s_i^± = Q(0)ᵀu_i ± K(0)ᵀv_i every mode is a sum of exponentials,

    Qᵀu_i = ½(e^{σ_i t} s_i⁺ + e^{−σ_i t} s_i⁻),   Kᵀv_i = ½(e^{σ_i t} s_i⁺ − e^{−σ_i t} s_i⁻),

and the largest σ wins. QᵀQ − KᵀK is constant. Paper: 2510.06954 (Chen, Luo, NeurIPS 2025),
Proposition 3 and Theorem 3. Tokens are rows: logits X W_Q W_Kᵀ Xᵀ/√d.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.optimize import brentq

from gflow.internal import svd

from .._arguments import Numbers, real_array, times

#: Singular values of F closer than this to the largest, relative to it, are tied with it.
TIE_TOLERANCE = 1e-12
#: ‖s₁⁺‖ relative to ‖Q(0)‖ + ‖K(0)‖ below which the top mode is not excited.
DORMANT = 1e-14


class KeyQueryDirections(NamedTuple):
    """Q/‖Q‖_F and K/‖K‖_F with the logarithms of the two norms."""

    query: Float[np.ndarray, "*t q h"]
    key: Float[np.ndarray, "*t k h"]
    log_query: Float[np.ndarray, "*t"]
    log_key: Float[np.ndarray, "*t"]


class KeyQueryLimit(NamedTuple):
    """lim Q/‖Q‖_F, lim K/‖K‖_F, their `rank`, the `multiplicity` of σ₁ and the `rate` of approach.

    ‖Q/‖Q‖_F − query‖_F = Θ(e^{−rate·t}); the stable rank converges at twice this rate.
    """

    query: Float[np.ndarray, "q h"]
    key: Float[np.ndarray, "k h"]
    rank: int
    multiplicity: int
    rate: float


class Plateau(NamedTuple):
    """`length` until ‖W_Q‖_F reaches the level, and the stable ranks of W_Q and W_K there."""

    length: float
    query_rank: float
    key_rank: float


def key_query(
    F: Numbers, Q0: Numbers, K0: Numbers, t: Numbers
) -> tuple[Float[np.ndarray, "*t q h"], Float[np.ndarray, "*t k h"]]:
    r"""(W_Q, W_K) at the times `t` of W_Q' = F W_K, W_K' = Fᵀ W_Q, exactly.

        Q = U[cosh(Σt)UᵀQ(0) + sinh(Σt)VᵀK(0)],   K = V[cosh(Σt)VᵀK(0) + sinh(Σt)UᵀQ(0)]

    **Arguments:** `F`: (q, k), `Q0`: (q, h), `K0`: (k, h) (d, d, d_h in a transformer); t ≥ 0 of
    any shape, finite, in flow time (learning rate × steps). **Returns:** shapes t.shape + (q, h)
    and t.shape + (k, h). t = 0 gives the start itself.

    **Raises:** ValueError for shapes that do not chain, float32, non-finite data, t < 0, and where
    the weights exceed 1.8e308: `key_query_directions` has no such limit.
    **Regime:** F constant (the outer weights rest on the plateau) and logits ≪ 1.
    **Source:** 2510.06954, Proposition 3; the closed form is derived.

    ```python
    q, k = key_query(F, Q0, K0, np.linspace(0, 5, 50))      # (50, d, h) each
    ```
    """
    modes = _modes(F, Q0, K0)
    t = _finite(t)
    with np.errstate(over="ignore", invalid="ignore"):
        # a common factor e^scale only where cosh would overflow
        scale = np.where(t * modes.sigma[0] > 300, _largest(modes, t), 0.0)
        factor = np.exp(scale)[..., None, None]
        query, key = (factor * x for x in _scaled(modes, t, scale))
    if not (np.all(np.isfinite(query)) and np.all(np.isfinite(key))):
        raise ValueError(
            f"The weights overflow by t = {float(np.max(t)):g}: they grow as e^(σ₁t) with σ₁ = "
            f"{modes.sigma[0]:.6g}. key_query_directions gives Q/‖Q‖, K/‖K‖ and the logarithms "
            "of the norms at any t, key_query_limit the directions at t = ∞."
        )
    return query, key


def key_query_directions(F: Numbers, Q0: Numbers, K0: Numbers, t: Numbers) -> KeyQueryDirections:
    r"""Q/‖Q‖_F, K/‖K‖_F, log‖Q‖_F, log‖K‖_F at any finite time: `key_query` without overflow.

    Stable ranks follow from them. At late times srank(Q) − 1 ≈ Σ_{i≥2} (‖e_i − ŝŝᵀe_i‖/‖s₁⁺‖)²
    e^{−2(σ₁−σ_i)t}, with e_i = s_i⁺ + e^{−2σ_i t}s_i⁻ (minus for K) and ŝ = s₁⁺/‖s₁⁺‖.

    **Arguments, errors, source:** as for `key_query`, with ValueError for weights that are zero.

    ```python
    directions = key_query_directions(F, Q0, K0, 1e6)
    1 / np.linalg.norm(directions.query, 2) ** 2            # stable rank of W_Q
    ```
    """
    modes = _modes(F, Q0, K0)
    t = _finite(t)
    scale = _largest(modes, t)
    out = []
    for name, x in zip("QK", _scaled(modes, t, scale), strict=True):
        norm = np.linalg.norm(x, axis=(-2, -1))
        if not np.all(norm > 0):
            raise ValueError(f"{name} vanishes at t = {t[norm == 0].ravel()[0]:g}: no direction.")
        out.append((x / norm[..., None, None], np.asarray(np.log(norm) + scale)))
    (query, log_query), (key, log_key) = out
    return KeyQueryDirections(query, key, log_query, log_key)


def key_query_limit(F: Numbers, Q0: Numbers, K0: Numbers) -> KeyQueryLimit:
    r"""Where the directions of W_Q and W_K go: rank one, or the multiplicity of σ₁(F).

        Q/‖Q‖_F → Σ_{i≤k} u_i s_i⁺ᵀ/‖·‖_F,   K/‖K‖_F → Σ_{i≤k} v_i s_i⁺ᵀ/‖·‖_F

    For k = 1: u₁ŝᵀ and v₁ŝᵀ, with the same right vector. The rate is σ₁ − σ_{k+1}.

    **Arguments:** as for `key_query`. **Returns:** a `KeyQueryLimit`. Singular values within
    1e-12·σ₁ of σ₁ count as tied with it.

    **Raises:** ValueError as `key_query`, for F = 0, and for s_i⁺ = 0 for all i ≤ k, where the top
    mode is never excited (the paper's theorem needs this too, without saying so).
    **Regime:** t ≫ 1/(σ₁ − σ_{k+1}) with logits ≪ 1: for an initial scale ε, the collapse when
    the logits reach O(1) is only as good as ε^{1−σ_{k+1}/σ₁} (see `plateau`).
    **Source:** 2510.06954, Theorem 3; limit vectors and rate are derived.

    ```python
    key_query_limit(np.diag([2.0, 2.0, 1.0]), Q0, K0).rank      # 2
    ```
    """
    modes = _modes(F, Q0, K0)
    top = _top(modes)
    k = int(np.sum(modes.sigma >= top * (1 - TIE_TOLERANCE)))
    growing = (0.5 * (modes.query + modes.key))[:k]
    norm = float(np.linalg.norm(growing))
    if norm <= DORMANT * (np.linalg.norm(modes.query) + np.linalg.norm(modes.key)):
        raise ValueError(
            f"The start has no part in the {k} top mode(s) of F, σ₁ = {top:.6g}: Q(0)ᵀu + K(0)ᵀv "
            "= 0. Rounding decides where the flow goes; remove this mode from F, or change Q0."
        )
    rank = int(np.linalg.matrix_rank(growing / norm, tol=1e-12))
    # modes beyond the smaller side of F stand still
    rest = modes.sigma[k] if k < modes.sigma.size else (0.0 if modes.has_kernel else -top)
    u, v = modes.left[:, :k], modes.right[:, :k]
    return KeyQueryLimit(u @ growing / norm, v @ growing / norm, rank, k, float(top - rest))


def plateau(F: Numbers, Q0: Numbers, K0: Numbers, level: float) -> Plateau:
    r"""How long until ‖W_Q‖_F = level, where attention saturates, and the rank left at that time.

    ‖Q‖_F² is convex in t, so the passage is unique. At small ε it is T ≈ ln(2·level/‖s₁⁺‖)/σ₁,
    and srank − 1 ∝ ε^{2(1−σ₂/σ₁)}: a collapse as good as the gap of F and log(1/ε).

    **Arguments:** as for `key_query`; `level` > ‖Q0‖_F, where logits are O(1). **Raises:**
    ValueError as `key_query_limit`, and for a level that is not above the start.
    **Regime:** F frozen at its mid-plateau value; in training it drifts early on, which adds
    O(1/σ₁) to the length whatever ε is: compare slopes, ∂T/∂ln(1/ε) = 1/σ₁.
    **Source:** derived for 2510.06954, Theorem 3.

    ```python
    plateau(F, 1e-6 * Q0, 1e-6 * K0, 1.0).query_rank
    ```
    """
    modes = _modes(F, Q0, K0)
    top, start = _top(modes), float(np.linalg.norm(real_array(Q0, "Q0")))
    key_query_limit(F, Q0, K0)
    if not (float(level) > start and math.isfinite(level)):
        raise ValueError(f"level = {level}: it must be finite and above ‖Q0‖_F = {start:g}.")

    def above(t: float) -> float:
        return float(key_query_directions(F, Q0, K0, t).log_query) - math.log(level)

    late = 1.0 / top
    while above(late) < 0:
        late *= 2
    root, _ = brentq(above, 1e-12 * late, late, xtol=1e-15 * late, full_output=True)
    length = float(root)
    end = key_query_directions(F, Q0, K0, length)
    return Plateau(length, *(float(np.linalg.norm(x, 2)) ** -2 for x in (end.query, end.key)))


class _Modes(NamedTuple):
    left: np.ndarray
    sigma: np.ndarray
    right: np.ndarray
    query: np.ndarray
    key: np.ndarray
    still: tuple[np.ndarray, np.ndarray]
    starts: tuple[np.ndarray, np.ndarray]
    has_kernel: bool


def _modes(matrix, query, key) -> _Modes:
    f, q, k = real_array(matrix, "F"), real_array(query, "Q0"), real_array(key, "K0")
    if not (
        f.ndim == q.ndim == k.ndim == 2
        and f.shape == (q.shape[0], k.shape[0])
        and q.shape[1] == k.shape[1]
        and min(*q.shape, *k.shape) > 0
    ):
        raise ValueError(
            f"F has shape {f.shape}, Q0 {q.shape} and K0 {k.shape}: they must be (q, k), (q, h) "
            "and (k, h), as in F @ K0 and F.T @ Q0. Weights stored as (h, d) enter transposed."
        )
    u, s, vt = svd(f, full_matrices=False)
    a, b = u.T @ q, vt @ k
    return _Modes(u, s, vt.T, a, b, (q - u @ a, k - vt.T @ b), (q, k), f.shape[0] != f.shape[1])


def _finite(t) -> np.ndarray:
    t = times(t)
    if np.any(np.isinf(t)):
        raise ValueError("t contains ∞: key_query_limit gives the directions there.")
    return t


def _top(modes: _Modes) -> float:
    if modes.sigma[0] == 0:
        raise ValueError("F = 0: W_Q and W_K stand still.")
    return float(modes.sigma[0])


def _largest(modes: _Modes, t: np.ndarray) -> np.ndarray:
    """The logarithm of the largest term at the times t."""
    grow = np.linalg.norm(modes.query + modes.key, axis=1)
    fall = np.linalg.norm(modes.query - modes.key, axis=1)
    still = max(float(np.linalg.norm(x)) for x in modes.still)
    st = t[..., None] * modes.sigma
    with np.errstate(divide="ignore"):
        terms = [np.log(grow) + st, np.log(fall) - st, np.full_like(st[..., :1], np.log(still))]
    largest = np.max(np.concatenate(terms, axis=-1), axis=-1)
    return np.where(np.isfinite(largest), largest, 0.0)


def _scaled(modes: _Modes, t: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(Q, K)e^{−scale}."""
    st, m = (t[..., None] * modes.sigma)[..., None], scale[..., None, None]
    # a mode that is not excited may be larger than any: it meets a factor 0
    rise, fall = np.exp(np.minimum(st - m, 700.0)), np.exp(np.minimum(-st - m, 700.0))
    a, b = modes.query, modes.key
    # sums of exponentials where a mode may decay, hyperbolic functions where they would cancel
    cosh, sinh = 0.5 * (rise + fall), 0.5 * fall * np.expm1(2 * np.minimum(st, 1.0))
    plus, minus = 0.5 * rise * (a + b), 0.5 * fall * (a - b)
    early = st < 1.0
    query = np.where(early, cosh * a + sinh * b, plus + minus)
    key = np.where(early, cosh * b + sinh * a, plus - minus)
    out = []
    for x, basis, still, start in zip(
        (query, key), (modes.left, modes.right), modes.still, modes.starts, strict=True
    ):
        moved = basis @ x + np.exp(-m) * still
        out.append(np.where(t[..., None, None] == 0, np.exp(-m) * start, moved))
    return out[0], out[1]
