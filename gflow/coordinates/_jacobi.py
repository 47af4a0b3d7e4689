"""Jacobi's rotations of graded columns: each keeps its relative accuracy, however small."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

#: Cosine of two columns beyond which they are made orthogonal at the end of a step.
OVERLAP = 0.2

#: Log-size of a column that is zero.
EMPTY = -1e12


def rotated(
    x: Float[Array, "rows r"],
    log_size: Float[Array, " r"],
    i: Int[Array, " pairs"],
    j: Int[Array, " pairs"],
) -> tuple[Array, Array]:
    """Columns i and j of x·e^{log_size} after Jacobi's rotation: orthogonal, of length one.

    With t the tangent of the angle and ρ ≤ 1 the smaller over the larger column, the smaller
    takes on −t/ρ of the larger; both t and t/ρ are computed without cancellation, so that a
    column of any size keeps its relative accuracy. The pairs are disjoint.
    """
    swap = log_size[j] > log_size[i]
    i, j = jnp.where(swap, j, i), jnp.where(swap, i, j)
    (big, log_big), (small, log_small) = (_unit(x[:, k], log_size[k]) for k in (i, j))
    overlap = jnp.sum(big * small, axis=0)
    ratio = jnp.exp(jnp.minimum(log_small - log_big, 0.0))
    gap = 0.5 * (1.0 - ratio) * (1.0 + ratio)  # ρ sinh r
    bottom = gap + jnp.sqrt((ratio * overlap) ** 2 + gap**2)
    over = jnp.where(bottom > 0.0, overlap / jnp.where(bottom > 0.0, bottom, 1.0), 0.0)  # t/ρ
    cosine = 1.0 / jnp.sqrt(1.0 + (ratio * over) ** 2)
    larger = cosine[None] * (big + (ratio**2 * over)[None] * small)
    rest = cosine[None] * (small - over[None] * big)
    larger, log_big = _unit(larger, log_big)
    # nothing left: the columns were parallel, and there is one less of them
    empty = jnp.sum(rest**2, axis=0) < (64 * jnp.finfo(x.dtype).eps) ** 2
    rest, log_small = _unit(jnp.where(empty[None], small, rest), log_small)
    x = x.at[:, i].set(larger).at[:, j].set(rest)
    log_size = log_size.at[i].set(log_big)
    return x, log_size.at[j].set(jnp.where(empty, EMPTY, log_small))


def _unit(x: Float[Array, "rows k"], log_size: Float[Array, " k"]) -> tuple[Array, Array]:
    norm = jnp.sqrt(jnp.sum(x**2, axis=0))
    there = norm > 0.0
    norm = jnp.where(there, norm, 1.0)
    anything = 1.0 / x.shape[0] ** 0.5
    x = jnp.where(there[None], x / norm[None], anything)
    return x, jnp.where(there, log_size + jnp.log(norm), EMPTY)


def orthogonal(
    x: Float[Array, "rows r"], log_size: Float[Array, " r"], sweeps: int = 12
) -> tuple[Array, Array]:
    """All columns made orthogonal and of length one, by sweeps of Jacobi's rotations."""
    rounds = tournament(x.shape[1])
    now = _unit(x, log_size)
    if not len(rounds):
        return now

    def play(k, now):
        i, j = rounds[k]
        return rotated(*now, i, j)

    def sweep(carry):
        count, now, _ = carry
        now = jax.lax.fori_loop(0, len(rounds), play, now)
        return count + 1, now, _overlaps(*now)

    def unfinished(carry):
        return (carry[0] < sweeps) & (carry[2] > 8.0 * jnp.finfo(x.dtype).eps)

    # a first sweep in any case: the last one before rounding, and what is parallel, are its work
    return jax.lax.while_loop(unfinished, sweep, sweep((0, now, 1.0)))[1]


def _overlaps(x: Float[Array, "rows r"], log_size: Float[Array, " r"]) -> Float[Array, ""]:
    """The largest cosine of two columns that are there."""
    there = log_size > 0.5 * EMPTY
    x = jnp.where(there[None, :], x, 0.0)
    return jnp.max(jnp.abs(jnp.matmul(x.T, x)) * (1.0 - jnp.eye(x.shape[1], dtype=x.dtype)))


def tournament(r: int) -> Int[Array, "rounds two pairs"]:
    """Rounds of disjoint pairs of r columns in which every two of them meet once."""
    players, rounds = list(range(r + r % 2)), []
    for _ in range(len(players) - 1):
        half = len(players) // 2
        pairs = list(zip(players[:half], reversed(players[half:]), strict=True))
        rounds.append([p for p in pairs if max(p) < r])
        players = [players[0], players[-1], *players[1:-1]]
    pairs = np.array(rounds, np.int32).reshape(len(rounds), -1, 2)
    return jnp.asarray(pairs.swapaxes(1, 2) if r > 1 else np.zeros((0, 2, 0), np.int32))
