r"""Radau IIA of order nine, with what Newton's method knows kept from step to step.

Stages Z of a step h solve A⁻¹Z/h = f(y + Z). Newton's method takes the Jacobian of an earlier
step, and in the eigenvectors of A⁻¹ one system (λ/h − J)x = r an eigenvalue λ
(Hairer, Wanner: Solving Ordinary Differential Equations II, IV.8).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

_STAGES = 5
#: Iterations of Newton's method, the share of the tolerance they may leave, and the least share of
#: a correction that the next one may be where J is to serve for another step.
_ITERATIONS, _LEFT, _GOOD = 15, 0.03, 0.4
#: A step is at most so many times as long as the one before, and as short.
_LONGER, _SHORTER, _SAFETY = 5.0, 0.2, 0.8
#: With a step so little longer the factors of the one before will do.
_KEPT = 1.2


class _Coefficients(NamedTuple):
    """Nodes c, A⁻¹ = T diag(λ) T⁻¹ with λ real first, then one of each pair; e of the error.

    `known`, `shares`: the error of order five is known·h·f(y) + shares·(A⁻¹Z).
    """

    c: np.ndarray
    inverse: np.ndarray
    values: np.ndarray
    vectors: np.ndarray
    back: np.ndarray
    known: float
    shares: np.ndarray


def _coefficients(s: int = _STAGES) -> _Coefficients:
    legendre = np.polynomial.legendre
    roots = np.real(legendre.legroots([*np.zeros(s - 1), -1.0, 1.0]))
    c = 0.5 * (1.0 + np.sort(roots))
    powers = c[:, None] ** np.arange(s)
    a = (c[:, None] ** np.arange(1, s + 1) / np.arange(1, s + 1)) @ np.linalg.inv(powers)
    inverse = np.linalg.inv(a)
    values, vectors = np.linalg.eig(inverse)
    turns = np.imag(values)
    order = [*np.flatnonzero(np.abs(turns) < 1e-9), *np.flatnonzero(turns > 1e-9)]
    back = np.linalg.inv(vectors)
    known = 1.0 / float(np.real(values[order[0]]))
    aimed = 1.0 / np.arange(1, s + 1) - known * (np.arange(s) == 0)
    shares = np.linalg.solve(powers.T, aimed) - a[-1]
    return _Coefficients(c, inverse, values[order], vectors[:, order], back[order], known, shares)


_RADAU = _coefficients()


#: An eigenvalue of a pair stands for both.
_PAIRS = np.array([1.0, *(2.0 for _ in _RADAU.values[1:])])
#: How far a step may grow with the error left over.
_POWER = -1.0 / (_STAGES + 1)


#: f at y + Z for every stage and, last, at y.
Rates = Callable[[np.ndarray], np.ndarray]


class Slopes(NamedTuple):
    """J, where some components `first` move all and the others those of their own block.

    `columns`: (component, first). `blocks`: for those of one size (block, component) and
    (block, n, n).
    """

    first: np.ndarray
    columns: np.ndarray
    blocks: list[tuple[np.ndarray, np.ndarray]]


class _Factors:
    """(λ/h − J)⁻¹ for the λ of the method."""

    def __init__(self, slopes: Slopes, step: float):
        self.slopes, self.step = slopes, step
        self.shifts = _RADAU.values / step
        squares = [slopes.columns[slopes.first], *(x for _, x in slopes.blocks)]
        self.inverse = [
            [np.linalg.inv(s * np.eye(x.shape[-1]) - x) for x in squares] for s in self.shifts
        ]

    def solve(self, k: int, right: np.ndarray) -> np.ndarray:
        found, (inverse, *others) = np.zeros(right.size, complex), self.inverse[k]
        first = inverse @ right[self.slopes.first]
        left = right + self.slopes.columns @ first
        for (index, _), inverse in zip(self.slopes.blocks, others, strict=True):
            found[index] = np.squeeze(inverse @ left[index][..., None], -1)
        found[self.slopes.first] = first
        return found


class Pacing(NamedTuple):
    """The next step, and what the one before leaves: factors, its length and stages."""

    step: float
    factors: _Factors | None = None
    before: tuple[float, np.ndarray] | None = None


class Step(NamedTuple):
    """How to go on after a step, its length, and its stages Z if it is accepted."""

    pacing: Pacing
    length: float
    stages: np.ndarray | None


def attempt(
    rates: Rates, slopes: Callable[[], Slopes], size: int, pacing: Pacing, tolerance: float
) -> Step:
    """One step of so many components, accepted if the error of each is at most the tolerance."""
    factors, fresh = pacing.factors, pacing.factors is None
    if factors is None:
        factors = _Factors(slopes(), pacing.step)
    elif not factors.step <= pacing.step <= _KEPT * factors.step:
        factors = _Factors(factors.slopes, pacing.step)
    h, z = factors.step, np.zeros((_STAGES, size))
    if pacing.before is not None:
        z = _continued(*pacing.before, h)
    found = _newton(rates, factors, z, tolerance)
    if found is None:  # with a Jacobian of here, or else a shorter step
        return Step(Pacing(0.25 * h if fresh else h), h, None)
    z, known, rate = found
    error = _RADAU.known * h * known + _RADAU.shares @ (_RADAU.inverse @ z)
    error = np.real(factors.solve(0, error * factors.shifts[0]))
    missed = float(np.max(np.abs(error))) / tolerance
    if not math.isfinite(missed):
        return Step(Pacing(0.25 * h), h, None)
    grown = h * min(max(_SAFETY * max(missed, 1e-30) ** _POWER, _SHORTER), _LONGER)
    if missed > 1.0:
        return Step(Pacing(grown, factors), h, None)
    return Step(Pacing(grown, factors if rate < _GOOD else None, (h, z)), h, z)


def _newton(
    rates: Rates, factors: _Factors, z: np.ndarray, tolerance: float
) -> tuple[np.ndarray, np.ndarray, float] | None:
    """Z, f(y) and how the method converged; None where it did not."""
    rate, last = 0.0, math.inf
    for count in range(_ITERATIONS):
        f = rates(z)
        right = _RADAU.back @ (f[:-1] - _RADAU.inverse @ z / factors.step)
        w = np.stack([factors.solve(k, r) for k, r in enumerate(right)])
        change = np.real((_RADAU.vectors * _PAIRS) @ w)
        z, size = z + change, float(np.max(np.abs(change)))
        rate = size / last if count and last > 0.0 else 0.0
        if not math.isfinite(size) or rate >= 1.0:
            return None
        if size * (rate / (1.0 - rate) if count else 1.0) <= _LEFT * tolerance:
            return z, f[-1], rate
        last = size
    return None


def _continued(length: float, stages: np.ndarray, new: float) -> np.ndarray:
    """The stages of a step of a `new` length where the polynomial of the one before goes on."""
    weights = _lagrange(np.append(0.0, _RADAU.c), 1.0 + _RADAU.c * new / length)
    return weights[:, 1:] @ stages - stages[-1]


def _lagrange(nodes: np.ndarray, at: np.ndarray) -> np.ndarray:
    """(point, node): what each node adds there."""
    others = [np.delete(nodes, i) for i in range(len(nodes))]
    return np.stack(
        [np.prod((at[:, None] - o) / (x - o), axis=1) for x, o in zip(nodes, others, strict=True)],
        axis=1,
    )
