r"""Tokens on the sphere with one overlap γ for all pairs (Geshkovski et al. 2024, 2312.10794).

With Q = K = V = I, softmax attention (SA) and unnormalised attention (USA) move it as

    SA:   γ' = 2(1 − γ)((n − 1)γ + 1)/(e^{β(1−γ)} + n − 1)
    USA:  γ' = (2/n) e^{βγ}(1 − γ)((n − 1)γ + 1)

On the clock y = ln((1 + (n − 1)γ)/(1 − γ)), on which 1 − γ = n/(e^y + n − 1), both are integrals,

    SA:   t = y/2 + (1/2n)∫₀^y (e^{β(1−γ)} − 1)dy
    USA:  t = ½∫₀^y e^{−βγ}dy

and β = 0, where 2t = y, is the correlation of uniform attention with residuals, y = L ln(1 + α₁²).
"""

import functools
import math

import numpy as np
from jaxtyping import Float

from .._arguments import Numbers, counts, real_array, times
from ._uniform import overlap_at

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(20)
_KINDS = ("softmax", "unnormalised")
#: Beyond, the wait before tokens approach, some e^β, leaves the floats.
_LARGEST = 700.0


def equal_overlap(
    tokens: Numbers, beta: Numbers, t: Numbers, kind: str = "softmax"
) -> Float[np.ndarray, "..."]:
    r"""γ(t) from orthonormal tokens, γ(0) = 0: the overlap of any two at flow time t.

    **Arguments:** `tokens` n ≥ 2; `beta` of any sign; `t ≥ 0` of any shape, ∞ included; `kind`
    "softmax" (SA) or "unnormalised" (USA).
    **Raises:** ValueError for these, and |β| > 700, where waits leave the floats.
    **Regime:** exact for any n ≤ d, β, t. **Source:** 2312.10794, section 6; solved here by
    quadrature of t(γ) and Newton's method (module docstring), to some 1e-14; at large β the
    approach after the wait is over within few ulps of t, and γ is known no better than that.

    ```python
    equal_overlap(6, 2.0, [0.0, 1.0, 2.762096361922, np.inf])   # 0, 0.2494, 0.9, 1
    ```
    """
    when = times(t)
    return overlap_at(real_array(tokens, "tokens"), _clock(tokens, beta, when, kind))


def overlap_time(
    tokens: Numbers, beta: Numbers, level: Numbers, kind: str = "softmax"
) -> Float[np.ndarray, "..."]:
    r"""When `equal_overlap` is at `level`, 0 ≤ level ≤ 1: ∫₀^level dγ/γ', ∞ at 1.

    At large β it grows like e^β: tokens wait, then approach.
    **Raises:** ValueError for a level outside [0, 1], and as `equal_overlap`.

    ```python
    overlap_time(5, 6.0, 0.9)                      # 28.1140
    ```
    """
    table = _table_of(tokens, beta, kind)
    gamma = real_array(level, "level")
    if np.any((gamma < 0.0) | (gamma > 1.0)):
        raise ValueError(f"level = {level}: overlaps from orthonormal tokens lie between 0 and 1.")
    with np.errstate(divide="ignore"):
        clock = np.log1p((table.n - 1.0) * gamma) - np.log1p(-gamma)
    return table.time(np.asarray(clock))


def final_rate(beta: Numbers, kind: str = "softmax") -> Float[np.ndarray, "..."]:
    r"""Rate at which 1 − γ falls at the end: 2 for softmax attention at any β, else 2e^β.

    ```python
    final_rate(1.0, "unnormalised")                # 5.4366
    ```
    """
    _check_kind(kind)
    b = real_array(beta, "beta")
    return np.asarray(2.0 * np.exp(b) if kind == "unnormalised" else np.full(b.shape, 2.0))


def _clock(tokens: Numbers, beta: Numbers, when: np.ndarray, kind: str) -> np.ndarray:
    return _table_of(tokens, beta, kind).clock(when)


class _Table:
    """t(y) at the ends of pieces in which nothing grows by more than e, and straight beyond."""

    def __init__(self, n: float, beta: float, kind: str):
        self.n, self.beta, self.softmax = n, beta, kind == "softmax"
        last = 42.0 + math.log(n) + math.log1p(abs(beta))
        pieces = math.ceil(last * max(1.0, abs(beta) / 4.0))
        self.width = last / pieces
        self.edges = np.arange(pieces + 1) * self.width
        areas = self._areas(self.edges[:-1], np.full(pieces, self.width))
        self.found = np.concatenate([[0.0], np.cumsum(areas)])

    def slope(self, y: np.ndarray) -> np.ndarray:
        """dt/dy."""
        gamma = overlap_at(np.asarray(self.n), y)
        if not self.softmax:
            return np.asarray(0.5 * np.exp(-self.beta * gamma))
        apart = self.n * np.exp(-y) / (1.0 + (self.n - 1.0) * np.exp(-y))
        return np.asarray(0.5 + np.expm1(self.beta * apart) / (2.0 * self.n))

    def _areas(self, start: np.ndarray, width: np.ndarray) -> np.ndarray:
        y = start[..., None] + 0.5 * width[..., None] * (1.0 + _NODES)
        return np.asarray(0.5 * width * (self.slope(y) @ _WEIGHTS))

    def time(self, y: np.ndarray) -> np.ndarray:
        inside = np.asarray(np.minimum(y, self.edges[-1]))
        k = np.clip(np.floor(inside / self.width).astype(int), 0, len(self.edges) - 2)
        start = np.asarray(self.edges[k])
        beyond = y - inside
        ending = np.where(beyond > 0.0, beyond * self.slope(self.edges[-1:])[0], 0.0)
        return np.asarray(self.found[k] + self._areas(start, np.asarray(inside - start)) + ending)

    def clock(self, t: np.ndarray) -> np.ndarray:
        k = np.clip(np.searchsorted(self.found, t, side="right") - 1, 0, len(self.edges) - 2)
        low, high = self.edges[k], self.edges[k + 1]
        start, wanted = np.asarray(low), np.minimum(t, self.found[-1]) - self.found[k]
        # nearly straight in a piece: first a chord, then Newton's method within the piece
        y = np.asarray(low + (high - low) * wanted / (self.found[k + 1] - self.found[k]))
        for _ in range(60):
            miss = self._areas(start, np.asarray(y - start)) - wanted
            low, high = np.where(miss < 0.0, y, low), np.where(miss < 0.0, high, y)
            new = y - miss / self.slope(y)
            new = np.where((low <= new) & (new <= high), new, 0.5 * (low + high))
            done = np.all(np.abs(new - y) <= 1e-15 * (1.0 + high) + 1e-14 * np.abs(y - start))
            y = np.asarray(new)
            if done:
                break
        late = t > self.found[-1]
        with np.errstate(invalid="ignore"):
            after = (t - self.found[-1]) / self.slope(self.edges[-1:])[0]
        return np.asarray(np.where(late, self.edges[-1] + after, y))


@functools.lru_cache(maxsize=32)
def _table(n: float, beta: float, kind: str) -> _Table:
    return _Table(n, beta, kind)


def _table_of(tokens: Numbers, beta: Numbers, kind: str) -> _Table:
    _check_kind(kind)
    n = counts("tokens", tokens, 2, "how many tokens overlap")
    b = real_array(beta, "beta")
    if n.ndim or b.ndim:
        raise ValueError(
            f"tokens = {tokens}, beta = {beta}: one number each; times may be of any shape."
        )
    if abs(b) > _LARGEST:
        raise ValueError(
            f"beta = {beta}: beyond ±{_LARGEST:g} the tokens wait for e^beta, which leaves the "
            "floats."
        )
    return _table(float(n), float(b), kind)


def _check_kind(kind: str) -> None:
    if kind not in _KINDS:
        raise ValueError(f"kind = {kind!r}: attention is one of {_KINDS}.")
