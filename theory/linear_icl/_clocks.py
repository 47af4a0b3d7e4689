r"""Dormant heads on a plateau: each in a clock of its own, where keys and queries are known.

While nothing more is learned, v' = ⟨K, XQ⟩, K' = vXQ, Q' = vXK with a diagonal X ≥ 0. With
ds = v dt this is solved by cosh and sinh, and (s, v, t) are followed in dr = ‖(v, K, Q)‖dt, in
which nothing is singular, whatever the sign of v: it is smooth where v passes zero, and a
blow-up at t = T is r = ∞ with log‖·‖ growing evenly.
"""

import dataclasses

import numpy as np
from jaxtyping import Float
from scipy.integrate import DOP853, solve_ivp

from .._arguments import Numbers, real_array
from ._problem import Spectrum

#: Growth (logarithm) after which v² is made of terms that grow, without cancellation.
_GROWN = 3.0
#: Shrinking by which the start is on the manifold that ends at zero, as far as rounding tells.
_SUNK = -11.5
RTOL, ATOL = 1e-13, 1e-16
_STEPS = 50_000
#: Largest exponent that is taken; beyond it a head has long arrived.
_LARGE = 340.0
# Gauss's rule of 16 nodes on each unit of s, for 20 units at once
_CHUNKS, _NODES_END = 200, 20.0
_INSIDE, _SHARES = np.polynomial.legendre.leggauss(16)
_NODES = (np.arange(_NODES_END)[:, None] + 0.5 * (_INSIDE + 1.0)).ravel()
_WEIGHTS = np.tile(0.5 * _SHARES, int(_NODES_END))


@dataclasses.dataclass(frozen=True, eq=False)
class Heads:
    """v: (H,), k and q: (H, D, R) in the eigenbasis."""

    v: Float[np.ndarray, " H"]
    k: Float[np.ndarray, "H D R"]
    q: Float[np.ndarray, "H D R"]

    def norms(self) -> Float[np.ndarray, " H"]:
        """‖(v, K, Q)‖ of every head; sizes whose squares underflow are kept."""
        flat = np.concatenate(
            [self.v[:, None], *(x.reshape(len(x), x[:1].size) for x in (self.k, self.q))], axis=1
        )
        top = np.max(np.abs(flat), axis=1)
        safe = np.where(top > 0, top, 1.0)
        return top * np.linalg.norm(flat / safe[:, None], axis=1)

    def select(self, heads: np.ndarray, directions: np.ndarray) -> "Heads":
        return Heads(
            self.v[heads], self.k[heads][:, directions], self.q[heads][:, directions]
        )  # fmt: skip

    def over(self, size: np.ndarray) -> "Heads":
        return Heads(
            self.v / size, self.k / size[:, None, None], self.q / size[:, None, None]
        )  # fmt: skip


def checked_heads(v: Numbers, k: Numbers, q: Numbers, directions: int) -> Heads:
    """**Raises:** ValueError for shapes that do not fit, R > D, float32."""
    v, k, q = real_array(v, "v"), real_array(k, "k"), real_array(q, "q")
    wanted = (v.size, directions)
    if v.ndim != 1 or k.shape != q.shape or k.shape[:2] != wanted or k.ndim not in (2, 3):
        raise ValueError(
            f"v has shape {v.shape}, k {k.shape} and q {q.shape}, with {directions} eigenvalues: "
            f"give v as (H,), k and q as (H, {directions}), or (H, {directions}, R) for heads of "
            "rank R, in the eigenbasis. (Weights (H, R, D) of gflow.models.SeparateHeads are "
            "np.swapaxes(key, 1, 2).)"
        )
    if k.ndim == 3 and not 1 <= k.shape[2] <= directions:
        raise ValueError(
            f"k and q have shape {k.shape}: the rank R = {k.shape[2]} of a head is from 1 to "
            f"D = {directions}, beyond which a head cannot use it."
        )
    return Heads(v, k.reshape(*wanted, -1), q.reshape(*wanted, -1))


def blow_up(heads: Heads, force: Spectrum) -> Float[np.ndarray, " H"]:
    """T of every head under X = diag(force) from now on, ∞ where it never comes."""
    size, scale = heads.norms(), float(np.max(force))
    found = np.full(size.shape, np.inf)
    moving = np.flatnonzero(_moves(heads, force))
    if moving.size:
        live = heads.select(moving, force > 0).over(size[moving])
        with np.errstate(over="ignore"):
            found[moving] = _risen(live, force[force > 0] / scale) / scale / size[moving]
    return found


def at_time(heads: Heads, force: Spectrum, t: float) -> Heads:
    """Where heads are after a time `t`, which is before any of them blows up."""
    size, scale = heads.norms(), float(np.max(force))
    out = Heads(heads.v.copy(), heads.k.copy(), heads.q.copy())
    directions = np.flatnonzero(force > 0)
    for i in np.flatnonzero(_moves(heads, force)):
        one = heads.select(np.array([i]), directions).over(size[i : i + 1])
        x = force[directions] / scale

        def velocity(_, y, one=one, x=x):
            k, q = _turned(one, x, y[:1])
            return np.array([y[1], np.sum(x[:, None] * k[0] * q[0])])

        end = float(t) * scale * float(size[i])
        y = solve_ivp(velocity, (0.0, end), [0.0, one.v[0]], "DOP853", rtol=RTOL, atol=ATOL).y[
            :, -1
        ]
        k, q = _turned(one, x, y[:1])
        out.v[i] = y[1] * size[i]
        out.k[i, directions], out.q[i, directions] = k[0] * size[i], q[0] * size[i]
    return out


def _moves(heads: Heads, force: Spectrum) -> np.ndarray:
    x = force[:, None]
    with np.errstate(under="ignore"):
        size = np.maximum(heads.norms(), np.finfo(float).tiny)
        one = heads.over(size)
        pushed = np.sum(x * one.k * one.q, axis=(1, 2)) != 0
        turned = np.any((x > 0) & ((one.k != 0) | (one.q != 0)), axis=(1, 2))
    return pushed | ((one.v != 0) & turned)


def _turned(heads: Heads, x: np.ndarray, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """K and Q at the clocks `s`, (..., H) to (..., H, D, R)."""
    turn = np.clip(s[..., None] * x, -_LARGE, _LARGE)[..., None]
    grown, shrunk = (
        0.5 * np.exp(turn) * (heads.k + heads.q),
        0.5 * np.exp(-turn) * (heads.k - heads.q),
    )
    return grown + shrunk, grown - shrunk


def _risen(heads: Heads, x: np.ndarray) -> np.ndarray:
    """∫dt to the blow-up, for heads of norm 1 and max x = 1."""
    count = heads.v.size

    def parts(y):
        s, v = y[:count], y[count : 2 * count]
        k, q = _turned(heads, x, s)
        norm = np.sqrt(v**2 + np.sum(k**2 + q**2, axis=(1, 2)))
        push = np.sum(x[:, None] * k * q, axis=(1, 2))
        return v, norm, push

    def velocity(_, y):
        v, norm, push = parts(y)
        # a head that is done stops, so that it does not set the steps of others
        return (np.stack([v, push, one]) * (going / norm)).ravel()

    going, one, sunk = np.ones(count), np.ones(count), np.zeros(count, bool)
    start = np.concatenate([np.zeros(count), heads.v, np.zeros(count)])
    solver = DOP853(velocity, 0.0, start, np.inf, rtol=RTOL, atol=ATOL)
    began = np.log(parts(start)[1])
    for _ in range(_STEPS):
        solver.step()
        grown = np.log(parts(solver.y)[1]) - began
        sunk |= grown < _SUNK
        going[sunk | (grown > _GROWN)] = 0.0
        if not np.any(going):
            break
    else:
        raise _lost()
    s, v, t = solver.y.reshape(3, count)
    return np.where(sunk, np.inf, t + _rest(heads, x, s, v, ~sunk))


def _rest(
    heads: Heads, x: np.ndarray, s: np.ndarray, v: np.ndarray, growing: np.ndarray
) -> np.ndarray:
    """∫ds/|v| from clocks s on, where v² = v(s)² + ‖K‖² − ‖K(s)‖² is a sum of what only grows."""
    rest = np.zeros_like(s)
    if not np.any(growing):
        return rest
    before = v**2 - np.sum(_turned(heads, x, s)[0] ** 2, axis=(-2, -1))
    for chunk in range(_CHUNKS):
        ahead = (_NODES + chunk * _NODES_END)[:, None] * np.sign(v)
        k = _turned(heads, x, s + ahead)[0]
        with np.errstate(invalid="ignore"):
            size = np.sqrt(before + np.sum(k**2, axis=(-2, -1)))
        more = np.where(growing, _WEIGHTS @ (1.0 / size), 0.0)
        rest = rest + more
        # what is still to come is a part of the last node, over the rate of growth
        if np.all(1.0 / size[-1] < 1e-19 * np.where(growing, rest, np.inf)):
            return rest
    raise _lost()


def _lost() -> ValueError:
    return ValueError(
        "The blow-up time of a head could not be followed: eigenvalues that differ by more than "
        "some ten times, and a start without components along the large ones; leave these "
        "directions out."
    )
