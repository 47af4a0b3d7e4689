"""The compiled programs of a fast system: its steps, and what is read along them."""

from typing import NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gflow.internal import Pace, Unframed, march, on_device
from gflow.solvers import RKC2, ROCK4, Dopri8, Rodas5P, Switching, Tsit5

from ._fast_system import FastSystem

#: Attempted steps in one compiled call.
STEPS = 128
#: An orbit that takes more than so many explicit rounds is stiff.
_EXPLICIT = 8
#: Rows that are computed side by side.
_SIDE = 8
#: A tolerance that every error meets.
_ANY = 1e300
#: Up to this many state components a Rosenbrock step is cheap.
_DENSE = 400
#: With a tolerance above this, steps of low order are as long as stability allows.
_LOOSE = 1e-7
#: Speeds of so many errors of a step, which ROCK4 leaves times the spectral radius, are left to
#: another method; in shares of the largest speeds.
_SETTLING = 1e4
#: The error of a step of order two, which adds up, as a share of the tolerance.
_SHARE = 0.01


class _Started(Unframed):
    """The fast system at a point, for `march`.

    Steps are at most as long as the orbit so far and `least`: what has not moved since then has
    come to rest, while dormant sizes go on, from whose digits longer steps would take.
    """

    fast: FastSystem
    least: Float[Array, ""]

    def horizon(self, t, state, atol):
        return t + self.least

    def velocity(self, t, state):
        return self.fast.velocity(state)

    def recentred(self, state):
        if not any(p.drifts for p in self.fast.pieces):
            return (), state, jnp.array(False)
        return (), self.fast.recentred(state), jnp.array(True)


class Method(NamedTuple):
    """A solver, and the error that each of its steps may have."""

    solver: diffrax.AbstractAdaptiveSolver
    error: float


class Methods(NamedTuple):
    """By which an orbit is followed: so many `rounds` of `first`, then where it is stiff.

    `settling`: once no speed is more than a share `slow` of its largest one.
    """

    rounds: int
    first: Method
    stiff: Method
    settling: Method
    slow: float

    @classmethod
    def of(cls, size: int, tolerance: float) -> "Methods":
        """For a state of this size, with this error a step.

        An implicit step costs as the state has components, and is long where errors may be.
        """
        rounds = min(1 + size // 13, 1 + int((_LOOSE / tolerance) ** 0.2))
        first = Method(Dopri8(), tolerance)
        stiff = Method(Rodas5P() if size <= _DENSE else Switching(Tsit5(), ROCK4()), tolerance)
        settling = stiff
        if size > _DENSE and tolerance > _LOOSE:
            # the last stages of ROCK4 keep its state off rest by what it is allowed
            stiff = Method(ROCK4(), tolerance)
            settling = Method(RKC2(), _SHARE * tolerance)
        return cls(_EXPLICIT * rounds, first, stiff, settling, _SETTLING * tolerance)

    def at(self, number: int, pace: float) -> Method:
        """For a round of this number, at this share of the largest speed."""
        if number < self.rounds:
            return self.first
        return self.settling if pace < self.slow else self.stiff


@eqx.filter_jit
def _advance(
    fast: FastSystem,
    state: Array,
    pace: Pace,
    tolerance: Float[Array, ""],
    elapsed: Float[Array, ""],
    least: Float[Array, ""],
    span: Float[Array, ""],
    solver: diffrax.AbstractAdaptiveSolver,
):
    return march(
        lambda x: _Started(x, fast, least), state, solver, (tolerance, jnp.zeros_like(tolerance)),
        elapsed, span, pace, attempts=STEPS,
    )  # fmt: skip


def advance(
    fast: FastSystem, state: np.ndarray, elapsed: float, least: float, pace: Pace, method: Method
) -> tuple[np.ndarray, np.ndarray, Pace]:
    """Up to `STEPS` steps from `state`: times from there, states, and the pace to go on at.

    `elapsed`: since the orbit began. `least`: the length that any step may have.
    """
    numbers = (on_device(np.asarray(x)) for x in (method.error, elapsed, least, np.inf))
    steps = _advance(fast, on_device(state), pace, *numbers, method.solver)
    kept = np.asarray(steps.kept)
    return np.asarray(steps.t)[kept], np.asarray(steps.state)[kept], steps.pace


def one_step(fast: FastSystem, state: np.ndarray, step: float, method: Method) -> np.ndarray:
    """The state after one step of this length, whatever its error."""
    numbers = (on_device(np.asarray(x)) for x in (_ANY, 0.0, step, step))
    steps = _advance(fast, on_device(state), Pace.at(on_device(step)), *numbers, method.solver)
    return np.asarray(steps.state)[np.asarray(steps.kept)][-1]


class Motion(NamedTuple):
    """At points of an orbit: velocity v, ∂v along some direction, and the loss."""

    velocity: np.ndarray
    change: np.ndarray
    loss: np.ndarray


@eqx.filter_jit
def _moving(
    fast: FastSystem, states: Array, directions: Array, along: Array, blocks: Array
) -> tuple[Array, Array, Array]:
    """The first `blocks` of rows, in turn: one program for any number of points."""

    def one(state, direction):
        velocity, push, loss = jax.linearize(fast.moving, state, has_aux=True)
        return velocity, push(jnp.where(along, velocity, direction)), loss

    def block(i, out):
        rows = (jax.lax.dynamic_slice_in_dim(x, i * _SIDE, _SIDE) for x in (states, directions))
        found = jax.vmap(one)(*rows)
        write = jax.lax.dynamic_update_slice_in_dim
        return jax.tree.map(lambda x, new: write(x, new, i * _SIDE, 0), out, found)

    nothing = jnp.zeros_like(states), jnp.zeros_like(states), jnp.zeros_like(states[:, 0])
    return jax.lax.fori_loop(0, blocks, block, nothing)


def moving(fast: FastSystem, states: np.ndarray, directions: np.ndarray | None = None) -> Motion:
    """At each of some states; without `directions` along the velocity, which is acceleration.

    Compiled once for all that is asked of an orbit, since compiling a network's second derivative
    takes longer than following the orbit.
    """
    pushes = states if directions is None else directions
    along, parts = on_device(np.array(directions is None)), []
    for first in range(0, len(states), STEPS):
        own = slice(first, min(first + STEPS, len(states)))
        count = own.stop - own.start
        rows = (np.resize(x[own], (STEPS, x.shape[1])) for x in (states, pushes))
        blocks = on_device(np.array(-(-count // _SIDE)))
        found = _moving(fast, *map(on_device, rows), along, blocks)
        parts.append([np.asarray(x)[:count] for x in found])
    return Motion(*(np.concatenate(x) for x in zip(*parts, strict=True)))


def velocity_jacobian(fast: FastSystem, state: np.ndarray) -> np.ndarray:
    size = state.size
    return moving(fast, np.broadcast_to(state, (size, size)), np.eye(size)).change.T


@eqx.filter_jit
def _weights(fast: FastSystem, state: Array) -> dict[str, Array]:
    return fast.weights(state)


def weights_at(fast: FastSystem, state: np.ndarray) -> dict[str, np.ndarray]:
    return {n: np.asarray(w) for n, w in _weights(fast, on_device(state)).items()}


@eqx.filter_jit
def _velocities(fast: FastSystem, states: Float[Array, "n size"]) -> Float[Array, "n size"]:
    return jax.lax.map(fast.velocity, states, batch_size=64)


def velocities(fast: FastSystem, states: np.ndarray) -> np.ndarray:
    """At many points, compiled once for all numbers up to a power of two."""
    return np.asarray(_velocities(fast, _padded(states)))[: len(states)]


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
