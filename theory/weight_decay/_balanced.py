r"""Two factors under weight decay towards a matrix D: the way there, solved.

    A' = −MB − λA,   B' = −MᵀA − λB,   M = ∇L(ABᵀ)

with W = ABᵀ, A: (m, r), B: (n, r), for L = ½‖W − D‖² (`loss="half"`, M = W − D) or
L = ‖W − D‖² (`loss="full"`, M = 2(W − D)). **They differ by a factor 2 in two places**: "full"
at decay λ and time t is exactly "half" at decay λ/2 and time 2t. So a singular value d of D
survives decay when d > λ ("half") or d > λ/2 ("full").

Papers: 2410.23819 (Kobayashi, Akram, von Oswald 2024; its Fig. 1 has loss="full"); the Riccati
flow as in `theory.exact_linear`.
"""

import difflib

import numpy as np
from jaxtyping import Float

from .. import exact_linear
from .._arguments import Numbers, real_array, times
from ..exact_linear._modes import aligned_mode, mode_time
from ..exact_linear._two_layer import BALANCE_TOLERANCE

#: How many times faster than ½‖W − D‖² a loss moves, and how many times less decay hurts it.
SPEEDS = {"half": 1.0, "full": 2.0}


def speed(loss: str) -> float:
    """1 for "half" (½‖W − D‖²), 2 for "full" (‖W − D‖²)."""
    if loss not in SPEEDS:
        near = difflib.get_close_matches(str(loss), SPEEDS, n=1, cutoff=0.4)
        hint = f' Did you mean "{near[0]}"?' if near else ""
        raise ValueError(
            f'loss = {loss!r}: write "half" for ½‖W − D‖² or "full" for ‖W − D‖². Thresholds '
            f"differ by a factor 2 between them.{hint}"
        )
    return SPEEDS[loss]


def decays(decay: Numbers) -> Float[np.ndarray, "..."]:
    """Decay rates: float64, finite, λ ≥ 0."""
    array = real_array(decay, "decay")
    if np.any(array < 0.0):
        raise ValueError(
            f"decay contains {array[array < 0.0].ravel()[0]}: λ of (λ/2)(‖A‖² + ‖B‖²) is ≥ 0."
        )
    return array


def one_decay(decay: Numbers) -> float:
    """`decays` for one number."""
    rate = decays(decay)
    if rate.ndim:
        raise ValueError(f"decay has shape {rate.shape}: give one number here.")
    return float(rate)


def factor_pair(left: Numbers, right: Numbers) -> tuple[np.ndarray, np.ndarray]:
    """A: (..., m, r) and B: (..., n, r) as float64, or what is wrong with their shapes."""
    a, b = real_array(left, "left"), real_array(right, "right")
    fits = a.ndim >= 2 and b.ndim >= 2 and a.shape[-1] == b.shape[-1] and a.shape[-1] > 0
    if not (fits and a.shape[:-2] == b.shape[:-2]):
        raise ValueError(
            f"left has shape {a.shape} and right {b.shape}: they must be (..., m, r) and "
            "(..., n, r) with W = left @ right.T, that is, equal last (hidden) axes and equal "
            "leading axes. A weight stored as (r, m) enters transposed."
        )
    return a, b


def balanced_mode(
    s0: Numbers, d: Numbers, t: Numbers, decay: Numbers = 0.0, loss: str = "half"
) -> Float[np.ndarray, "..."]:
    r"""Singular value s(t) of W in a mode that is aligned and balanced, under decay.

    With κ = d − λ, s' = 2s(κ − s) and (loss="half")

        s(t) = κ / (1 + (κ/s₀ − 1)e^{−2κt});   s₀/(1 + 2s₀t) for the tie κ = 0;

    for κ < 0 the first form still holds and dies as e^{−2|κ|t}. loss="full": κ = d − λ/2 and
    the clock runs twice as fast.

    **Arguments:** `s0 ≥ 0`; `d` of any sign, the mode's value in D; flow time `t ≥ 0`, ∞
    included; `decay` λ ≥ 0. They broadcast.

    **Raises:** ValueError for signs, an unknown loss, float32, data that are not finite.
    **Regime:** exact, for starts diagonal in the singular bases of D with AᵀA = BᵀB. What
    becomes of d − λ is the mode of `theory.exact_linear.aligned_mode`.
    **Source:** the loss of 2410.23819, Fig. 1; Saxe et al. 2014 for λ = 0.

    ```python
    balanced_mode(0.1, 0.4, [1.0, math.inf], decay=0.4)      # a tie: 0.1/1.2, 0
    ```
    """
    start, kappa, clock = _mode(s0, d, decay, loss)
    root = np.sqrt(start)
    return np.asarray(aligned_mode(root, root, kappa, clock * times(t)).product)


def half_time(
    s0: Numbers, d: Numbers, decay: Numbers = 0.0, loss: str = "half"
) -> Float[np.ndarray, "..."]:
    r"""When `balanced_mode` is half way: at κ/2 if it grows, at s₀/2 if it dies (κ ≤ 0).

        κ > 0: ln(κ/s₀ − 1)/(2κ), 0 where it starts above κ/2, ∞ where it starts at 0
        κ < 0: ln(1 + |κ|/(|κ| + s₀))/(2|κ|);   κ = 0: 1/(2s₀)

    (loss="half"; with "full" κ = d − λ/2 and half the time.) Arguments and errors as for
    `balanced_mode`.

    ```python
    half_time(1e-6, 1.0, decay=0.25)          # ln(0.75e6 − 1)/1.5
    ```
    """
    start, kappa, clock = np.broadcast_arrays(*_mode(s0, d, decay, loss))
    grows, starts = kappa > 0, start > 0
    climbing = grows & starts & (start < 0.5 * kappa)
    target = np.where(grows, kappa, 1.0)
    with np.errstate(divide="ignore"):
        rise = mode_time(np.where(climbing, start, 0.5 * target), 0.5 * target, target)
        size = np.where(kappa < 0, -kappa, 1.0)
        death = np.where(kappa < 0, np.log1p(size / (size + start)) / (2.0 * size), 0.5 / start)
    return np.asarray(np.where(grows, np.where(starts, rise, np.inf), death) / clock)


def balanced(
    left: Numbers,
    right: Numbers,
    target: Numbers,
    decay: Numbers,
    t: Numbers,
    loss: str = "half",
) -> Float[np.ndarray, "*t m n"]:
    r"""W(t) = ABᵀ from any balanced start, AᵀA = BᵀB: any shapes, ranks and directions.

    It is `theory.exact_linear.two_layer` with W₁ = Bᵀ, W₂ = A: a Riccati flow of [B; A] with
    F = [[−λ, Dᵀ], [D, −λ]] (loss="half"; λ/2 and 2t for "full").

    **Arguments:** `left` A: (m, r), `right` B: (n, r), `target` D: (m, n), `decay` λ ≥ 0;
    `t ≥ 0` of any shape, ∞ included. **Returns:** t.shape + (m, n).

    **Raises:** ValueError for shapes that do not chain, AᵀA ≠ BᵀB, t or λ < 0, float32.
    **Regime:** exact. Starts with AᵀA − BᵀB = g₀I: see `unbalanced`.
    **Source:** Fukumizu 1998; Braun et al. 2022, with decay added.

    ```python
    balanced(a, b, target, 0.1, math.inf)     # soft_threshold(target, 0.1, rank=r), mostly
    ```
    """
    a, b, d = problem(left, right, target)
    rate, clock = one_decay(decay), speed(loss)
    g0 = isotropic(a, b)
    if g0 != 0.0:
        raise ValueError(
            f"left.T @ left − right.T @ right = g₀I with g₀ = {g0:.6g}: the start is not "
            "balanced. Use theory.weight_decay.unbalanced, which takes any g₀."
        )
    return exact_linear.two_layer(b.T, a, d, clock * times(t), rate / clock)


def _mode(s0, d, decay, loss) -> tuple[np.ndarray, np.ndarray, float]:
    """s₀, κ and the clock of a mode of ½‖W − D‖²."""
    start, clock = real_array(s0, "s0"), speed(loss)
    if np.any(start < 0):
        raise ValueError(
            f"s0 contains {start[start < 0].ravel()[0]}: a balanced mode has s₀ ≥ 0. Change the "
            "sign of its singular vector, and of d."
        )
    return start, np.asarray(real_array(d, "d") - decays(decay) / clock), clock


def problem(left, right, target) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A, B and D as arrays whose shapes chain."""
    a, b = factor_pair(left, right)
    d = real_array(target, "target")
    if not (a.ndim == 2 and d.shape == (a.shape[0], b.shape[0]) and d.size > 0):
        raise ValueError(
            f"left has shape {a.shape}, right {b.shape} and target {d.shape}: they must be "
            "(m, r), (n, r) and (m, n)."
        )
    return a, b, d


def isotropic(a: np.ndarray, b: np.ndarray) -> float:
    """g₀ of AᵀA − BᵀB = g₀I; refuses any other start."""
    g = a.T @ a - b.T @ b
    size = float(np.sum(a**2) + np.sum(b**2))
    g0 = float(np.trace(g)) / g.shape[0]
    deviation = float(np.linalg.norm(g - g0 * np.eye(g.shape[0])))
    if deviation > BALANCE_TOLERANCE * size:
        raise ValueError(
            f"With G = left.T @ left − right.T @ right and g₀ = tr G/r = {g0:.6g}, ‖G − g₀I‖ = "
            f"{deviation:.3g}, where ‖A‖² + ‖B‖² = {size:.3g}: the time-course is known for "
            "G = g₀I only. Make such a start with theory.exact_linear.balanced_start "
            "(w1 = right.T, w2 = left), or integrate this one with gflow.simulate."
        )
    return 0.0 if abs(g0) <= BALANCE_TOLERANCE * size else g0
