r"""Dormant units on a plateau: when each blows up, and where the others are by then.

A unit x_h of norm e^ℓ and direction u feels F_h(x) = e^{(D−1)ℓ}F_h(u) of its own alone, so that in
a clock dr = e^{(D−2)ℓ}|F_h(u)|dτ of its own

    u' = (F − ⟨F,u⟩u)/|F|,    ℓ' = ⟨F,u⟩/|F|,    τ' = e^{−(D−2)ℓ}/|F|,

and a blow-up is r = ∞. Beside it goes how all this depends on the start, to first order.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gflow.internal import Unframed, bracketed_root, least_squares, on_device

from ._forces import Units, leading
from ._steps import followed, one_step, rates_of

RTOL, ATOL = 1e-13, 1e-15
#: e-folds of growth of 1/x^{D−2} after which what is left of τ is below rounding.
_GROWN = 42.0
#: e-folds of shrinking after which a unit is on its way into zero, as far as rounding tells.
_SUNK = 11.5
#: Transverse speed of a direction that has come to rest, and the longest way there.
_ALIGNED, _LONGEST = 1e-8, 4000.0
#: Relative difference of growths below which directions are a manifold.
_NEUTRAL = 1e-7


class Race(NamedTuple):
    """By unit: when it blows up (∞: never), and the first-order change of that with the start."""

    times: Float[np.ndarray, " units"]
    changes: Float[np.ndarray, " units"]


class Winner(NamedTuple):
    """The direction û in which a unit blows up, F(û) = growth·û, and its nearest rival's share.

    `gap`: 1 − μ/growth, μ the largest growth of a direction beside û: by the time that the unit
    is of size s it has size (α/s)^gap of û.
    """

    direction: Float[np.ndarray, " n"]
    growth: float
    gap: float


class _Racing(Unframed):
    """(u, ℓ, τ) of all units, each in its own clock, and how they change with the start."""

    units: Units
    live: Array
    floor: Array

    def rates(self, y: Array) -> Array:
        units = self.units
        n, count, degree = len(units.owner), units.count, units.order - 2
        mask, owner = jnp.asarray(units.mask, y.dtype), units.owner
        u, size = y[:n], y[n : n + count]
        force = units.leading(self.live, u)
        square, norm = mask @ force**2, mask @ u**2
        # one that is on its way into zero is left where it is
        on = (square > 0.0) & (size > self.floor)
        speed = jnp.sqrt(jnp.where(on, square, 1.0))
        along = jnp.where(on, (mask @ (force * u)) / jnp.where(on, norm, 1.0), 0.0)
        turn = jnp.where(on[owner], (force - along[owner] * u) / speed[owner], 0.0)
        tau = jnp.where(on, jnp.exp(-degree * size) / speed, 0.0)
        return jnp.concatenate([turn, along / speed, tau])

    def velocity(self, t, state):
        y, dy = jnp.split(state, 2)
        return jnp.concatenate(jax.jvp(self.rates, (y,), (dy,)))


def race(
    units: Units, live: np.ndarray, dormant: np.ndarray, change: np.ndarray
) -> tuple[Race, np.ndarray]:
    """When dormant units blow up under F at `live`; and their last directions."""
    n, count, degree = len(units.owner), units.count, units.order - 2
    norms = units.norms(dormant)
    size = np.log(np.where(norms > 0.0, norms, 1.0))
    scale = np.exp(-size)[units.owner]
    u, moved = dormant * scale, change * scale
    along = np.bincount(units.owner, u * moved, count)
    y = np.concatenate([u, size, np.zeros(count)])
    dy = np.concatenate([moved - along[units.owner] * u, along, np.zeros(count)])
    floor = size - _SUNK
    start = on_device(np.concatenate([y, dy]))
    field = _Racing(start, units, on_device(live), on_device(floor))
    force = leading(units, live, u)
    runs = np.bincount(units.owner, force**2, count) > 0.0
    end, sunk = np.concatenate([y, dy]), ~runs
    if runs.any():
        for _, states in followed(field, np.full(2 * len(y), ATOL), RTOL):
            end = states[-1]
            grown = end[n : n + count] - size
            sunk = ~runs | (grown <= -_SUNK)
            if np.all(sunk | (degree * grown > _GROWN)):
                break
    width = len(y)
    growth = np.bincount(units.owner, leading(units, live, end[:n]) * end[:n], count)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        rest = np.exp(-degree * end[n : n + count]) / (degree * growth)
    times = np.where(sunk, np.inf, end[n + count : width] + np.where(sunk, 0.0, rest))
    return Race(times, np.where(sunk, 0.0, end[width + n + count :])), end[:n]


def _reached(field: _Racing, state: np.ndarray, at: int, level: float, width: float) -> np.ndarray:
    """Where a component comes to a level, in the step of this width from `state`."""
    here = on_device(state)

    def moved(step: float) -> np.ndarray:
        return np.asarray(one_step(field, here, on_device(np.asarray(step)))) if step else state

    return moved(bracketed_root(lambda step: moved(step)[at] - level, width))


def approached(
    units: Units, live: np.ndarray, dormant: np.ndarray, unit: int, growth: float
) -> Float[np.ndarray, " n"]:
    """The direction of a unit that blows up where its size has grown by e^growth."""
    n, own = len(units.owner), units.mask[unit]
    u = np.where(own, dormant, 0.0)
    start = np.zeros(2 * (n + 2 * units.count))
    start[:n] = u / np.linalg.norm(u)
    floor = on_device(np.full(units.count, -np.inf))
    field, at = _Racing(on_device(start), units, on_device(live), floor), n + unit
    now, before = start, 0.0
    for r, states in followed(field, np.full(len(start), ATOL), RTOL):
        if states[-1, at] < growth:
            now, before = states[-1], float(r[-1])
            continue
        i = int(np.argmax(states[:, at] >= growth))
        now, before = (states[i - 1], float(r[i - 1])) if i else (now, before)
        u = _reached(field, now, at, growth, float(r[i]) - before)[:n]
        break
    return np.where(own, u, 0.0) / np.linalg.norm(np.where(own, u, 0.0))


@eqx.filter_jit
def _own(units: Units, live: Array, u: Array) -> tuple[Array, Array]:
    """F at u, and its Jacobian."""

    def force(u):
        found = units.leading(live, u)
        return found, found

    jacobian, found = jax.jacfwd(force, has_aux=True)(u)
    return found, jacobian


def direction(units: Units, live: np.ndarray, u: np.ndarray, unit: int) -> Winner:
    """Where the direction u of a unit that blows up comes to rest."""
    own, at, n = units.mask[unit], on_device(live), len(units.owner)
    u = np.where(own, u, 0.0)
    start, none = np.zeros(2 * (n + 2 * units.count)), np.zeros(units.count)
    start[:n] = u
    field = _Racing(on_device(start), units, at, on_device(none - np.inf))
    for r, states in followed(field, np.full(len(start), 1e-11), 1e-9):
        u = states[-1][:n]
        turn = np.asarray(rates_of(field, on_device(states[-1])))[:n]
        if np.linalg.norm(turn) < _ALIGNED or r[-1] > _LONGEST:
            break
    u = u / np.linalg.norm(u)
    for _ in range(4):
        force, jacobian = (np.asarray(x) for x in _own(units, at, on_device(u)))
        growth = float(force @ u)
        block = (jacobian - growth * np.eye(n))[np.ix_(own, own)]
        x = u[own]
        block = block - np.outer(x, jacobian[np.ix_(own, own)].T @ x + force[own])
        step = least_squares(block, growth * x - force[own], rcond=1e-10)
        u[own] += step - (step @ x) * x
        u /= np.linalg.norm(u)
    force, jacobian = (np.asarray(x) for x in _own(units, at, on_device(u)))
    growth, x = float(force @ u), u[own]
    across = np.eye(len(x)) - np.outer(x, x)
    block = across @ jacobian[np.ix_(own, own)] @ across
    values = np.sort(np.linalg.eigvals(block).real)
    # that of û itself is zero; of a manifold of directions, as of a head that can be turned in
    # itself, it is `growth`, and the start chooses one of them for good
    beside = np.delete(values, int(np.argmin(np.abs(values))))
    gaps = 1.0 - beside / growth
    return Winner(u, growth, float(np.min(gaps[np.abs(gaps) > _NEUTRAL], initial=np.inf)))


class _Waiting(Unframed):
    """x' = F(x), and how x changes with the start."""

    units: Units
    live: Array

    def velocity(self, t, state):
        x, dx = jnp.split(state, 2)
        moved = jax.jvp(lambda x: self.units.leading(self.live, x), (x,), (dx,))
        return jnp.concatenate(moved)


def after(
    units: Units, live: np.ndarray, dormant: np.ndarray, change: np.ndarray, wait: float
) -> tuple[np.ndarray, np.ndarray]:
    """Where dormant units are after `wait`, before any of them blows up, and their change."""
    start = np.concatenate([dormant, change])
    if not (wait > 0.0 and np.any(dormant)):
        return dormant, change
    sizes = [float(np.max(np.abs(x))) for x in (dormant, change)]
    tops = ATOL * np.array([sizes[0], max(sizes)])
    field = _Waiting(on_device(start), units, on_device(live))
    atol = np.repeat(tops, len(dormant))
    *_, (_, states) = followed(field, atol, RTOL, wait, 1e-3 * wait)
    end = states[-1]
    return end[: len(dormant)], end[len(dormant) :]
