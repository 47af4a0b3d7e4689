r"""The matrix Riccati flow Q' = FQ − ½QQᵀQ with symmetric F, solved for every t and t = ∞.

With F = O diag(f) Oᵀ and A = OᵀQ(0) the solution is, up to a rotation Q ↦ QR of its columns,

    QQᵀ(t) = O E A (I + AᵀKA)⁻¹ AᵀE Oᵀ,   E = diag e^{ft},   K = ∫₀ᵗ diag e^{2fu} du.

As printed it overflows, and long before that I + AᵀKA is singular to rounding. But EK^{-½}
stays bounded, and K^{½}A(I + AᵀKA)^{-½} is a block of an orthonormal matrix. So

    QQᵀ(t) = O D Z₂Z₂ᵀ D Oᵀ,   D² = 2f/(1 − e^{−2ft}),   [Z₁; Z₂] an orthonormal basis of
                                                        the range of [I; K^{½}A],

which may be computed from any multiples of the columns. Two facts make this safe for every t:
a rotation of the columns gives A leading zeros, one growth rate a column, so that they can be
scaled apart; and Householder QR with pivoted columns and rows sorted by their true size is
backward stable row by row (Cox & Higham 1998), that is, as good as rounding the rows of A.
"""

import dataclasses
import itertools

import numpy as np
from jaxtyping import Float
from scipy import linalg

from gflow.internal import svd

_EPS = float(np.finfo(float).eps)
#: Columns further apart than e to this are as good as orthogonal to each other's leading rows.
_RANGE = 300.0


@dataclasses.dataclass(frozen=True, eq=False)
class Riccati:
    """One flow Q' = FQ − ½QQᵀQ, ready to be evaluated: see `solve`.

    `rates` f, descending; `basis` O; `start` Q(0); `coefficients`: OᵀQ(0) with its columns
    rotated so that column j is zero for all rates larger than the one that leads it.
    `limit`: a matrix whose Gram matrix is QQᵀ(∞).
    """

    rates: Float[np.ndarray, " n"]
    basis: Float[np.ndarray, "n n"]
    start: Float[np.ndarray, "n h"]
    coefficients: Float[np.ndarray, "n h"]
    limit: Float[np.ndarray, "n h"]

    def factor(self, t: Float[np.ndarray, "*t"]) -> Float[np.ndarray, "*t n h"]:
        """X with XXᵀ = QQᵀ(t), that is Q(t) up to a rotation; Q(0) itself at t = 0."""
        rows = [self._at(float(time)) for time in t.ravel()]
        return np.stack(rows).reshape(*t.shape, *self.start.shape) if rows else self._empty(t)

    def _empty(self, t: np.ndarray) -> np.ndarray:
        return np.zeros((*t.shape, *self.start.shape))

    def _at(self, t: float) -> np.ndarray:
        if t == 0.0:
            return self.start
        if np.isinf(t):
            return self.limit
        f, c = self.rates, self.coefficients
        h = c.shape[1]
        half = 0.5 * _log_integral(f, t)[:, None]
        with np.errstate(divide="ignore"):
            logs = np.log(np.abs(c)) + half
        columns = np.max(logs, axis=0, initial=0.0)
        rows = np.concatenate([np.zeros(h), np.max(logs, axis=1, initial=-np.inf)])
        # multiples of the columns that keep the order of their sizes, within float64's range
        scale = columns - np.maximum(columns - np.max(columns), -_RANGE)
        present = c != 0
        block = np.where(present, c * np.exp(np.where(present, half - scale, 0.0)), 0.0)
        stacked = np.concatenate([np.diag(np.exp(-scale)), block])
        order = np.argsort(-rows, kind="stable")
        sorted_basis = linalg.qr(stacked[order], mode="economic", pivoting=True)[0]
        z = np.empty_like(stacked)
        z[order] = sorted_basis
        return self.basis @ (np.sqrt(_square_ratio(f, t))[:, None] * z[h:])


def solve(
    rates: Float[np.ndarray, " n"],
    basis: Float[np.ndarray, "n n"],
    start: Float[np.ndarray, "n h"],
) -> Riccati:
    """The flow from `start` = Q(0) with F = basis @ diag(rates) @ basis.T.

    Components of the start within its rounding error (1e-13 or so of its size, more where the
    leading ones are small) are taken as absent: a start on the stable manifold of a saddle
    then stays on it, where every integrator is carried off by rounding after a time of about
    log(1/ε)/rate.
    """
    order = np.argsort(-rates, kind="stable")
    rates, basis = rates[order], basis[:, order]
    n, h = start.shape
    coefficients = basis.T @ start
    # rounding of the coefficients, and the angle by which it turns the columns still free
    noise = 16.0 * _EPS * (np.abs(basis).T @ np.abs(start))
    angle = 0.0
    free = np.eye(h)  # columns that no rate leads yet
    led: list[np.ndarray] = []
    ends: list[tuple[slice, int]] = []
    limit: list[np.ndarray] = []
    count = 0
    for group in _equal(rates):
        u, s, vt = svd(coefficients[group] @ free)
        local = float(np.linalg.norm(noise[group] @ np.abs(free)))
        rank = int(np.sum(s > local + angle * np.linalg.norm(coefficients[group])))
        angle += local / s[rank - 1] if rank else 0.0
        free = free @ vt.T
        led.append(free[:, :rank])
        free = free[:, rank:]
        count += rank
        ends.append((group, count))
        growth = max(float(np.mean(rates[group])), 0.0)
        limit.append(np.sqrt(2.0 * growth) * basis[:, group] @ u[:, :rank])
        if count == h:
            break
    coefficients = coefficients @ np.concatenate([*led, free], axis=1)
    for group, end in ends:
        coefficients[group, end:] = 0.0
    at_rest = np.concatenate([*limit, np.zeros((n, h - count))], axis=1)
    return Riccati(rates, basis, start, coefficients, at_rest)


def _equal(rates: np.ndarray) -> list[slice]:
    """Runs of equal (to rounding) entries of a descending array."""
    gap = 8.0 * len(rates) * _EPS * np.max(np.abs(rates), initial=0.0)
    edges = np.flatnonzero(-np.diff(rates) > gap) + 1
    bounds = [0, *(int(i) for i in edges), len(rates)]
    return [slice(a, b) for a, b in itertools.pairwise(bounds)]


def _log_integral(f: np.ndarray, t: float) -> np.ndarray:
    """log ∫₀ᵗ e^{2fu} du = log t + log((eˣ − 1)/x), x = 2ft."""
    x = 2.0 * f * t
    size = np.where(x == 0.0, 1.0, np.abs(x))
    mean = np.where(x == 0.0, 1.0, -np.expm1(-size) / size)
    return np.log(t) + np.maximum(x, 0.0) + np.log(mean)


def _square_ratio(f: np.ndarray, t: float) -> np.ndarray:
    """D² = e^{2ft}/∫₀ᵗ e^{2fu} du = 2f/(1 − e^{−2ft}), 1/t where f = 0."""
    x = 2.0 * f * t
    safe = np.where(x == 0.0, 1.0, x)
    with np.errstate(over="ignore"):
        return np.where(x == 0.0, 1.0, safe / -np.expm1(-safe)) / t


def coupled_spectrum(
    target: Float[np.ndarray, "o i"], balance: float, decay: float
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, "n n"]]:
    """Eigenvalues and eigenvectors of F = [[−λ/2, Σᵀ], [Σ, λ/2]] − γ, from the SVD of Σ.

    They are ±sqrt(s² + λ²/4) − γ on the planes of the singular pairs, and sgn(o − i)·λ/2 − γ
    on what the larger side has over. In this way zeros are exact and pairs exactly opposite.
    """
    o, i = target.shape
    u, s, vt = svd(target)
    m, half = len(s), 0.5 * balance
    k = np.hypot(s, half)
    # (a, b) on (v, u), without cancellation for either sign of λ
    a, b = (s, k + half) if balance >= 0 else (k - half, s)
    norm = np.hypot(a, b)
    still = norm == 0.0  # s = λ = 0: any basis of the plane
    a, b = (np.where(still, np.sqrt(0.5), x / np.where(still, 1.0, norm)) for x in (a, b))
    v, u1 = vt[:m].T, u[:, :m]
    up = np.concatenate([a * v, b * u1])
    down = np.concatenate([b * v, -a * u1])
    over_in = np.concatenate([vt[m:].T, np.zeros((o, i - m))])
    over_out = np.concatenate([np.zeros((i, o - m)), u[:, m:]])
    rates = np.concatenate([k, -k, np.full(i - m, -half), np.full(o - m, half)]) - decay
    return rates, np.concatenate([up, down, over_in, over_out], axis=1)
