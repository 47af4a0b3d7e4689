r"""Merged heads from a small start: one abrupt drop, in closed form or as D scalars."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.integrate import solve_ivp

from .._arguments import Numbers, real_array, times
from ._problem import Problem, pairs, problem, sizes, variance

#: ‖S⊙m‖/‖b‖ up to which the growth of m is exponential to rounding.
_LINEAR = 1e-17
#: Rates × time above which an explicit method takes too many steps.
_STIFF = 3000.0


class Merged(NamedTuple):
    """E(y − ŷ)², and m_d of M = Σ_d m_d e_d e_dᵀ."""

    loss: Float[np.ndarray, "*t"]
    diagonal: Float[np.ndarray, "*t D"]


def merged_white(
    dimension: int, context: float, size: Numbers, t: Numbers, *, noise: float = 0.0
) -> Float[np.ndarray, "..."]:
    r"""σ(t) of M = σI: merged heads, white covariance Λ = I, aligned start of layer norm `size`.

        σ = E/(c(E − 1) + √D/w²),   E = e^{2√D t},   c = 1 + (1 + D + σ²)/N,   w = `size`
        L = D + σ² − 2Dσ + cDσ²       (E(y − ŷ)²; σ² in it is the noise)

    Aligned: v = w r, U_i = w r_i I/√D with ‖r‖ = 1. The drop is half-way in σ at
    t = ln((√D/w² − c)/c)/(2√D). For Λ = ℓI it is merged_white(D, N, √ℓ w, ℓ²t)/ℓ.

    **Arguments:** `dimension` D, `context` N, `size` w > 0 and `t ≥ 0` (∞ included) broadcast.
    Clock: θ' = −½ ∂E(y − ŷ)²/∂θ (τ = 1), the flow time of the "half_mean" objective, twice that of
    "mean". `noise`: the variance of the labels' noise.

    **Raises:** ValueError for D or N < 1, size ≤ 0, t < 0, float32.
    **Regime:** exact from the aligned start, of any size; from another small start with
    `aligned_size`, up to the square of the size. **Source:** 2501.16265, eq. 10.

    ```python
    merged_white(4, 31, 1e-3, [2.0, 3.0])       # 0.0014879044751066, 0.074351057129235
    ```
    """
    d = float(real_array(dimension, "dimension"))
    if d < 1 or d != int(d):
        raise ValueError(f"dimension = {dimension}: D is an integer of at least 1.")
    c = 1.0 + (1.0 + d + variance(noise)) / pairs(context)
    w, t = np.broadcast_arrays(sizes(size), times(t))
    x = 2.0 * np.sqrt(d) * t
    with np.errstate(over="ignore"):
        start = np.exp(0.5 * np.log(d) - 2.0 * np.log(w) - x)
    return np.asarray(1.0 / (-c * np.expm1(-x) + start))


def merged(
    eigenvalues: Numbers, context: float, size: Numbers, t: Numbers, *, noise: float = 0.0
) -> Merged:
    r"""(loss, eigen-diagonal of M) of merged heads, any covariance, aligned start of norm `size`.

        m' = ‖m‖(b − S⊙m) + m⟨m, b − S⊙m⟩/‖m‖,   m(0) = w² b/‖b‖,   w = `size`
        b_d = λ_d²,   S_d = λ_d³(1 + (1 + (tr Λ + σ²)/λ_d)/N)

    Aligned: v = w r, U_i = w r_i Λ²/‖Λ²‖ with ‖r‖ = 1; v and U then stay in these directions r,
    and M diagonal in the eigenbasis. Solved to 1e-12 as m = e^{2y} p (p = n with ‖n‖ = 1 here),

        y' = ⟨p, ρ⟩,   p' = ρ − p⟨p, ρ⟩,   ρ = b − e^{2y} S⊙p,

    which is exact growth, y' = ‖b‖, until e^{2y} S is felt: any `size`, 1e-100 as well.

    **Arguments:** `eigenvalues` (D,), any order; `context` N; `size` > 0, one number; `t ≥ 0` of
    any shape, ∞ included. Clock: θ' = −½ ∂E(y − ŷ)²/∂θ (τ = 1), the flow time of the "half_mean"
    of `gflow.objectives.InContextRegression`. `noise`: σ² of the labels.

    **Returns:** a named tuple (loss, diagonal) of shapes t.shape and t.shape + (D,).

    **Raises:** ValueError for negative eigenvalues, N < 1, size ≤ 0, t < 0, float32.
    **Regime:** exact from the aligned start; from another small one take `merged_from`.
    **Source:** 2501.16265, section 3, without its Λ = I.

    ```python
    loss, m = merged([0.4, 0.3, 0.2, 0.1], 31, 1e-100, [2000.0, math.inf])
    ```
    """
    found, t = problem(eigenvalues, context, noise), times(t)
    w = sizes(size)
    if w.ndim:
        raise ValueError(f"size has shape {w.shape}: give one number, the norm of a layer.")
    return _course(found, float(np.log(w)), np.zeros_like(found.eigenvalues), t)


def merged_from(
    value: Numbers, key_query: Numbers, eigenvalues: Numbers, context: float, t: Numbers, *,
    noise: float = 0.0,
) -> Merged:  # fmt: skip
    r"""`merged` from any small start v, U, up to the square of its size.

    Of the start matter r = g/‖g‖ (`aligned_size`) and what u = Σ r_i U_i has beside b on the
    diagonal: it neither grows nor shrinks before the drop and shifts it by O(size). All else
    enters as the square of the size. (For Λ ∝ I that shift vanishes as well.)

    **Arguments:** as `aligned_size` and `merged`. **Regime:** start much smaller than the end.

    ```python
    merged_from(v, u, eigenvalues, 31, t).loss
    ```
    """
    found, t = problem(eigenvalues, context, noise), times(t)
    g, u, b = _growing(value, key_query, found)
    size = _norm(g)
    beside = np.einsum("h,hdd->d", g / size, u)
    beside = (beside - b * (b @ beside)) / size
    return _course(found, float(np.log(size)), beside, t)


def aligned_size(value: Numbers, key_query: Numbers, eigenvalues: Numbers) -> float:
    r"""Norm of the aligned start that a small start of merged heads grows into.

    ‖g‖ with g = ½(v + ⟨U_i, Λ²⟩/‖Λ²‖), what a start has of the growing mode: until the drop
    v = g e^{‖Λ²‖t}, and U_i = g_i e^{‖Λ²‖t} Λ²/‖Λ²‖.

    **Arguments:** `value` v: (H,); `key_query` U: (H, D, D) in the eigenbasis; `eigenvalues` (D,).
    **Raises:** ValueError for other shapes, a start without this mode, float32.
    **Regime:** starts much smaller than the weights at the end. **Source:** `merged`; the escape
    takes ln(1/‖g‖)/‖Λ²‖.

    ```python
    merged_white(4, 31, aligned_size(v, u, np.ones(4)), t)
    ```
    """
    return _norm(_growing(value, key_query, problem(eigenvalues, 1))[0])


def _growing(value: Numbers, key_query: Numbers, found: Problem) -> tuple[np.ndarray, ...]:
    """g, U and b/‖b‖."""
    v, u = real_array(value, "value"), real_array(key_query, "key_query")
    d = found.eigenvalues.size
    if v.ndim != 1 or u.shape != (v.size, d, d):
        raise ValueError(
            f"value has shape {v.shape} and key_query {u.shape}, with {d} eigenvalues: they must "
            f"be (H,) and (H, {d}, {d}), in the eigenbasis."
        )
    b = found.force / np.linalg.norm(found.force)
    g = 0.5 * (v + np.einsum("hdd,d->h", u, b))
    if not np.any(g):
        raise ValueError(
            "The start has nothing of the mode that grows, v_i = −⟨U_i, Λ²⟩/‖Λ²‖ for every head: "
            "it goes to zero and stays there."
        )
    return g, u, b


def _norm(x: np.ndarray) -> float:
    top = float(np.max(np.abs(x)))
    return top * float(np.linalg.norm(x / top))


def _course(found: Problem, log_size: float, beside: np.ndarray, t: np.ndarray) -> Merged:
    """From v = e^log_size r, u = e^log_size (b/‖b‖ + `beside`), ⟨b, beside⟩ = 0."""
    m = _diagonal(found, log_size, beside, t.ravel()).reshape(*t.shape, -1)
    return Merged(found.loss(m), m)


def _diagonal(found: Problem, y0: float, beside: np.ndarray, t: np.ndarray) -> np.ndarray:
    """m at the times t, shape (times, D)."""
    b, s = found.force, found.curvature
    rate = float(np.linalg.norm(b))
    linear = 0.5 * np.log(_LINEAR * rate / float(np.max(s)))
    began = max((linear - y0) / rate, 0.0)

    def grown(t):
        # what is beside b stays as it is while v and ⟨u, b⟩ grow
        return y0 + rate * t, b / rate + beside * np.exp(-rate * t[..., None])

    y, p = grown(np.minimum(t, began))
    with np.errstate(under="ignore"):
        m = np.where(np.isinf(t)[:, None], found.optimum, np.exp(2.0 * y)[:, None] * p)
    later = np.isfinite(t) & (t > began)
    if np.any(later):
        y, p = grown(np.asarray(began))
        wanted, index = np.unique(t[later] - began, return_inverse=True)
        z = _integrated(b, s, np.concatenate([[y], p]), wanted)
        m[later] = (np.exp(2.0 * z[:1]) * z[1:]).T[index]
    return m


def _velocity(_, z: np.ndarray, b: np.ndarray, s: np.ndarray) -> np.ndarray:
    """Of z = (y, p)."""
    p = z[1:]
    rho = b - np.exp(2.0 * z[0]) * s * p
    along = p @ rho
    return np.concatenate([[along], rho - p * along])


def _jacobian(_, z: np.ndarray, b: np.ndarray, s: np.ndarray) -> np.ndarray:
    p, felt = z[1:], np.exp(2.0 * z[0]) * s
    rho, pulled = b - felt * p, -2.0 * felt * p  # and its derivative by y
    tilt = rho - felt * p  # derivative of ⟨p, ρ⟩ by p
    top = np.concatenate([[p @ pulled], tilt])
    rest = np.diag(-felt - p @ rho) - np.outer(p, tilt)
    side = (pulled - p * (p @ pulled))[:, None]
    return np.concatenate([top[None], np.concatenate([side, rest], axis=1)])


def _integrated(b: np.ndarray, s: np.ndarray, start: np.ndarray, t: np.ndarray) -> np.ndarray:
    """z at the times t, ascending."""
    # the fastest rate at rest is at most ‖m*‖ max S of a direction, twice that along m*
    optimum = b[s > 0] / s[s > 0]
    fast = 2.0 * float(np.linalg.norm(optimum) * np.max(s))
    passed = _STIFF / fast
    columns = []
    quick, slow = t[t <= passed], t[t > passed]
    ends = np.append(quick, passed) if slow.size else quick
    found = solve_ivp(
        _velocity,
        (0.0, ends[-1]),
        start,
        "DOP853",
        t_eval=ends,
        args=(b, s),
        rtol=3e-14,
        atol=1e-16,
    )
    columns.append(found.y[:, : quick.size])
    if slow.size:
        late = solve_ivp(
            _velocity, (passed, slow[-1]), found.y[:, -1], "Radau", t_eval=slow,
            jac=_jacobian, args=(b, s), rtol=1e-12, atol=1e-14,
        )  # fmt: skip
        columns.append(late.y)
    return np.concatenate(columns, axis=1)
