r"""At a point W = ABᵀ: is it at rest under weight decay, and is it the nuclear-norm minimum?

With decay λ on both factors the objective is f = L(ABᵀ) + (λ/2)(‖A‖² + ‖B‖²), and the least
(λ/2)(‖A‖² + ‖B‖²) for a given W is λ‖W‖_* (**not** 2λ‖W‖_*: the ½ belongs to it). So f lives
above F(W) = L(W) + λ‖W‖_*, and min f = min F once the factors are wide enough.

Papers: 2410.23819 (Kobayashi, Akram, von Oswald 2024); 2502.09376 (landscape of LoRA).
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Float

from gflow.internal import svd

from .._arguments import Numbers, real_array
from ._balanced import factor_pair, one_decay


def gap(left: Numbers, right: Numbers) -> Float[np.ndarray, "..."]:
    r"""½‖A‖² + ½‖B‖² − ‖ABᵀ‖_* ≥ 0: what the factors pay beyond the nuclear norm.

    Evaluated as a sum of squares, with ABᵀ = USVᵀ and U, V of min(m, n) columns,

        ½‖UᵀA − VᵀB‖² + ½‖A − UUᵀA‖² + ½‖B − VVᵀB‖²,

    so that it is never negative, and right far below the 1e-16·‖A‖² at which the difference of
    the norms is rounding (to about 1e-14·sqrt(gap)·‖A‖). It is 0 where AᵀA = BᵀB, for example
    at rest under decay.

    **Arguments:** `left` A: (..., m, r), `right` B: (..., n, r); leading axes are heads.
    **Returns:** the leading shape. **Raises:** ValueError for shapes, float32, non-finite data.

    ```python
    gap(np.eye(3), 2 * np.eye(3))               # ½·3 + ½·12 − 6
    ```
    """
    a, b = factor_pair(left, right)
    batch = a.shape[:-2]
    return _gaps(*(x.reshape(-1, *x.shape[-2:]) for x in (a, b))).reshape(batch)


def _gaps(a: Float[np.ndarray, "k m r"], b: Float[np.ndarray, "k n r"]) -> Float[np.ndarray, " k"]:
    u, s, vt = svd(a @ b.mT)
    in_u, in_v = u.mT @ a, vt @ b
    # vectors of smaller singular values are known to ε/s only: they get a problem of their own
    counts = np.sum(s > 1e-3 * s[:, :1], axis=1)
    counts[counts == 0] = s.shape[1]
    values = np.zeros(len(a))
    for count in np.unique(counts):
        inside = counts == count
        left, right = in_u[inside], in_v[inside]
        values[inside] = 0.5 * np.sum((left[:, :count] - right[:, :count]) ** 2, axis=(1, 2))
        left, right = left[:, count:], right[:, count:]
        if count < s.shape[1]:
            values[inside] += _gaps(left, right)
        else:
            values[inside] += 0.5 * (np.sum(left**2, axis=(1, 2)) + np.sum(right**2, axis=(1, 2)))
    return values


def zero_rank_threshold(gradient: Numbers) -> Float[np.ndarray, "..."]:
    r"""The decay at which W = 0 becomes the minimum: ‖∇L(0)‖_op, for convex L.

    ABᵀ = 0 is globally optimal iff λ ≥ ‖∇L(0)‖_op; below it, W leaves 0 at rate
    2(‖∇L(0)‖_op − λ). For L = ½‖W − D‖² it is d₁, for ‖W − D‖² it is 2d₁: pass the gradient of
    the loss that is trained.

    **Arguments:** `gradient` ∇_W L at W = 0: (..., m, n). **Raises:** ValueError for vectors,
    float32, non-finite data. **Source:** derived; see `certificate`.

    ```python
    zero_rank_threshold(-target)                # of ½‖W − target‖²
    ```
    """
    m = real_array(gradient, "gradient")
    if m.ndim < 2 or m.size == 0:
        raise ValueError(f"gradient has shape {m.shape}: give ∇_W L, a matrix (..., m, n).")
    return np.asarray(np.linalg.norm(m, 2, axis=(-2, -1)))


@dataclasses.dataclass(frozen=True, eq=False)
class Certificate:
    r"""Numbers about a point W = ABᵀ = USVᵀ, with M = ∇L(W), and what each implies.

    - `residual`: ‖(MB + λA, MᵀA + λB)‖ / (λ‖(A, B)‖), 0 at A = B = 0. **0 iff at rest.**
    - `balance`: ‖AᵀA − BᵀB‖_* / (‖A‖² + ‖B‖²). 0 at rest, whatever L; e^{−2λt} before.
    - `gap`: ½‖A‖² + ½‖B‖² − ‖W‖_*. 0 at rest: there f = L + λ‖W‖_*.
    - `dual`: ‖(I − UUᵀ)M(I − VVᵀ)‖_op/λ. **At rest, dual ≤ 1 iff W is stationary for
      L + λ‖·‖_***, and its global minimum if L is convex; then (A, B) minimises f over factors
      of every width. At rest with dual > 1 and rank < width: a saddle, with Hessian eigenvalue
      λ(1 − dual) or less. With rank = width < `full`: anything up to a minimum among matrices
      of that rank; dual may then have any size. 0 where rank = `full` = min(m, n).
    - `singular_values` of W, those of size `rank` counted; `width` r of the factors.
    - `norm`: ‖A‖² + ‖B‖². `decay`: λ.
    - `slack` = λ‖W‖_* + ⟨M, W⟩ and `overshoot` = max(‖M‖_op − λ, 0): for convex L and a minimiser
      Z of L + λ‖·‖_*, **L(W) + λ‖W‖_* exceeds its minimum by at most
      slack + overshoot·‖Z‖_***. Both are 0 at Z, and no tolerance or rank enters.
    """

    residual: float
    balance: float
    gap: float
    dual: float
    rank: int
    width: int
    full: int
    singular_values: Float[np.ndarray, " k"]
    norm: float
    slack: float
    overshoot: float
    decay: float

    def is_stationary(self, tolerance: float = 1e-6) -> bool:
        """Whether the factors are at rest: `residual` ≤ tolerance."""
        return self.residual <= tolerance

    def is_minimum(self, tolerance: float = 1e-6) -> bool:
        """Whether W minimises L + λ‖·‖_*, L convex: at rest and `dual` ≤ 1 + tolerance."""
        return self.is_stationary(tolerance) and self.dual <= 1.0 + tolerance

    def is_saddle(self, tolerance: float = 1e-6) -> bool:
        """Whether (A, B) is a saddle for sure: at rest, `dual` > 1 and a column to spare."""
        spare = self.rank < self.width
        return self.is_stationary(tolerance) and spare and self.dual > 1.0 + tolerance


def certificate(
    left: Numbers,
    right: Numbers,
    gradient: Numbers,
    decay: Numbers,
    *,
    rtol: float = 1e-6,
    atol: float = 0.0,
) -> Certificate:
    r"""What the point (A, B) is, in numbers: stationarity, balance, rank, global optimality.

    At rest MB = −λA and MᵀA = −λB, hence AᵀA = BᵀB and MV = −λU, MᵀU = −λV: half of the
    optimality of L + λ‖·‖_*. The other half is `dual` ≤ 1, which every local minimum with a
    column to spare (rank < r) fulfils by itself.

    **Arguments:** `left` A: (m, r), `right` B: (n, r), `gradient` M = ∇_W L at W = ABᵀ, without
    decay: (m, n); `decay` λ > 0 of (λ/2)(‖A‖² + ‖B‖²). A singular value of W counts if it is
    above max(atol, rtol·largest): where all of W is dying, give `atol`.

    **Returns:** a `Certificate`; one head at a time.

    **Raises:** ValueError for shapes that do not chain, λ ≤ 0, float32, non-finite data.
    **Regime:** L differentiable, M its gradient with respect to the matrix W; convexity is
    needed only for "global". Not for AdamW, nor where something else decays.
    **Source:** 2410.23819; the standard optimality condition of the nuclear norm.

    ```python
    c = certificate(a, b, a @ b.T - target, 0.1)      # of ½‖W − target‖²
    c.is_minimum(), c.dual, c.rank
    ```
    """
    a, b = factor_pair(left, right)
    m, rate = real_array(gradient, "gradient"), one_decay(decay)
    if not (a.ndim == 2 and m.shape == (a.shape[0], b.shape[0]) and m.size > 0):
        raise ValueError(
            f"left has shape {a.shape}, right {b.shape} and gradient {m.shape}: they must be "
            "(m, r), (n, r) and (m, n). For several heads call it once a head."
        )
    if rate == 0.0:
        raise ValueError(
            "decay = 0: without decay there is no nuclear norm to certify; give λ > 0."
        )
    norm = float(np.sum(a**2) + np.sum(b**2))
    rest = math.hypot(
        float(np.linalg.norm(m @ b + rate * a)), float(np.linalg.norm(m.T @ a + rate * b))
    )
    w = a @ b.T
    u, s, vt = svd(w)
    rank = int(np.sum(s > max(atol, rtol * float(s[0]))))
    beyond = u[:, rank:].T @ m @ vt[rank:].T
    return Certificate(
        residual=rest / (rate * math.sqrt(norm)) if norm > 0 else 0.0,
        balance=float(np.linalg.norm(a.T @ a - b.T @ b, "nuc")) / norm if norm > 0 else 0.0,
        gap=float(gap(a, b)),
        dual=float(np.linalg.norm(beyond, 2)) / rate if beyond.size else 0.0,
        rank=rank,
        width=a.shape[1],
        full=min(w.shape),
        singular_values=s,
        norm=norm,
        slack=rate * float(np.sum(s)) + float(np.sum(m * w)),
        overshoot=max(float(np.linalg.norm(m, 2)) - rate, 0.0),
        decay=rate,
    )
