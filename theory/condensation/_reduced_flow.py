r"""The flow a' = Bc, B' = acᵀ, c' = Bᵀa reduced to one vector, and followed into its blow-up.

G = BBᵀ − aaᵀ and D = ‖c‖² − ‖a‖² do not change, so that a alone obeys a closed equation, the
focusing Garnier oscillator: with N = ‖a‖², ‖c‖² = N + D and BBᵀ = aaᵀ + G,

    a'' = (2N + D)a + Ga,   N' = 2E,   E = a·a' = aᵀBc.

The transposed flow (c, Bᵀ, a) does the same for c. In the eigenbasis of G a step costs O(d). The
clock is dr = ρ dt with ρ² = N + (N + D) + (N + λ), λ the largest eigenvalue of G; in r the scaled
x = a/ρ, w = a'/ρ² stay bounded while ln ρ grows like r/√3, and the blow-up is at r = ∞.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.integrate import DOP853
from scipy.special import elliprf

#: More steps than this mean that the orbit stays at a rest point.
MOST_STEPS = 20_000


class Garnier(NamedTuple):
    """a, a' in the `basis` of G, the eigenvalues `rates` of G, ascending, and D."""

    position: Float[np.ndarray, " m"]
    slope: Float[np.ndarray, " m"]
    rates: Float[np.ndarray, " m"]
    basis: Float[np.ndarray, "m m"]
    difference: float

    def nudged(self, share: float) -> "Garnier":
        """From a·(1 + share) and B·(1 − share), as far as the basis stays: what rounding does."""
        x, square = self.position, float(self.position @ self.position)
        return Garnier(
            (1 + share) * x,
            (1 - share) * self.slope,
            np.sort(self.rates - 2 * share * (self.rates + 2 * x**2)),
            self.basis,
            self.difference - 2 * share * square,
        )


class Late(NamedTuple):
    """The orbit at `time`: a/‖a‖, N = ‖a‖², E, D, λ (`top`), and how far it has come.

    `cosine`: E/√(N(N+D)(N+λ)), which ends at 1; `growth` of ρ since the start.
    """

    time: float
    direction: Float[np.ndarray, " m"]
    square: float
    energy: float
    difference: float
    top: float
    cosine: float
    growth: float

    @property
    def estimate(self) -> float:
        """t + E^{−1/3}: never below T*, above it by O((T* − t)⁵)."""
        return self.time + self.energy ** (-1 / 3)


def reduced(
    a: Float[np.ndarray, " m"], b: Float[np.ndarray, "m n"], c: Float[np.ndarray, " n"]
) -> Garnier:
    """The oscillator of a; reduced(c, b.T, a) is that of c."""
    rates, basis = np.linalg.eigh(b @ b.T - np.outer(a, a))
    return Garnier(basis.T @ a, basis.T @ (b @ c), rates, basis, float(c @ c - a @ a))


def speed_limit(square: float, difference: float, top: float) -> float:
    """∫_N^∞ dN / (2√(N(N+D)(N+λ))) = R_F(N, N+D, N+λ), the least time left at ‖a‖² = N."""
    return float(elliprf(*(max(square + shift, 0.0) for shift in (0.0, difference, top))))


def follow(start: Garnier, until: Callable[[Late], bool], rtol: float) -> Late | None:
    """The first step at which `until` holds; None if the orbit does not get there."""
    size = start.position.size
    shift = start.rates + start.difference
    # ρ² = 3N + offset
    offset = start.difference + float(start.rates[-1])
    rho = math.sqrt(max(3 * float(start.position @ start.position) + offset, 0.0))

    def field(_, y):
        x, w, log_rho = y[:size], y[size:-2], y[-2]
        growth = 3 * float(x @ w)
        pull = 2 * float(x @ x) + shift * math.exp(-2 * log_rho)
        return np.concatenate(
            [w - growth * x, pull * x - 2 * growth * w, [growth, math.exp(-log_rho)]]
        )

    def state(y):
        x, w, rho_now = y[:size], y[size:-2], math.exp(y[-2])
        square = float(x @ x)
        c_square = square + start.difference / rho_now**2
        b_square = square + start.rates[-1] / rho_now**2
        largest = math.sqrt(max(square * c_square * b_square, 0.0))
        inner = float(x @ w)
        return Late(
            time=float(y[-1]),
            direction=start.basis @ (x / math.sqrt(square)) if square else 0 * x,
            square=square * rho_now**2,
            energy=inner * rho_now**3,
            difference=start.difference,
            top=float(start.rates[-1]),
            cosine=inner / largest if largest else 0.0,
            growth=rho_now / rho,
        )

    x, w = start.position / rho, start.slope / rho**2
    # dormant weights are followed relative to their own size
    scale = max(float(np.max(np.abs(x))), float(np.max(np.abs(w))))
    tolerance = np.full(2 * size + 2, 1e-3 * rtol)
    tolerance[:-2] *= scale
    y = np.concatenate([x, w, [math.log(rho), 0.0]])
    solver = DOP853(
        field, 0.0, y, 1e9, first_step=1e-3, rtol=rtol,
        atol=tolerance,  # pyright: ignore[reportArgumentType]
    )  # fmt: skip
    for _ in range(MOST_STEPS):
        late = state(solver.y)
        if until(late):
            return late
        if solver.status != "running":
            break
        solver.step()
    return None
