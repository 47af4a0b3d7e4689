"""The compiled programs of a fast system: its steps, and what is read along them."""

from typing import NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gflow.internal import Pace, Unframed, march, on_device

from ._fast_system import FastSystem

#: Attempted steps in one compiled call.
STEPS = 128
#: Rows that are computed side by side.
_SIDE = 8


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


@eqx.filter_jit
def marched(
    fast: FastSystem,
    state: Array,
    pace: Pace,
    tolerance: Float[Array, ""],
    elapsed: Float[Array, ""],
    least: Float[Array, ""],
    span: Float[Array, ""],
    solver: diffrax.AbstractAdaptiveSolver,
):
    """Up to `STEPS` steps within `span`, by a solver of Diffrax's kind with this error a step.

    `elapsed`: since the orbit began. `least`: the length that any step may have.
    """
    return march(
        lambda x: _Started(x, fast, least), state, solver, (tolerance, jnp.zeros_like(tolerance)),
        elapsed, span, pace, attempts=STEPS,
    )  # fmt: skip


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


def velocity_jacobian(fast: FastSystem, state: np.ndarray, along: np.ndarray) -> np.ndarray:
    """∂v of all components along those that are marked: dormant ones move no others."""
    pushes = np.eye(state.size)[along]
    if not len(pushes):
        return np.zeros((state.size, 0))
    return moving(fast, np.broadcast_to(state, pushes.shape), pushes).change.T


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
