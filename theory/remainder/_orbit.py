r"""A connecting orbit and its linearisation, with what it leaves out as a source.

Let y be the state of the orbit and ε_j the sizes of what it leaves out, y' = v(y, ε). Deviations
follow

    δ' = (∂v/∂y) δ + Σ_j (∂v/∂ε_j) ε_j(s),   ε_j' = 2ℓ_j' ε_j,

and an orbit that deviates by δ when it crosses its level f(y, ε) comes late by −df/f'. All of
this but the sizes ε_j is the same for every α, so it is worked out once a prediction.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jax.scipy.linalg import block_diag
from jaxtyping import Array, Float, Int

from gflow.internal import Coordinate, on_device

from .._stage import Stage
from ..gradual_rank._fast_system import FastSystem, assembled, by_piece
from ..gradual_rank._hadamard import HadamardWeights
from ..gradual_rank._orbits import Orbit
from ..gradual_rank._saddle_leaf import SaddleLeaf
from ._columns import ColumnModes
from ._modes import Modes, WeightModes

#: Largest change of a rate or of a weight within one step of the linearisation, largest
#: change·(rate·step)², how many of these an accepted step of the orbit is cut into at most, and
#: how few an orbit may have.
_CHANGE, _MISSED, _CUTS, _FEWEST = 0.25, 0.005, 400, 60
#: A log-size below this is that of a mode entering its orbit.
ENTERED = -10.0
#: Of an orbit's first velocity: slower is no relaxation.
_STILL = 1e-9
#: Points in one compiled call, and to what their components that weights feel are rounded up.
_BLOCK, _ROOM = 64, 16


@dataclasses.dataclass(frozen=True, eq=False)
class Linear:
    """Derivatives at points: by the state, then by the sizes of the modes of every piece."""

    velocity: np.ndarray
    by_state: np.ndarray
    by_size: np.ndarray
    loss: np.ndarray
    weights: np.ndarray

    def __getitem__(self, i) -> "Linear":
        return Linear(*(getattr(self, f.name)[i] for f in dataclasses.fields(self)))


@dataclasses.dataclass(frozen=True, eq=False)
class Path:
    """One orbit: nodes `s` and states, propagators of the steps between, and both ends.

    `over[i]`, `into[i]`: what step i makes of a deviation, and of sources of size 1 at its
    beginning. `begin`, `end`: linearised at the first node and at the saddle. `level`: gradient
    of what defines the crossing at s = 0, by state and sizes, divided by its rate.
    """

    orbit: Orbit
    modes: list[Modes]
    s: np.ndarray
    state: np.ndarray
    between: Linear
    gained: np.ndarray
    over: np.ndarray
    into: np.ndarray
    begin: Linear
    end: Linear
    level: np.ndarray

    def partial(self, i: int, length: float) -> tuple[np.ndarray, np.ndarray]:
        """Propagators over a part of step i."""
        here = self.between[i]
        return _propagators(here.by_state, here.by_size, self.rates(here.velocity), length)

    def rates(self, velocity: np.ndarray) -> np.ndarray:
        """ℓ' of the modes of all pieces, one after the other."""
        parts = [m.rates(v) for m, v in zip(self.modes, self.split(velocity), strict=True)]
        return np.concatenate(parts, axis=-1)

    def split(self, state: np.ndarray) -> list[np.ndarray]:
        """By pieces, along the last axis."""
        return split(self.modes, state)

    def bends(self, scale: float, after: bool) -> tuple[np.ndarray, np.ndarray]:
        """When ℓ' changes on the plateau before or `after` it, and by how much."""
        found = [m.bends(scale, after) for m in self.modes]
        when, change, _ = (np.concatenate(x) for x in zip(*found, strict=True))
        return when, change

    def turns(self, scale: float, after: bool) -> list[tuple[int, float, float]]:
        """Components of the state whose speed changes there, when, and by which share."""
        out, offset = [], 0
        for m in self.modes:
            when, _, share = m.bends(scale, after)
            out += [(offset + int(i), float(when[i]), share[i]) for i in np.flatnonzero(share)]
            offset += len(share)
        return out

    @property
    def rest(self) -> np.ndarray:
        """The state at the saddle."""
        return np.concatenate([np.asarray(p.flat()) for p in self.orbit.saddle.pieces])

    def landed(self, s: float) -> np.ndarray:
        """Deviations on the orbit at time s as deviations on the plateau that it leads to."""
        states = self.split(self.orbit.states(np.array([s]))[0])
        return np.asarray(
            scipy.linalg.block_diag(*(m.landed(x) for m, x in zip(self.modes, states, strict=True)))
        )

    @property
    def living(self) -> np.ndarray:
        return np.concatenate([m.living for m in self.modes])

    def relaxations(self) -> np.ndarray:
        """Rates at which the saddle it leaves relaxes, directions of dormant columns included."""
        fast, state = self.orbit.fast, self.orbit.state[0]
        entering = fast.log_sizes & (state < ENTERED)
        moving = np.flatnonzero((fast.active & ~entering) | ~fast.log_sizes)
        values = np.linalg.eigvals(self.begin.by_state[np.ix_(moving, moving)]).real
        return -values[values < -_STILL * np.max(np.abs(self.begin.velocity))]

    def log_sizes(self, scale: float, waited: float) -> np.ndarray:
        """ℓ of all modes at Λ = scale, `waited` after the transition before; −∞ on the orbit."""
        logs = np.concatenate([m.log_sizes(scale, waited) for m in self.modes])
        return np.where(self.living, -np.inf, logs)


SaddleLeaves = Sequence[SaddleLeaf]


def modes_of(
    fast: FastSystem, saddle: FastSystem, before: SaddleLeaves, after: SaddleLeaves
) -> list[Modes]:
    """Of pieces that an orbit takes from `fast` to `saddle`, between two plateaus."""
    out: list[Modes] = []
    for piece, rest, part, next_part in zip(fast.pieces, saddle.pieces, before, after, strict=True):
        kind: Any = WeightModes if isinstance(part, HadamardWeights) else ColumnModes
        out.append(kind(piece, rest, part, next_part))
    return out


def split(modes: Sequence[Modes], state: np.ndarray) -> list[np.ndarray]:
    """States by pieces, along the last axis."""
    return np.split(state, np.cumsum([m.width for m in modes])[:-1], axis=-1)


def settled(fast: FastSystem, saddle: FastSystem, modes: Sequence[Modes]) -> Linear:
    """`fast` linearised at a saddle, dormant modes as in the middle of the plateau."""
    rows = zip(modes, fast.pieces, saddle.pieces, strict=True)
    pieces, states = zip(
        *(m.settled(p, np.asarray(rest.flat())) for m, p, rest in rows), strict=True
    )
    there = eqx.tree_at(lambda f: f.pieces, fast, tuple(pieces))
    return linearised(there, np.concatenate(states)[None], modes)[0]


def path_of(orbit: Orbit, stage: Stage, parts: SaddleLeaves, after: SaddleLeaves) -> Path:
    """Linearised along its nodes; `parts`, `after`: the plateaus around it."""
    fast = orbit.fast
    modes = modes_of(fast, orbit.saddle, parts, after)
    s = _nodes(orbit)
    middle = 0.5 * (s[1:] + s[:-1])
    where = np.concatenate([[s[0], 0.0], middle])
    points = linearised(fast, orbit.states(where), modes)
    begin, crossing, between = points[0], points[1], points[2:]
    coordinate = None if stage.level is None else stage.level.coordinate
    level = crossing.loss
    if coordinate is not None:
        level = crossing.weights[_place(fast, parts, coordinate)]
    states = orbit.states(s)
    gained = [m.gained(x, s) for m, x in zip(modes, split(modes, states), strict=True)]
    path = Path(
        orbit, modes, s, states, between, np.concatenate(gained, axis=-1),
        np.zeros(0), np.zeros(0), begin,
        settled(fast, orbit.saddle, modes),
        level / float(level[: states.shape[1]] @ crossing.velocity),
    )  # fmt: skip
    steps = np.diff(s)[:, None, None]
    rates = path.rates(between.velocity)
    over, into = _propagators(between.by_state, between.by_size, rates, steps)
    return dataclasses.replace(path, over=over, into=into)


def linearised(fast: FastSystem, states: np.ndarray, modes: Sequence[Modes]) -> Linear:
    """Derivatives at many states, in blocks that one compiled function takes."""
    count = len(states)
    padded = np.resize(states, (-(-count // _BLOCK) * _BLOCK, states.shape[1]))
    felt = np.flatnonzero(np.concatenate([fast.active, np.ones(sum(p.modes for p in fast.pieces))]))
    room = np.full(-len(felt) % _ROOM, np.iinfo(np.int32).max)
    felt = on_device(np.concatenate([felt, room]))
    parts = np.split(padded, len(padded) // _BLOCK)
    blocks = [_derivatives(fast, on_device(part), felt) for part in parts]
    velocity, *by = (np.concatenate(x)[:count] for x in zip(*blocks, strict=True))
    size = states.shape[1]
    offsets = np.cumsum([0, *(p.modes for p in fast.pieces)])[:-1]
    column = size + np.concatenate([m.column + o for m, o in zip(modes, offsets, strict=True)])
    sign = np.concatenate([m.share * m.sign for m in modes])
    moved, loss, weights = (np.concatenate([d[..., :size], d[..., column] * sign], -1) for d in by)
    places = np.cumsum([0, *(m.width for m in modes)])
    for m, a, b in zip(modes, places[:-1], places[1:], strict=True):
        kept = m.kept(states[:, a:b])
        if kept is not None:
            moved[:, a:b] = kept @ moved[:, a:b]
    return Linear(velocity, moved[..., :size], moved[..., size:], loss, weights)


@eqx.filter_jit
def _derivatives(fast: FastSystem, states: Float[Array, "block size"], felt: Int[Array, " felt"]):
    """Velocity, and by state and sizes the derivatives of velocity, loss and weights.

    The force is differentiated along the components `felt` alone, those that move a weight:
    the others, of dormant columns, are moved by it and act on their own piece only.
    """
    names, layout = fast.flow.names, fast.layout

    def force_at(parts):
        return by_piece(fast.flow.forces(assembled(parts, layout, names))[1], layout)

    def at(state):
        pieces = fast.unpack(state)
        flat = [p.flat() for p in pieces]
        none = [jnp.zeros(p.modes, state.dtype) for p in pieces]
        rows = list(zip(pieces, flat, none, strict=True))
        parts, made = [], []
        for piece, y, a in rows:
            weight = piece.disturbed(a)
            parts.append(weight)
            by = jax.jacfwd(lambda y, a, p=piece: p.at(y).disturbed(a).ravel(), (0, 1))(y, a)
            made.append(by)
        force = force_at(parts)
        velocity, own, pushed = [], [], []
        for (piece, y, a), g in zip(rows, force, strict=True):
            velocity.append(piece.pushed(g, a))
            by_y, by_a, by_g = jax.jacfwd(lambda y, a, g, p=piece: p.at(y).pushed(g, a), (0, 1, 2))(
                y, a, g
            )
            own.append((by_y, by_a))
            pushed.append(by_g.reshape(len(y), -1))

        def whole(blocks):
            sides = [block_diag(*side) for side in zip(*blocks, strict=True)]
            return jnp.concatenate(sides, axis=1)

        weights, moved = whole(made), whole(own)
        along = weights.at[:, felt].get(mode="fill", fill_value=0.0).T
        flat_parts, unravel = jax.flatten_util.ravel_pytree(parts)

        def turned(direction):
            _, change = jax.jvp(lambda w: force_at(unravel(w)), (flat_parts,), (direction,))
            return jnp.concatenate([c.ravel() for c in change])

        by_force = block_diag(*pushed) @ jax.vmap(turned)(along).T
        moved = moved.at[:, felt].add(by_force, mode="drop")
        falls = -jnp.concatenate([g.ravel() for g in force]) @ weights
        return jnp.concatenate(velocity), moved, falls, weights

    return jax.vmap(at)(states)


def _propagators(by_state, by_size, rate, length) -> tuple[np.ndarray, np.ndarray]:
    """e^{Jh}, and ∫e^{J(h−u)} b_j e^{2ℓ_j'u} du of every source j, at constant J, b and ℓ'."""
    size, count = by_size.shape[-2:]
    both = np.zeros((*by_state.shape[:-2], size + count, size + count))
    both[..., :size, :size] = by_state
    both[..., :size, size:] = by_size
    both[..., np.arange(size, size + count), np.arange(size, size + count)] = 2.0 * rate
    both *= length
    whole = np.empty_like(both)
    # the exponential of a stack needs many times the room of the stack
    matrices = both.reshape(-1, size + count, size + count)
    for a in range(0, len(matrices), _BLOCK):
        out = whole.reshape(matrices.shape)[a : a + _BLOCK]
        out[...] = scipy.linalg.expm(matrices[a : a + _BLOCK])
    return whole[..., :size, :size], whole[..., :size, size:]


def _nodes(orbit: Orbit) -> np.ndarray:
    """Accepted steps, joined and cut to where rates or weights change, with s = 0 among them."""
    logs, active = orbit.fast.log_sizes, orbit.fast.active
    span = np.diff(orbit.s)
    rate = 2.0 * np.abs(orbit.velocity[:, logs])
    weight = np.exp(2.0 * np.minimum(orbit.state[:, logs & active], 3.0))
    turned = orbit.state[:, ~logs]

    def most(x: np.ndarray) -> np.ndarray:
        return np.max(np.abs(x), axis=1, initial=0.0)

    change = most(np.diff(rate, axis=0)) * span + most(np.diff(weight, axis=0))
    change += 2.0 * most(np.diff(turned, axis=0))
    fastest = np.maximum(most(rate[1:]), most(rate[:-1]))

    def steps(span: float, change: float, fastest: float) -> float:
        # a constant propagator misses change·(rate·step)² of what passes
        return max(change / _CHANGE, (change * (span * fastest) ** 2 / _MISSED) ** (1 / 3))

    longest = (orbit.s[-1] - orbit.s[0]) / _FEWEST
    nodes, joined = [orbit.s[:1]], (0.0, 0.0, 0.0)
    for a, h, c, v in zip(orbit.s[:-1], span, change, fastest, strict=True):
        longer = joined[0] + h, joined[1] + c, max(joined[2], v)
        if joined[0] > 0.0 and (steps(*longer) > 1.0 or longer[0] > longest):
            nodes.append(np.array([a]))
            longer = h, c, v
        joined = longer
        cuts = int(np.clip(np.ceil(steps(h, c, v)), 1, _CUTS))
        nodes.append(a + h * np.arange(1, cuts) / cuts)
    return np.unique(np.concatenate([*nodes, orbit.s[-1:], [0.0]]))


def _place(fast: FastSystem, parts: Sequence[SaddleLeaf], coordinate: Coordinate) -> int:
    """Where the weight that tells when the stage happens is among all weights."""
    name, index = coordinate
    at = 0
    for part, heads in zip(parts, fast.layout, strict=True):
        if heads[0][0] == name:
            return at + int(np.ravel_multi_index(index, part.weight.shape))
        at += part.weight.size
    raise ValueError(f"No leaf {name!r} on the orbit.")
