r"""The fast system of the limit α → 0: what moves on the orbit between two saddles.

A model is cut into pieces, one for each Hadamard leaf, one for each head of a factored leaf and
one for heads that feel one force.
Every piece has an active part, which makes its weight, and a dormant rest, which is infinitely
smaller as α → 0: it feels the force of the active part and makes none. All pieces together are
one autonomous system, stiff after the transition.
"""

import abc
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from gflow.internal import TERM, Flow, Pace, Unframed, eager, march, on_device
from gflow.solvers import ROCK4, Dopri8, Rodas5P, Switching, Tsit5

#: Attempted steps in one compiled call.
STEPS = 128
#: Up to this many state components a Rosenbrock step is cheap.
_DENSE = 400


class OrbitLeaf(eqx.Module):
    """The state of one leaf, of one head of it, or of several heads, on an orbit."""

    @abc.abstractmethod
    def flat(self) -> Float[Array, " size"]: ...

    @abc.abstractmethod
    def at(self, flat: Float[Array, " size"]) -> "OrbitLeaf": ...

    @abc.abstractmethod
    def weight(self) -> Float[Array, "..."]:
        """The effective weight, of the active part alone; heads along the first axis."""

    @abc.abstractmethod
    def velocity(self, force: Float[Array, "..."]) -> Float[Array, " size"]: ...

    @property
    @abc.abstractmethod
    def modes(self) -> int:
        """How many modes it has, dormant ones included, up to the side they are on."""

    @abc.abstractmethod
    def disturbed(self, amount: Float[Array, " modes"]) -> Float[Array, "..."]:
        """The weight where dormant modes have these small amounts of their own."""

    @abc.abstractmethod
    def pushed(
        self, force: Float[Array, "..."], amount: Float[Array, " modes"]
    ) -> Float[Array, " size"]:
        """The velocity then."""

    @property
    @abc.abstractmethod
    def active(self) -> Bool[Array, " size"]:
        """Which components make the weight, and come to rest at a saddle."""

    @property
    @abc.abstractmethod
    def log_sizes(self) -> Bool[Array, " size"]:
        """Which components, active or dormant, are logarithms of sizes."""

    @abc.abstractmethod
    def without(self, gone: Bool[Array, " size"]) -> "OrbitLeaf":
        """The same state, with the active parts of these log-sizes made dormant."""

    @property
    def unitless(self) -> bool:
        """Whether every component is compared with the fastest of the piece, not with itself."""
        return False

    @property
    def drifts(self) -> bool:
        """Whether rounding takes the state off a manifold that `recentred` puts it back on."""
        return False

    def recentred(self) -> "OrbitLeaf":
        return self

    def loose(self) -> "OrbitLeaf":
        """With no weight held at a kink of the loss."""
        return self


#: Leaf name, and which head of the leaf.
Head = tuple[str, tuple[int, ...]]
#: The heads of every piece; those of a piece of several are the first axis of its weight.
Layout = tuple[tuple[Head, ...], ...]


class FastSystem(eqx.Module):
    """All pieces of a model; `layout`: the heads of each."""

    flow: Flow
    pieces: tuple[OrbitLeaf, ...]
    layout: Layout = eqx.field(static=True)

    def start(self) -> Float[Array, " size"]:
        return joined(self.pieces)

    def unpack(self, state: Float[Array | np.ndarray, " size"]) -> list[OrbitLeaf]:
        out, at = [], 0
        for piece in self.pieces:
            size = piece.flat().size
            mine = state[at : at + size]
            out.append(piece.at(on_device(mine) if isinstance(mine, np.ndarray) else mine))
            at += size
        return out

    def place(self, piece: int) -> int:
        """Where the state of a piece begins."""
        return sum(p.flat().size for p in self.pieces[:piece])

    def weights(self, state: Float[Array, " size"]) -> dict[str, Array]:
        """Leaf name → effective weight."""
        parts = [p.weight() for p in self.unpack(state)]
        return assembled(parts, self.layout, self.flow.names)

    def velocity(self, state: Float[Array, " size"]) -> Float[Array, " size"]:
        pieces = self.unpack(state)
        weights = assembled([p.weight() for p in pieces], self.layout, self.flow.names)
        forces = by_piece(self.flow.forces(weights)[1], self.layout)
        return jnp.concatenate([p.velocity(g) for p, g in zip(pieces, forces, strict=True)])

    @property
    def active(self) -> np.ndarray:
        return np.concatenate([np.asarray(p.active) for p in self.pieces])

    @property
    def log_sizes(self) -> np.ndarray:
        return np.concatenate([np.asarray(p.log_sizes) for p in self.pieces])

    def together(self) -> list[slice]:
        """The components that are compared with the fastest among them, piece by piece."""
        ends = [self.place(i) for i in range(len(self.pieces) + 1)]
        parts = zip(self.pieces, itertools.pairwise(ends), strict=True)
        return [slice(*edges) for p, edges in parts if p.unitless]

    def without(self, gone: np.ndarray) -> "FastSystem":
        if not gone.any():
            return self
        pieces, at = [], 0
        for p in self.pieces:
            size = p.flat().size
            pieces.append(p.without(on_device(gone[at : at + size])))
            at += size
        return eqx.tree_at(lambda f: f.pieces, self, tuple(pieces))


@eager
def _concatenated(xp: Any, *parts: Any) -> Any:
    return xp.concatenate(parts)


def joined(pieces: Sequence[OrbitLeaf]) -> Float[Array, " size"]:
    return _concatenated(*(p.flat() for p in pieces))


def assembled(parts: Sequence[Any], layout: Layout, names: Sequence[str]) -> dict[str, Any]:
    """Leaf name → array, from those of the pieces: a leaf as it is, heads stacked in order."""
    out = {}
    for name in names:
        mine = {
            head: x if len(heads) == 1 else x[i]
            for heads, x in zip(layout, parts, strict=True)
            for i, (n, head) in enumerate(heads)
            if n == name
        }
        if () in mine:
            out[name] = mine[()]
            continue
        order = sorted(mine)
        shape = tuple(1 + i for i in order[-1])
        out[name] = jnp.stack([mine[head] for head in order])
        out[name] = out[name].reshape(*shape, *out[name].shape[1:])
    return out


def by_piece(whole: Mapping[str, Array], layout: Layout) -> list[Array]:
    """What every piece has of arrays by leaf name."""
    out = []
    for heads in layout:
        mine = [whole[name][head] for name, head in heads]
        out.append(mine[0] if len(mine) == 1 else jnp.stack(mine))
    return out


class _Started(Unframed):
    """The fast system at a point, for `march`."""

    fast: FastSystem

    def velocity(self, t, state):
        return self.fast.velocity(state)

    def recentred(self, state):
        if not any(p.drifts for p in self.fast.pieces):
            return (), state, jnp.array(False)
        return (), joined([p.recentred() for p in self.fast.unpack(state)]), jnp.array(True)


def _solver(size: int, stiff: bool) -> diffrax.AbstractAdaptiveSolver:
    if not stiff:
        return Dopri8()
    return Rodas5P() if size <= _DENSE else Switching(Tsit5(), ROCK4())


@eqx.filter_jit
def advance(fast: FastSystem, state: Array, pace: Pace, tolerance: Float[Array, ""], stiff: bool):
    """Up to `STEPS` steps from `state`: times, what `motion` reads there, which were kept."""
    zero = jnp.zeros_like(tolerance)
    steps = march(
        lambda x: _Started(x, fast), state, _solver(state.size, stiff), (tolerance, zero), zero,
        jnp.full_like(zero, jnp.inf), pace, attempts=STEPS,
    )  # fmt: skip
    return (steps.t, *jax.vmap(lambda y: _motion(fast, y))(steps.state)), steps.kept, steps.pace


def _motion(fast: FastSystem, state: Array) -> tuple[Array, Array, Array, Array]:
    velocity, acceleration = jax.jvp(fast.velocity, (state,), (fast.velocity(state),))
    return state, velocity, acceleration, fast.flow.loss(fast.weights(state))


@eqx.filter_jit
def motion(
    fast: FastSystem, state: Array
) -> tuple[tuple[Array, Array, Array, Array], dict[str, Array]]:
    """State, velocity, acceleration and loss; the weights."""
    return _motion(fast, state), fast.weights(state)


@eqx.filter_jit
def one_step(
    fast: FastSystem, state: Array, step: Float[Array, ""], stiff: bool
) -> tuple[Array, Array]:
    """State and loss after one step of this length."""
    zero = jnp.zeros_like(step)
    solver = _solver(state.size, stiff)
    args = (_Started(state, fast), zero)
    inner = jax.tree.map(jnp.asarray, solver.init(TERM, zero, step, state, args))
    out = solver.step(TERM, zero, step, state, args, inner, jnp.array(False))[0]
    return out, fast.flow.loss(fast.weights(out))


@eqx.filter_jit
def _velocities(fast: FastSystem, states: Float[Array, "n size"]) -> Float[Array, "n size"]:
    return jax.lax.map(fast.velocity, states, batch_size=64)


def velocities(fast: FastSystem, states: np.ndarray) -> np.ndarray:
    """At many points, compiled once for all numbers up to a power of two."""
    return np.asarray(_velocities(fast, _padded(states)))[: len(states)]


@eqx.filter_jit
def velocity_jacobian(fast: FastSystem, state: Array) -> Float[Array, "size size"]:
    return jax.jacfwd(fast.velocity)(state)


@eqx.filter_jit
def _evaluated(fast: FastSystem, states: Float[Array, "n size"]) -> tuple[Array, dict[str, Array]]:
    def at(state):
        weights = fast.weights(state)
        return fast.flow.loss(weights), weights

    return jax.lax.map(at, states, batch_size=64)


def evaluated(fast: FastSystem, states: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Loss and weights at many points, compiled once for all numbers up to a power of two."""
    count = len(states)
    loss, weights = _evaluated(fast, _padded(states))
    return np.asarray(loss)[:count], {n: np.asarray(w)[:count] for n, w in weights.items()}


def _padded(states: np.ndarray) -> Array:
    room = max(1 << (len(states) - 1).bit_length(), 256)
    return on_device(np.resize(states, (room, states.shape[1])))
