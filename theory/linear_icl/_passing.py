r"""What a drop does to the heads that stay dormant, beside ending the growth in its direction.

While head w becomes live in direction 1, it has ρ = O(ε^{1−λ_j²/λ₁²}) of the other directions j,
and X = Λ² − E[ββᵀ]MΛ has entries X_1j, X_j1 until these have died out. Every dormant head is turned
by their integrals: a part O(ε) of it, which moves its T = O(1/ε) by O(ρ).
"""

from typing import NamedTuple

import numpy as np
from scipy.integrate import solve_ivp

from ._clocks import Heads, at_time
from ._problem import Problem, Spectrum

#: Times of a drop that the live head is followed before and after its blow-up time.
_BEFORE, _AFTER = 200.0, 30.0


class Turn(NamedTuple):
    """∫X_1j dt and ∫X_j1 dt of the directions still to come, and `acted` = ∫X_11 dt/λ₁².

    `share`: ρ, how much the head has of other directions when it becomes live.
    """

    row: Spectrum
    column: Spectrum
    acted: float
    share: float


def turn(
    winner: Heads, force: Spectrum, found: Problem, direction: int, left: float, unit: float
) -> Turn:
    """Of the drop by `winner` (one head), whose blow-up is a time `left` ahead."""
    ahead = min(_BEFORE * unit, 0.9 * left)
    start = at_time(winner, force, left - ahead)
    live = np.flatnonzero(force)
    d, one = live.size, int(np.flatnonzero(live == direction)[0])
    lam, second, x0 = found.eigenvalues[live], found.second[live], np.diag(force[live])

    def velocity(_, y):
        v, k, q = y[0], y[1 : d + 1], y[d + 1 : 2 * d + 1]
        x = x0 - v * np.outer(second * k, q * lam)
        kx, xq = k @ x, x @ q
        return np.concatenate([[k @ xq], v * xq, v * kx, x[one], x[:, one]])

    zero = np.zeros(d)
    begun = np.concatenate([start.v, start.k[0, live, 0], start.q[0, live, 0], zero, zero])
    last = ahead + _AFTER * unit
    live_at, y = solve_ivp(
        velocity, (0.0, last), begun, "DOP853", t_eval=[ahead, last], rtol=1e-10, atol=1e-14
    ).y.T
    v, k, q, row, column = y[0], *np.split(y[1:], 4)
    each = live_at[1 : 2 * d + 1].reshape(2, d)
    share = np.linalg.norm(np.delete(each, one, axis=1)) / np.linalg.norm(each[:, one])
    # what is left of the other directions then dies out linearly
    for j in np.delete(np.arange(d), one):
        at_row, at_column = second[one] * lam[j] * v * k[one], second[j] * lam[one] * v * q[one]
        rates = np.array([[-at_column * v * q[one], v * force[live[j]]],
                          [v * force[live[j]], -at_row * v * k[one]]])  # fmt: skip
        rest = -np.linalg.solve(rates, np.array([k[j], q[j]]))
        row[j] -= at_row * rest[1]
        column[j] -= at_column * rest[0]
    acted = left - ahead + float(row[one]) / force[direction]
    row[one] = column[one] = 0.0
    out = Turn(np.zeros_like(force), np.zeros_like(force), acted, float(share))
    out.row[live], out.column[live] = row, column
    return out


def turned(heads: Heads, by: Turn, direction: int) -> Heads:
    """Dormant heads of rank one after the drop."""
    k, q = heads.k[:, :, 0], heads.q[:, :, 0]
    k1, q1 = k[:, direction, None], q[:, direction, None]
    v = heads.v + np.sum(k1 * q * by.row + k * q1 * by.column, axis=1)
    grown_k, grown_q = k + heads.v[:, None] * q1 * by.column, q + heads.v[:, None] * k1 * by.row
    return Heads(v, grown_k[:, :, None], grown_q[:, :, None])
