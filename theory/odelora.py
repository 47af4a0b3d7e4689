r"""LoRA along the projected flow of the full matrix (ODELoRA, 2602.07479), solved.

The factors of W = BA follow not their own gradients but a velocity under which W moves as a matrix
of rank r would under full fine-tuning (`gflow.velocity.Tangent`): with 𝒢 = ∂L/∂W and the
projections P_B, P_A on the columns of B and the rows of A,

    W' = −(P_B 𝒢 + 𝒢 P_A − P_B 𝒢 P_A).

Here L = ½‖W − M‖². Every mode of the target is learned at rate 1, whatever its size and however
small the start, where the gradient flow of the factors climbs one rank at a time.

The closed forms are this project's, for the flow that the abstract of the paper describes; its
text could not be read.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from gflow.internal import svd

from ._arguments import Numbers, real_array, times

__all__ = ["RankOne", "aligned", "euler_mode", "half_times", "rank_one", "small_start"]


def __dir__() -> list[str]:
    return __all__


#: Nodes of a quadrature over a piece in which nothing grows by more than e.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(24)

#: Pieces in which a start without any part along a growing direction is given up.
_PIECES = 20_000


class RankOne(NamedTuple):
    """W, its singular value, and the time ρ on the clock of the gradient flow of the factors."""

    weight: Float[np.ndarray, "... m n"]
    size: Float[np.ndarray, "..."]
    clock: Float[np.ndarray, "..."]


def aligned(target_values: Numbers, start_values: Numbers, t: Numbers) -> Float[np.ndarray, "..."]:
    r"""Singular values s_i(t) = d_i + (s_i0 − d_i)e^{−t} of a start on the singular vectors of M.

    **Arguments:** `target_values` d_i and `start_values` s_i0 > 0, one for all or one a mode; flow
    time `t ≥ 0` (unit learning rate), ∞ included. **Returns:** modes last, the axes of t first.

    **Raises:** ValueError for a start that is not positive (BA then has no tangent space of its
    rank), negative targets, t < 0.
    **Regime:** exact. **Source:** derived; beside `theory.exact_linear.mode_strength`, which is
    what the gradient flow of balanced factors does.

    ```python
    aligned([4.0, 1.0, 0.25], 1e-3, 1.0)           # 2.52885, 0.63249, 0.15840: all at once
    ```
    """
    target, start = np.broadcast_arrays(*_modes(target_values, start_values))
    left = np.exp(-times(t))
    left = np.reshape(left, (*left.shape, *[1] * target.ndim))
    return np.asarray(target * (1.0 - left) + start * left)


def half_times(target_values: Numbers, start_values: Numbers) -> Float[np.ndarray, " modes"]:
    r"""When each mode of `aligned` is at half of its target: ln(2(d − s₀)/d), ln 2 from s₀ → 0.

    **Raises:** ValueError as `aligned`, and for a mode that starts beyond half.

    ```python
    half_times([4.0, 1.0, 0.25], 1e-3)             # 0.69290, 0.69215, 0.68914
    ```
    """
    target, start = np.broadcast_arrays(*_modes(target_values, start_values))
    if np.any(start >= 0.5 * target):
        raise ValueError(
            f"start_values = {start} of targets {target}: a mode that starts at half of its target "
            "and more does not pass it."
        )
    return np.log(2.0 * (target - start) / target)


def rank_one(target: Numbers, u: Numbers, v: Numbers, size: float, t: Numbers) -> RankOne:
    r"""A matrix of rank one, W(0) = size·u vᵀ, under any target M (m, n), at any time.

    On the clock dρ = dt/s its directions are those of the gradient flow of balanced factors: with
    F = [[0, M], [Mᵀ, 0]], [a; b](ρ) = e^{Fρ}[u; v] and N = ‖a‖,

        t = ln(1 + s₀∫₀^ρ N),   s = s₀ N e^{−t},   W = s a bᵀ/N².

    (There ρ = t and s = s₀N²/(1 + 2s₀∫₀^t N²).) From s₀ → 0 it becomes σ₁(1 − e^{−t})u₁v₁ᵀ.

    **Arguments:** directions `u` (m,) and `v` (n,) of any length; `size` s₀ > 0; times `t ≥ 0`,
    finite, of any shape, which leads in what is returned.

    **Returns:** a named tuple (weight, size, clock ρ).
    **Raises:** ValueError for shapes, directions of zero, s₀ ≤ 0, and a start that has no part
    along a direction that grows, so that W would pass through zero.
    **Regime:** exact. **Source:** derived (module docstring).

    ```python
    rank_one(np.diag([2.0, 1.0]), [1.0, 1.0], [1.0, 2.0], 1e-2, 1.0).size
    ```
    """
    m, (a, b) = _problem(target, u, v)
    if not (size > 0.0 and math.isfinite(size)):
        raise ValueError(f"size = {size}: the singular value that W starts with is positive.")
    when = times(t)
    if not np.all(np.isfinite(when)):
        raise ValueError("t contains ∞: at rest W is σ₁u₁v₁ᵀ. Give finite times.")
    course = _Course(m, a, b)
    found = [course.at(x, math.log(size)) for x in when.ravel()]
    weights, sizes, clocks = (np.array(x) for x in zip(*found, strict=True))
    return RankOne(
        weights.reshape(*when.shape, *m.shape),
        sizes.reshape(when.shape),
        clocks.reshape(when.shape),
    )


def small_start(target: Numbers, rank: int, t: Numbers) -> Float[np.ndarray, "... m n"]:
    r"""(1 − e^{−t}) × the best approximation of M of this rank: W(t) from a generic start → 0.

    **Regime:** checked numerically, not proven: what is left of a start s₀ falls like
    s₀^{1 − σ_{r+1}/σ_r}, the share of the next direction on the clock of `rank_one`.
    **Raises:** ValueError for a rank that is none of M's and for a tie at the cut.

    ```python
    small_start(np.diag([3.0, 2.0, 1.0]), 2, 0.5)
    ```
    """
    m = _matrix(target)
    left, values, right = svd(m, full_matrices=False)
    if not 1 <= rank <= len(values):
        raise ValueError(f"rank = {rank}: between 1 and {len(values)}, those of {m.shape}.")
    if rank < len(values) and not values[rank - 1] > values[rank] * (1.0 + 1e-12):
        raise ValueError(
            f"Singular values {rank} and {rank + 1} of the target are equal ({values[rank]:.6g}): "
            "which of the two directions is learned depends on the start."
        )
    best = (left[:, :rank] * values[:rank]) @ right[:rank]
    return np.asarray(-np.expm1(-times(t))[..., None, None] * best)


def euler_mode(
    target: Numbers, start: Numbers, step: float, count: int
) -> Float[np.ndarray, " steps *modes"]:
    r"""Aligned modes under Euler steps on the factors: s₀, and s after each of `count` steps.

        s⁺ = s + η(d − s) + η²(d − s)²/(4s)

    The last term is the price of the factors: at s ≪ ηd it throws the mode to η²d²/(4s), so that
    the first steps need η ≲ 2s/d. From s₀ = α² that is O(α²), however well the flow behaves.

    **Raises:** ValueError for s₀ ≤ 0, a target below 0, steps that are not positive.
    **Regime:** exact. **Source:** derived (module docstring).

    ```python
    euler_mode(1.0, 1e-3, 0.1, 3)                  # 0.001, 2.596, …: the first step overshoots
    ```
    """
    d, s = np.broadcast_arrays(*_modes(target, start))
    if not (step > 0.0 and math.isfinite(step)) or count < 0 or count != int(count):
        raise ValueError(f"step = {step}, count = {count}: a positive step, and how many of them.")
    path = [s]
    for _ in range(int(count)):
        left = step * (d - s)
        s = s + left + left**2 / (4.0 * s)
        path.append(s)
    return np.array(path)


class _Course:
    """[a; b](ρ) = e^{Fρ}[u; v] over e^{σ₁ρ}, and the logarithm of ∫N, piece by piece."""

    def __init__(self, m: np.ndarray, a: np.ndarray, b: np.ndarray):
        self.rows = len(a)
        square = np.zeros((sum(m.shape),) * 2)
        square[: self.rows, self.rows :] = m
        self.rates, self.basis = np.linalg.eigh(square + square.T)
        self.parts = self.basis.T @ np.concatenate([a, b])
        self.top = max(float(self.rates[-1]), 1e-300)
        self.log_integrals = [-math.inf]
        self.width = 1.0 / self.top

    def directions(self, rho: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """[a; b]e^{−σ₁ρ} and log N at times ρ."""
        scaled = np.exp((self.rates - self.top) * rho[..., None]) * self.parts
        both = scaled @ self.basis.T
        with np.errstate(divide="ignore"):
            log_norm = np.log(np.linalg.norm(both[..., : self.rows], axis=-1)) + self.top * rho
        return both, np.asarray(log_norm)

    def _log_piece(self, start: float, width: float) -> float:
        rho = start + 0.5 * width * (1.0 + _NODES)
        _, log_norm = self.directions(rho)
        return float(np.logaddexp.reduce(log_norm + np.log(0.5 * width * _WEIGHTS)))

    def at(self, t: float, log_size: float) -> tuple[np.ndarray, float, float]:
        wanted = -math.inf if t == 0.0 else math.log(-math.expm1(-t)) + t - log_size
        rho = self._clock(wanted)
        both, log_norm = self.directions(np.array(rho))
        a, b = both[: self.rows], both[self.rows :]
        size = math.exp(log_size + float(log_norm) - t)
        return size * np.outer(a / np.linalg.norm(a), b / np.linalg.norm(b)), size, rho

    def _clock(self, wanted: float) -> float:
        """ρ at which log ∫₀^ρ N is so much."""
        found, width = self.log_integrals, self.width
        while found[-1] < wanted:
            start = (len(found) - 1) * width
            if len(found) > _PIECES:
                raise ValueError(
                    "W reaches zero before the last of these times: u and v have no part along a "
                    "direction that M lets grow, such as −v along one that does. Where W is zero "
                    "its tangent space is not defined."
                )
            found.append(float(np.logaddexp(found[-1], self._log_piece(start, width))))
        k = int(np.searchsorted(found, wanted))
        if k == 0:
            return 0.0
        start, before = (k - 1) * width, found[k - 1]
        rho = start + 0.5 * width
        low, high = start, start + width
        for _ in range(60):  # Newton's method within the piece
            here = np.logaddexp(before, self._log_piece(start, rho - start))
            _, log_norm = self.directions(np.array(rho))
            low, high = (rho, high) if here < wanted else (low, rho)
            new = rho - (here - wanted) * math.exp(here - float(log_norm))
            new = new if low < new < high else 0.5 * (low + high)
            if abs(new - rho) <= 4.0 * np.spacing(high):
                return float(new)
            rho = new
        return float(rho)


def _modes(target: Numbers, start: Numbers) -> tuple[np.ndarray, np.ndarray]:
    d, s = real_array(target, "target_values"), real_array(start, "start_values")
    if np.any(s <= 0.0) or np.any(d < 0.0):
        raise ValueError(
            f"target_values = {d}, start_values = {s}: singular values of the target are ≥ 0, and "
            "those of the start positive: at zero the mode is not in BA."
        )
    return d, s


def _matrix(target: Numbers) -> np.ndarray:
    m = real_array(target, "target")
    if m.ndim != 2:
        raise ValueError(f"target has shape {m.shape}: give a matrix (m, n).")
    return m


def _problem(target: Numbers, u: Numbers, v: Numbers) -> tuple[np.ndarray, list[np.ndarray]]:
    m, ends = _matrix(target), []
    for name, x, length in (("u", u, m.shape[0]), ("v", v, m.shape[1])):
        x = real_array(x, name)
        if x.shape != (length,) or not np.linalg.norm(x) > 0.0:
            raise ValueError(
                f"{name} has shape {x.shape}: a direction of shape ({length},), which is not zero, "
                f"for a target of shape {m.shape}."
            )
        ends.append(x / np.linalg.norm(x))
    return m, ends
