r"""Escape from small initialisation in finite time: when a' = Bc, B' = acᵀ, c' = Bᵀa blows up.

The flow of E = aᵀBc, three factors in a row from a start that leaves the origin: for attention
a = (vW_V)ᵀ, B = W^{[1]}, c = W^{[2]}, all divided by the initial scale ε (`theory.condensation`).
Paper: 2510.06954 (Chen, Luo, NeurIPS 2025).
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from .._arguments import Numbers
from ._rank_one import rank_one_blow_up
from ._reduced_flow import Garnier, Late, follow, reduced, speed_limit
from ._three_factors import chained, conserved, size_of

EPS = float(np.finfo(float).eps)
#: Relative tolerance of the integration.
RTOL = 1e-13
#: Growth of the weights at which the remaining time is E^{−1/3} to rounding.
FAR = 1e7


class BlowUpTime(float):
    """T* as a float, with `error`, the bar on it, and whether it is a closed form (`exact`)."""

    error: float
    exact: bool

    def __new__(cls, time: float, error: float, exact: bool) -> "BlowUpTime":
        self = super().__new__(cls, time)
        self.error, self.exact = error, exact
        return self

    def __getnewargs__(self):
        return float(self), self.error, self.exact


class BlowUpBounds(NamedTuple):
    """lower ≤ T* ≤ upper."""

    lower: float
    upper: float


def blow_up_time(a: Numbers, B: Numbers, c: Numbers) -> BlowUpTime:
    r"""The finite time T* at which a' = Bc, B' = acᵀ, c' = Bᵀa goes to infinity.

    E = aᵀBc obeys E' ≥ 3E^{4/3}, so that E → ∞ in finite time once it is positive, and it becomes
    so from almost every start. If a and c are along a pair of singular vectors of B (d = 1,
    balanced and rank-one starts among them), T* is the elliptic integral of `rank_one_blow_up`;
    otherwise the flow is followed until weights have grown by 1e7, and T* = t + E^{−1/3}.

    **Arguments:** `a`: (m,), `B`: (m, n), `c`: (n,). **Returns:** T* as a float, in the time of
    the equations above, with `.error` (by a second integration, ten times coarser and from a start
    that differs by rounding) and `.exact`, whether it is the closed form. For attention with
    weights divided by ε, T*/(εm) is flow time (`escape_time`). Weights times s blow up at T*/s.

    **Raises:** ValueError for shapes that do not chain, float32, data that are not finite, and
    where there is no blow-up: starts at rest, and starts on a stable manifold (E < 0 for ever,
    a → 0 or c → 0), as far as float64 can tell these from starts with a very late one.
    **Regime:** exact for the effective flow; the full model has a relative error O(ε).
    **Source:** 2510.06954, Theorem 1; the reduction and the estimate t + E^{−1/3} are derived.

    ```python
    T = blow_up_time([0.3, 1.0], [[1.0, 0.2], [-0.4, 0.5]], [0.1, 0.7])
    float(T), T.error           # T.exact: False
    ```
    """
    a, b, c, size = _start(a, B, c)
    chain = _aligned(a, b, c)
    if chain is not None:
        time = float(rank_one_blow_up(*(size * chain)))
        error = 16 * EPS * time
        if b.size > 1:  # rounding of the amplitudes matters where two of them nearly cancel
            turns = 8 * EPS * np.array([[0, 1, -1], [1, 0, -1], [1, -1, 0]])
            moved = [
                _chain_time(*(size * chain * (1 + s * turn))) for turn in turns for s in (1, -1)
            ]
            error += max(abs(t - time) for t in moved)
        return BlowUpTime(_determined(time, error), error, True)
    start = reduced(a, b, c)
    late = _followed(start, FAR, RTOL)
    time = late.estimate
    # the same more coarsely, from a start that differs by rounding
    again = _followed(start.nudged(8 * EPS), FAR, 10 * RTOL).estimate
    tail = time - late.time - speed_limit(late.square, late.difference, late.top)
    error = 2 * abs(time - again) + abs(tail) + 4 * RTOL * time
    return BlowUpTime(_determined(time, error) / size, error / size, False)


def blow_up_bounds(a: Numbers, B: Numbers, c: Numbers) -> BlowUpBounds:
    r"""R_F(N, N+D, N+λ) ≤ T* ≤ E^{−1/3}, with N = ‖a‖², N + D = ‖c‖², E = aᵀBc at the start.

    Below, N' = 2E ≤ 2√(N(N+D)(N+λ)), where λ is the largest eigenvalue of BBᵀ − aaᵀ (or, if less,
    that of BᵀB − ccᵀ, plus D) and R_F Carlson's integral. Above, E' ≥ 3E^{4/3}. **If E ≤ 0 nothing
    of the kind bounds T* from above**: the flow is followed until E is half of √(N(N+D)(N+λ)),
    and both bounds are those of that moment (where T* has a closed form, both are T*).

    **Arguments, errors:** as for `blow_up_time`. **Returns:** (lower, upper), equal for balanced
    starts, BBᵀ = aaᵀ and BᵀB = ccᵀ, with E > 0. Rounded outwards.
    **Source:** the upper bound is 2510.06954, Theorem 1; the lower is derived (the paper's needs
    its Assumption 1).

    ```python
    lower, upper = blow_up_bounds([1.3], [[0.4]], [0.9])        # T* = 1.1751
    ```
    """
    a, b, c, size = _start(a, B, c)
    shifts = _shifts(a, b, c)
    energy = float(a @ b @ c)
    if energy > 0:
        lower, upper = speed_limit(float(a @ a), *shifts), energy ** (-1 / 3)
        slack = 16 * EPS
    else:
        time = blow_up_time(a, b, c)
        slack = time.error / time
        lower = upper = float(time)
        if not time.exact:
            late = _followed(reduced(a, b, c), 0.0, RTOL)
            lower, upper = late.time + speed_limit(late.square, *shifts), late.estimate
    return BlowUpBounds(lower * (1 - slack) / size, upper * (1 + slack) / size)


def blow_up_limit(a: Numbers, B: Numbers, c: Numbers) -> "BlowUpLimit":
    r"""Directions at the blow-up: a/‖a‖ → p, c/‖c‖ → q, B/‖B‖ → pqᵀ.

    B condenses to rank one and W_V = vᵀaᵀ + frozen part to vᵀpᵀ (rows ±pᵀ, columns ±vᵀ). p and q
    depend on the whole start; they are not the top singular pair of B. With τ = T* − t → 0

        ‖a‖² = τ^{−2} − (D + ḡ)/3 + O(τ²),                     ḡ = pᵀGp,  G = BBᵀ − aaᵀ
        angle(a, p) = turn·τ² + O(τ³),                         turn = ½‖(G − ḡ)p‖
        stable rank of B − 1 = spread·τ² + O(τ³),              spread = tr G − ḡ.

    **Arguments, errors:** as for `blow_up_time`. **Returns:** a `BlowUpLimit`.
    **Regime:** exact at τ → 0; for unit Gaussian starts of width d the rates need τ ≪ 1/(2√d).
    **Source:** 2510.06954, Propositions 5 to 7 and Theorem 2 (under its Assumption 1); the rates
    are derived and need no assumption.

    ```python
    limit = blow_up_limit(a, B, c)
    np.outer(limit.left, limit.right)        # W1/‖W1‖ at the end of the first stage
    ```
    """
    time = blow_up_time(a, B, c)
    a, b, c = chained(a, B, c)
    size = size_of(a, b, c)
    flows = (a / size, b / size, c / size), (c / size, b.T / size, a / size)
    left, right = (_followed(reduced(*flow), FAR, RTOL) for flow in flows)
    for late in (left, right):
        _determined(float(time), abs(late.estimate / size - float(time)))
    p, laws = left.direction, conserved(a, b, c)
    mean = float(p @ laws.left @ p)
    turn = 0.5 * float(np.linalg.norm(laws.left @ p - mean * p))
    return BlowUpLimit(time, p, right.direction, mean, turn, float(np.trace(laws.left)) - mean)


class BlowUpLimit(NamedTuple):
    """T*, p (`left`), q (`right`), ḡ (`mean`), and the coefficients `turn`, `spread` of τ²."""

    time: BlowUpTime
    left: Float[np.ndarray, " m"]
    right: Float[np.ndarray, " n"]
    mean: float
    turn: float
    spread: float


def _start(a, b, c) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """The start over its size, and that; refuses rest points.

    a and c change places where ‖a‖ > ‖c‖, as the smaller one may nearly vanish on its way, and
    that would be lost in the orbit of the larger.
    """
    a, b, c = chained(a, b, c)
    if not (np.any(b @ c) or np.any(b.T @ a) or (np.any(a) and np.any(c))):
        norms = ", ".join(f"{np.linalg.norm(x):g}" for x in (a, b, c))
        raise ValueError(
            f"The start never blows up (T* = ∞): it is at rest, Bc = 0, Bᵀa = 0 and acᵀ = 0, with "
            f"‖a‖, ‖B‖, ‖c‖ = {norms}. Give a start of which two factors do not vanish."
        )
    if np.linalg.norm(a) > np.linalg.norm(c):
        a, b, c = c, b.T, a
    size = size_of(a, b, c)
    return a / size, b / size, c / size, size


def _aligned(a, b, c) -> np.ndarray | None:
    """(α, β, γ) if a = αp, c = γq with Bq = βp and Bᵀp = βq; the rest of B then stands still."""
    p, q = _unit(a if np.any(a) else b @ c), _unit(c if np.any(c) else b.T @ a)
    beta = float(p @ b @ q)
    off = max(np.linalg.norm(b @ q - beta * p), np.linalg.norm(b.T @ p - beta * q))
    if off > 16 * EPS * np.linalg.norm(b):
        return None
    return np.array([p @ a, beta, q @ c])


def _unit(x: np.ndarray) -> np.ndarray:
    x = x / np.max(np.abs(x))  # squares of tiny entries would vanish
    return x / np.linalg.norm(x)


def _chain_time(*chain: float) -> float:
    try:
        return float(rank_one_blow_up(*chain))
    except ValueError:
        return math.inf


def _shifts(a, b, c) -> tuple[float, float]:
    """D and the least λ with ‖B‖² ≤ N + λ in operator norm."""
    difference = float(c @ c - a @ a)
    left = np.linalg.eigvalsh(b @ b.T - np.outer(a, a))[-1]
    right = np.linalg.eigvalsh(b.T @ b - np.outer(c, c))[-1]
    return difference, float(min(left, right + difference))


def _followed(start: Garnier, growth: float, rtol: float) -> Late:
    """The orbit of a once weights have grown and E is more than half of its largest."""
    late = follow(start, lambda late: late.growth >= growth and late.cosine >= 0.5, rtol)
    if late is None:
        raise _undetermined("the orbit stays near a rest point")
    return late


def _determined(time: float, error: float) -> float:
    if not error <= 1e-3 * time:
        raise _undetermined(f"rounding alone moves T* by a share {error / time:.2g} of itself")
    return time


def _undetermined(what: str) -> ValueError:
    return ValueError(
        f"No blow-up can be found from this start: {what}. E = aᵀBc < 0 and the start is, to "
        "float64, on a stable manifold, where a → 0 or c → 0 and T* = ∞ (degenerate in the sense "
        "of Definition 4 of 2510.06954; random starts are not). Perturb a, B or c."
    )
