"""Bases at the interfaces of matrices, turned after every step so that units stay apart."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ..coordinates._bases import along
from ..coordinates._jacobi import EMPTY, tournament

#: Sweeps of rotations after a step.
SWEEPS = 2
#: Two directions of which one is smaller by this are ordered, and told apart.
APART = np.log(10.0)
#: Share of a small direction that may be of a larger one at the end of a step.
DROWNED = 0.3
#: Share of the loss by which it may change when an interface is turned.
SAME = 1e-9


def turning(flow: Any) -> Float[Array, " interfaces"]:
    """The share of the loss of weights of order one that turning each interface changes."""
    shapes = [c.binding.shape for c in flow.coordinates]
    keys = jax.random.split(jax.random.key(0), len(shapes) + len(flow.interfaces))
    weights = [jax.random.normal(k, s, flow.dtype) for k, s in zip(keys, shapes, strict=False)]
    weights = [w / np.sqrt(max(w.shape)) for w in weights]

    def loss(weights):
        return flow.loss(dict(zip(flow.names, weights, strict=True)))

    changes = []
    for key, places in zip(keys[len(shapes) :], flow.interfaces, strict=True):
        width = shapes[places[0][0]][places[0][1]]
        turn = jnp.linalg.qr(jax.random.normal(key, (width, width), flow.dtype))[0]
        other = list(weights)
        for i, axis in places:
            other[i] = along(other[i], turn, axis)
        scale = jnp.maximum(jnp.abs(loss(weights)), jnp.abs(loss(other)))
        changes.append(jnp.abs(loss(other) - loss(weights)) / scale)
    return jnp.stack(changes) if changes else jnp.zeros((0,), flow.dtype)


def turned(flow: Any, state: Array) -> tuple[list[tuple[Array, ...]], Array, Array, Array]:
    r"""Bases of all leaves after a step, the state in them, whose unit each now is, what drowned.

    The loss stays the same when what leaves one matrix and enters the next is turned, W_j → R W_j,
    W_{j+1} → W_{j+1} Rᵀ. The columns of (W_jᵀ; W_{j+1}) are made orthogonal and ordered by size. As
    the flow conserves W_{j+1}ᵀW_{j+1} − W_jW_jᵀ, of the size of the start squared, what joins a
    live direction and a dormant one of size ε then is of size ε², and dormant units are known to
    their own rounding. Turned too late, they hold mostly of a live one what is theirs: the last
    that is returned is the largest such share.
    """
    frozen, units = flow.clockwork.frozen, flow.units
    weights = list(flow.weights(state).values())
    bases = [list(c.bases) for c in flow.coordinates]
    order, drowned = jnp.arange(units), jnp.zeros((), state.dtype)
    for places in flow.interfaces:
        leaf, axis = places[0]
        width, first = weights[leaf].shape[axis], flow.first[leaf]
        columns = [jnp.moveaxis(weights[i], a, -1).reshape(-1, width) for i, a in places]
        mine = slice(first, first + width)
        turn, share = orthogonal(jnp.concatenate(columns), frozen[mine])
        drowned = jnp.maximum(drowned, share)
        for i, a in places:
            weights[i] = along(weights[i], turn, a)
            k = flow.coordinates[i].binding.axes.index(a)
            bases[i][k] = jnp.matmul(turn, bases[i][k])
        order = order.at[mine].set(first + jnp.argmax(jnp.abs(turn), axis=1))
    state = jnp.concatenate([*flow.in_units(weights), state[-1:]])
    return [tuple(b) for b in bases], state, order, drowned


def orthogonal(
    z: Float[Array, "rows n"], held: Bool[Array, " n"]
) -> tuple[Float[Array, "n n"], Float[Array, ""]]:
    """R, graded like the columns, with those of z Rᵀ orthogonal and in order; the largest overlap.

    That is of two columns of which one is far smaller. Those that are `held` are not turned among
    each other.
    """
    n = z.shape[1]
    top = jnp.max(jnp.abs(z), axis=0)
    there = top > 0.0
    x, logs = _unit(z / jnp.where(there, top, 1.0)[None], jnp.where(there, jnp.log(top), EMPTY))
    overlap = jnp.abs(jnp.matmul(x.T, x))
    share = jnp.max(jnp.where(logs[:, None] - logs[None] > APART, overlap, 0.0))
    now = x, logs, jnp.eye(n, dtype=z.dtype)
    rounds = tournament(n)

    def play(k, now):
        return _rotated(*now, *rounds[k % len(rounds)], held)

    if len(rounds):
        now = jax.lax.fori_loop(0, SWEEPS * len(rounds), play, now)
    _, logs, turn = now
    order = jnp.argsort(-jnp.floor(logs / APART), stable=True)
    return turn[:, order].T, share


def _rotated(
    x: Float[Array, "rows n"], logs: Float[Array, " n"], turn: Float[Array, "n n"],
    i: Int[Array, " pairs"], j: Int[Array, " pairs"], held: Bool[Array, " n"],
) -> tuple[Array, Array, Array]:  # fmt: skip
    """Columns i and j made orthogonal, with the columns of the rotation so far.

    As `coordinates._jacobi.rotated`, which see; it may not lose a column, as this is a rotation.
    """
    swap = logs[j] > logs[i]
    i, j = jnp.where(swap, j, i), jnp.where(swap, i, j)
    big, small = x[:, i], x[:, j]
    overlap = jnp.where(held[i] & held[j], 0.0, jnp.sum(big * small, axis=0))
    ratio = jnp.exp(logs[j] - logs[i])
    gap = 0.5 * (1.0 - ratio) * (1.0 + ratio)
    bottom = gap + jnp.sqrt((ratio * overlap) ** 2 + gap**2)
    over = jnp.where(bottom > 0.0, overlap / jnp.where(bottom > 0.0, bottom, 1.0), 0.0)
    tangent = ratio * over
    cosine = 1.0 / jnp.sqrt(1.0 + tangent**2)
    larger, log_larger = _unit(cosine[None] * (big + (ratio * tangent)[None] * small), logs[i])
    rest, log_rest = _unit(cosine[None] * (small - over[None] * big), logs[j])
    x = x.at[:, i].set(larger).at[:, j].set(rest)
    logs = logs.at[i].set(log_larger).at[j].set(log_rest)
    one, other = turn[:, i], turn[:, j]
    turn = turn.at[:, i].set(cosine[None] * (one + tangent[None] * other))
    return x, logs, turn.at[:, j].set(cosine[None] * (other - tangent[None] * one))


def _unit(x: Float[Array, "rows k"], logs: Float[Array, " k"]) -> tuple[Array, Array]:
    norm = jnp.sqrt(jnp.sum(x**2, axis=0))
    there = norm > 0.0
    norm = jnp.where(there, norm, 1.0)
    return x / norm[None], jnp.where(there, logs + jnp.log(norm), EMPTY)
