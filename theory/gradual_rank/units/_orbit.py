r"""A drop: the unit that blows up, with those that are live, from one saddle to the next.

In flow time from the blow-up of its leading order on, the size σ of the winner is
((D−2)c(−t))^{−1/(D−2)} as t → −∞. With

    θ = t + 1/((D−2)c σ^{D−2}),    θ' = 1 − σ'/(c σ^{D−1}),

which starts from zero, no digits are lost; the clock is dr = cσ^{D−2}dt. Beside it goes what the
drop does to the dormant units, ∫(F_h(w(t)) − F_h(before))dt.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gflow.internal import Unframed, bracketed_root, least_squares, on_device

from ._forces import Units, curvature, leading, whole
from ._race import Winner, race
from ._steps import STEPS, followed, one_step, rates_of

RTOL, ATOL = 1e-12, 1e-14
#: The size at the start, over that at which the force has half of its leading order left; and up
#: to which it may be larger.
_EARLY, _SMALL = 1e-2, 0.2
#: Speed in the clock of the drop that counts as rest, and how long that may take in its widths.
_REST, _PATIENCE = 1e-12, 1e8
#: Weights beyond which an orbit runs away, over those that were to be expected.
_RUNAWAY = 1e6
#: Share of the largest curvature below which there is none.
FLAT = 1e-9
#: Share of it below which a direction is flat; displacements in those, over all weights, and how
#: many; share of a displacement, beyond rounding, by which they are drawn away.
_KERNEL, _ASIDE, _SAMPLES, _DRAWN = 1e-8, 1e-3, 32, 1e-4


class Degenerate(ValueError):
    """A path that is not followed further, with the reason."""


@dataclasses.dataclass(frozen=True, eq=False)
class Drop:
    """An orbit in flow time `t` from the blow-up on, and the saddle it ends in.

    `level`: the loss midway between the saddles, which it crosses at `crossing`. `acted`: what it
    does to the dormant units, as a displacement of theirs over α^{D−2}. `width`: 1/(cσ^{D−2}) at
    the end, the time that it takes.
    """

    t: Float[np.ndarray, " steps"]
    loss: Float[np.ndarray, " steps"]
    weights: Float[np.ndarray, "steps n"]
    saddle: Float[np.ndarray, " n"]
    saddle_loss: float
    level: float
    crossing: float
    acted: Float[np.ndarray, " n"]
    width: float


class _Dropping(Unframed):
    """(w, θ, displacement of the dormant units); w moves where `moving`."""

    units: Units
    moving: Array
    own: Array
    growth: Array
    dormant: Array
    before: Array

    def size(self, w: Array) -> Array:
        return jnp.sqrt(jnp.sum(jnp.where(self.own, w, 0.0) ** 2))

    def time(self, state: Array) -> Array:
        """Flow time from the blow-up on."""
        degree = self.units.order - 2
        n = len(self.units.owners)
        return state[n] - 1.0 / (degree * self.growth * self.size(state[:n]) ** degree)

    def velocity(self, t, state):
        degree, w = self.units.order - 2, state[: len(self.units.owners)]
        _, force = self.units.loss_and_force(w)
        size = self.size(w)
        growing = jnp.sum(jnp.where(self.own, w * force, 0.0)) / size
        theta = 1.0 - growing / (self.growth * size ** (degree + 1))
        acted = self.units.leading(w, self.dormant) - self.before
        rates = jnp.concatenate([jnp.where(self.moving, force, 0.0), theta[None], acted])
        return rates / (self.growth * size**degree)


@eqx.filter_jit
def _read(field: _Dropping, states: Array) -> tuple[Array, Array, Array, Array]:
    """Time, loss, weights and speed of states."""

    def one(state):
        w = state[: len(field.units.owners)]
        speed = jnp.max(jnp.abs(field.velocity(jnp.zeros(()), state)[: len(w)]))
        return field.time(state), field.units.loss_and_force(w)[0], w, speed

    return jax.lax.map(one, states)


def half(units: Units, live: np.ndarray, won: Winner) -> tuple[float, float]:
    """The size of the winner at which half of its leading force is left, and the power by which
    the share that is lost begins.
    """

    def share(size: float) -> float:
        force = whole(units, live + size * won.direction)[1] @ won.direction
        return float(1.0 - force / (won.growth * size ** (units.order - 1)))

    # the noise of a force that cancels among live ones is felt where the winner is small
    sizes = np.geomspace(1e-8, 1e8, 161) * max(float(np.max(np.abs(live))), 1.0)
    lost = np.array([share(s) for s in sizes])
    large = np.flatnonzero(np.abs(lost) > 0.5)
    if not large.size:
        raise Degenerate(
            "the winner grows by the leading order of its force for ever: the objective is "
            "unbounded below there, or its minimum lies at infinity"
        )
    # from the last size at which it is small on
    small = np.flatnonzero(np.abs(lost[: large[-1]]) < 0.5)
    i = int(small[-1]) if small.size else 0
    near, far = (abs(share(f * sizes[i])) for f in (0.05, 0.1))
    power = float(np.log2(far / near)) if near > 0.0 < far else np.inf
    return float(sizes[i]), power


class Approach(NamedTuple):
    """How a winner comes: its size at the start of the plateau, and its direction by its size."""

    began: float
    direction: Callable[[float], Float[np.ndarray, " n"]]


def drop(
    units: Units, live: np.ndarray, unit: int, won: Winner, dormant: np.ndarray, loss: float,
    approach: Approach,
) -> Drop:  # fmt: skip
    """Follow the winner and the live units to rest; `dormant`: where the others are meanwhile."""
    degree, growth = units.order - 2, won.growth
    size, power = half(units, live, won)
    if power < degree + 0.5:
        raise Degenerate(
            f"the winner's force departs from its leading order like its size to the power "
            f"{power:.2g}: the time of the drop then has a part log(1/α), which is not predicted"
        )
    own = units.mask[unit]
    others = np.isin(units.owner, units.owner[live != 0.0])
    moving, n = own | others, len(units.owner)
    before = leading(units, live, dormant)
    small = max(_EARLY * size, approach.began)
    if small > _SMALL * size:
        raise Degenerate("the winner is not small at the start of its plateau")
    u, nearer = approach.direction(small), approach.direction(max(0.5 * small, approach.began))
    first, half_way = (
        _slaved(units, live + x, np.flatnonzero(others)) for x in (small * u, 0.5 * small * nearer)
    )
    parts = (moving, own, np.asarray(growth), dormant, before)
    start = np.concatenate([first, np.zeros(n + 1)])
    field = _Dropping(on_device(start), units, *(on_device(x) for x in parts))
    # what came before: to leading order its own blow-up, and integrands that are powers of the size
    late = float(race(units, live, small * u, 0.0 * u)[0].times[unit])
    leads = leading(units, live, small * u) @ u
    own_rate = whole(units, first)[1] @ np.where(own, first, 0.0) / small
    lost = (leads - own_rate) / (growth * small ** (degree + 1))
    rates = np.asarray(rates_of(field, on_device(start)))[n + 1 :]
    acts = _power(*(leading(units, w, dormant) - before for w in (half_way, first)), before)
    if acts < degree + 0.5:
        raise Degenerate(
            f"the winner acts on dormant units like its size to the power {acts:.2g} while it is "
            "small: what it does to them has a part log(1/α), which is not predicted"
        )
    start[n] = 1.0 / (degree * growth * small**degree) - late
    lost, rest = lost / (growth * small**degree), approach.began / small
    start[n] += lost / (power - degree) * (1.0 - rest ** (power - degree))
    start[n + 1 :] = rates / (acts - degree) * (1.0 - rest ** (acts - degree))
    field = eqx.tree_at(lambda f: f.state, field, on_device(start))
    top = max(size, float(np.max(np.abs(live))))
    width, felt = 1.0 / (growth * size**degree), float(np.max(np.abs(before))) or 1.0
    atol = ATOL * np.concatenate([np.full(n, top), [width], np.full(n, width * felt)])
    blocks: list[tuple[np.ndarray, ...]] = []
    for r, states in followed(field, atol, RTOL):
        read = tuple(np.asarray(x) for x in _read(field, on_device(_padded(states))))
        t, losses, weights, speed = (x[: len(states)] for x in read)
        blocks.append((r, states, t, losses, weights))
        if np.max(np.abs(weights)) > _RUNAWAY * top:
            raise Degenerate(
                "the weights grow without bound on a connecting orbit: the objective is unbounded "
                "below there, or its minimum lies at infinity"
            )
        if len(still := np.flatnonzero(speed < _REST * top)):
            blocks[-1] = tuple(x[: still[0] + 1] for x in blocks[-1])
            break
        if t[-1] > _PATIENCE * width:
            raise Degenerate(
                "a connecting orbit did not come to rest: the saddle that it ends in is "
                "degenerate, or a unit goes into zero as a power of time"
            )
    r, states, t, losses, weights = (np.concatenate(x) for x in zip(*blocks, strict=True))
    saddle = polished(units, weights[-1], np.flatnonzero(moving))
    small = units.norms(saddle) < 1e-6 * np.max(units.norms(saddle))
    if np.any(small[units.owner[moving]]):
        raise Degenerate("a unit that was live goes back to zero on a connecting orbit")
    saddle_loss = whole(units, saddle)[0]
    level = 0.5 * (loss + saddle_loss)
    i = int(np.flatnonzero((losses[:-1] > level) & (losses[1:] <= level))[0])
    crossing = _crossing(field, states[i], float(r[i + 1] - r[i]), level)
    acted = states[-1, n + 1 :] - t[-1] * (leading(units, saddle, dormant) - before)
    lasts = 1.0 / (growth * float(np.linalg.norm(saddle[own])) ** degree)
    return Drop(t, losses, weights, saddle, saddle_loss, level, crossing, acted, lasts)


def _crossing(field: _Dropping, state: np.ndarray, width: float, level: float) -> float:
    """When the loss falls through a level, re-solved in the step of this width from `state`."""
    before = on_device(state)

    def read(step: float) -> tuple[float, float]:
        end = one_step(field, before, on_device(np.asarray(step))) if step else before
        t, loss, *_ = _read(field, end[None])
        return float(t[0]), float(loss[0])

    return read(bracketed_root(lambda step: level - read(step)[1], width))[0]


def _power(near: np.ndarray, far: np.ndarray, before: np.ndarray) -> float:
    """By which power of the winner's size what it does grows, from half of it; ∞ where nothing."""
    sizes = float(np.linalg.norm(near)), float(np.linalg.norm(far))
    if not sizes[0] > 1e-12 * np.linalg.norm(before):
        return np.inf
    return float(np.log2(sizes[1] / sizes[0]))


def _padded(states: np.ndarray) -> np.ndarray:
    return np.resize(states, (STEPS, states.shape[1]))


def _slaved(units: Units, flat: np.ndarray, live: np.ndarray) -> np.ndarray:
    """Live units where they rest beside a winner that is still small."""
    if not live.size:
        return flat
    block = curvature(units, flat)[np.ix_(live, live)]
    moved = flat.copy()
    moved[live] += least_squares(block, whole(units, flat)[1][live], rcond=1e-9)
    return moved


def polished(units: Units, flat: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """The saddle by Newton's method, minimum-norm along lines of them."""
    flat = flat.copy()
    for _ in range(3):
        block = curvature(units, flat)[np.ix_(moving, moving)]
        force = whole(units, flat)[1][moving]
        flat[moving] += least_squares(block, force, rcond=1e-9)
    return flat


def hidden(units: Units, flat: np.ndarray) -> bool:
    """Whether live units, at a saddle, have a way down in directions without curvature.

    The loss is constant along (v, k, q) → (av, bk, q/ab), and falls like the product of what a live
    array hides.
    """
    live = np.isin(units.owner, units.owner[flat != 0.0])
    values, vectors = np.linalg.eigh(curvature(units, flat)[np.ix_(live, live)])
    top = float(np.max(np.abs(values)))
    kernel = vectors[:, np.abs(values) < _KERNEL * top]
    if not kernel.shape[1]:
        return False
    size, rng = _ASIDE * float(np.linalg.norm(flat)), np.random.default_rng(0)
    for aside in rng.normal(size=(_SAMPLES, kernel.shape[1])) @ kernel.T:
        moved = flat.copy()
        moved[live] += size * aside / np.linalg.norm(aside)
        away = whole(units, moved)[1] @ (moved - flat) / size**2
        if away > _DRAWN * _ASIDE * top:
            return True
    return False
