r"""Connecting orbits of matrix products: active columns, and dormant ones carried along.

On the orbit between two saddles the active columns of Z = [A; B] make W and move it; the
dormant ones, infinitely smaller as α → 0, follow Z' = H(W(s)) Z in the gauge in which each
is cleared of all larger ones (`gflow.gauge`), so that their log-sizes are logarithms of ratios
of volumes and stay as well-determined as those of the active ones, however long the orbit.
"""

import dataclasses
from collections.abc import Sequence

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from scipy import interpolate

from gflow.crossings import bracketed_root
from gflow.flow import Flow
from gflow.gauge import clearing, column_velocity, moved
from gflow.solvers import ROCK4, Rodas5P, Switching
from gflow.stepping import TERM, Field, Pace, march

from .orbits import Degenerate, Unbounded

_STEPS, _ROUNDS = 128, 100
#: Longest orbit, in units of 1/(largest initial force).
_PATIENCE = 1e6
#: A rate this far below the largest initial force counts as rest.
_AT_REST = 1e-11
#: Up to this many state components a Rosenbrock step is cheap.
_DENSE = 160


class Block(eqx.Module):
    """The columns of one head of one leaf: directions, log-sizes, and how many are active.

    `graded`: the dormant columns are infinitely smaller one than the next; else they are of
    like size, as at a start that nothing has moved yet.
    """

    direction: Float[Array, "rows r"]
    log_size: Float[Array, " r"]
    active: Bool[Array, " r"]
    graded: Bool[Array, ""]
    decay: Float[Array, ""]
    split: int = eqx.field(static=True)

    def weight(self) -> Float[Array, "m n"]:
        size = jnp.where(self.active, jnp.exp(2.0 * self.log_size), 0.0)
        left, right = self.direction[: self.split], self.direction[self.split :]
        return (left * size[None]) @ right.T

    def velocity(self, force: Float[Array, "m n"]) -> tuple[Array, Array]:
        hx = moved(self.direction, force, self.split)
        turn, growth = column_velocity(self.direction, hx, self._share())
        return turn, growth - self.decay

    def _share(self) -> Float[Array, "r r"]:
        """How much of its overlap with column i column j is cleared of."""
        place = jnp.arange(len(self.log_size))
        before = jnp.where(place[:, None] < place[None, :], 1.0, 0.0)
        both = self.active[:, None] & self.active[None, :]
        alike = ~self.active[:, None] & ~self.active[None, :] & ~self.graded
        return jnp.where(both | alike, clearing(self.log_size), before)

    @property
    def full(self) -> bool:
        """Square and of full width: the columns then fill a maximal isotropic space."""
        rows, r = self.direction.shape
        return 2 * self.split == rows and r == self.split

    def isotropic(self) -> "Block":
        """The last dormant column put back where the conserved balance keeps it.

        AᵀA − BᵀB is infinitely smaller than the columns, so the last one is [u; ±v]/√2 with u
        and v orthogonal to both halves of the others. The sign is kept; rounding in the
        direction of the other would grow.
        """
        x, cut = self.direction, self.split
        halves, lengths = [], []
        for half in (x[:cut], x[cut:]):
            rest = jnp.linalg.qr(half[:, :-1], mode="complete")[0][:, -1]
            along = jnp.sum(rest * half[:, -1])
            halves.append(rest * jnp.sign(along) / jnp.sqrt(2.0))
            lengths.append(jnp.abs(along))
        dormant = self.graded & ~self.active[-1]
        last = jnp.where(dormant, jnp.concatenate(halves), x[:, -1])
        # what it has along the others is no part of the volume, the rest is
        size = 0.5 * jnp.log(2.0 * lengths[0] * lengths[1])
        log_size = self.log_size.at[-1].add(jnp.where(dormant, size, 0.0))
        new = x.at[:, -1].set(last), log_size
        return eqx.tree_at(lambda b: (b.direction, b.log_size), self, new)


class Fast(eqx.Module):
    """All blocks of a model as one field: `march` moves it.

    `twins`: heads whose first columns learn one mode together and stay parallel; what would
    tell them apart is dormant, and rounding must not take its place.
    """

    flow: Flow
    blocks: tuple[Block, ...]
    layout: tuple[tuple[str, tuple[int, ...]], ...] = eqx.field(static=True)
    twins: tuple[int, ...] = eqx.field(static=True, default=())

    def weights(self, blocks: Sequence[Block]) -> dict[str, Array]:
        """Leaf name → effective weight."""
        return assembled([b.weight() for b in blocks], self.layout, self.flow.names)

    def split(self, state: Float[Array | np.ndarray, " size"]) -> list[Block]:
        out, at = [], 0
        for b in self.blocks:
            n, r = b.direction.size, b.log_size.size
            x, size = state[at : at + n].reshape(b.direction.shape), state[at + n : at + n + r]
            out.append(eqx.tree_at(lambda b: (b.direction, b.log_size), b, (x, size)))
            at += n + r
        return out

    def start(self) -> Float[Array, " size"]:
        return joined(self.blocks)

    def forces(self, blocks: Sequence[Block]) -> tuple[Array, list[Array]]:
        loss, force = self.flow.forces(self.weights(blocks))
        return loss, [force[name][index] for name, index in self.layout]

    def velocity(self, state: Float[Array, " size"]) -> Float[Array, " size"]:
        blocks = self.split(state)
        _, forces = self.forces(blocks)
        moved = [b.velocity(g) for b, g in zip(blocks, forces, strict=True)]
        return jnp.concatenate([y.ravel() for pair in moved for y in pair])


def joined(blocks: Sequence[Block]) -> Float[Array, " size"]:
    return jnp.concatenate([x.ravel() for b in blocks for x in (b.direction, b.log_size)])


def assembled(parts, layout, names) -> dict[str, Array]:
    """Leaf name → array, from the blocks of its heads in order."""
    out = {}
    for name in names:
        mine = [(index, x) for (n, index), x in zip(layout, parts, strict=True) if n == name]
        heads = mine[0][0]
        if not heads:
            out[name] = mine[0][1]
            continue
        shape = tuple(1 + max(index[i] for index, _ in mine) for i in range(len(heads)))
        out[name] = jnp.stack([x for _, x in mine]).reshape(*shape, *mine[0][1].shape)
    return out


class _Started(Field):
    fast: Fast
    state: Float[Array, " size"]

    def start(self):
        return self.state

    def velocity(self, t, state):
        return self.fast.velocity(state)

    def horizon(self, t, state, atol):
        return jnp.full((), jnp.inf, state.dtype)

    def frame(self):
        return ()

    def framed(self, frame):
        return self

    def recentred(self, state):
        blocks, twins = self.fast.split(state), self.fast.twins
        if not twins and not any(b.full for b in blocks):
            return (), state, jnp.array(False)
        blocks = [b.isotropic() if b.full else b for b in blocks]
        for i in twins[1:]:
            x = blocks[i].direction.at[:, 0].set(blocks[twins[0]].direction[:, 0])
            blocks[i] = eqx.tree_at(lambda b: b.direction, blocks[i], x)
        return (), joined(blocks), jnp.array(True)


def _solver(size: int):
    return Rodas5P() if size <= _DENSE else Switching(diffrax.Tsit5(), ROCK4())


@eqx.filter_jit
def _advance(fast: Fast, state: Array, pace: Pace, tolerance: Float[Array, ""]):
    zero = jnp.zeros_like(tolerance)
    solver = _solver(state.size)
    steps = march(
        lambda x: _Started(fast, x), state, solver, (tolerance, zero), zero,
        jnp.full_like(zero, 1e30), pace, attempts=_STEPS,
    )  # fmt: skip

    states = jnp.concatenate([state[None], steps.state])  # the start is no step of its own
    t = jnp.concatenate([zero[None], steps.t])
    return t, states, steps.kept, steps.pace, jax.vmap(lambda y: _read(fast, y))(states)


def _read(fast: Fast, state: Array) -> tuple:
    """How fast active columns move, loss and its slope, weights and theirs."""
    loss, forces = fast.forces(fast.split(state))
    velocity = fast.velocity(state)
    motion = [
        jnp.where(b.active, jnp.maximum(jnp.abs(v.log_size), jnp.max(jnp.abs(v.direction), 0)), 0.0)
        for b, v in zip(fast.blocks, fast.split(velocity), strict=True)
    ]
    weights, drift = jax.jvp(lambda y: fast.weights(fast.split(y)), (state,), (velocity,))
    falls = sum(-jnp.sum(g * d) for g, d in zip(forces, _blockwise(fast, drift), strict=True))
    return jnp.max(jnp.concatenate(motion)), loss, falls, weights, drift


def _blockwise(fast: Fast, weights: dict[str, Array]) -> list[Array]:
    return [weights[name][index] for name, index in fast.layout]


@eqx.filter_jit
def _loss_after(fast: Fast, state: Array, step: Float[Array, ""]) -> Float[Array, ""]:
    zero = jnp.zeros_like(step)
    solver = _solver(state.size)
    args = (_Started(fast, state), zero)
    inner = jax.tree.map(jnp.asarray, solver.init(TERM, zero, step, state, args))
    out = solver.step(TERM, zero, step, state, args, inner, jnp.array(False))[0]
    return fast.forces(fast.split(out))[0]


@dataclasses.dataclass(frozen=True, eq=False)
class ColumnOrbit:
    """A connecting orbit in its own time s, 0 where the loss is midway.

    `s`, `state`: accepted steps; `loss`, `falls`: the loss and its slope; `weights`, `drift`:
    effective weights by leaf and their velocities.
    """

    fast: Fast
    s: np.ndarray
    state: np.ndarray
    loss: np.ndarray
    falls: np.ndarray
    weights: dict[str, np.ndarray]
    drift: dict[str, np.ndarray]

    def crossing(self, level: float) -> float:
        """First time at which the loss falls through `level`, re-solved in its step."""
        i = int(np.flatnonzero((self.loss[:-1] > level) & (self.loss[1:] <= level))[0])
        start, width = jnp.asarray(self.state[i]), float(self.s[i + 1] - self.s[i])

        def gap(step: float) -> float:
            if step in (0.0, width):
                return level - float(self.loss[i + (step > 0)])
            return level - float(_loss_after(self.fast, start, jnp.asarray(step)))

        return float(self.s[i]) + bracketed_root(gap, width)

    def blocks(self, step: int = -1) -> list[Block]:
        return self.fast.split(jnp.asarray(self.state[step]))

    def at(self, s: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Loss and weights at any s; constant beyond both ends."""
        inside = np.clip(s, self.s[0], self.s[-1])

        def curve(y, dy):
            return interpolate.CubicHermiteSpline(self.s, y, dy)(inside)

        return curve(self.loss, self.falls), {
            n: curve(w, self.drift[n]) for n, w in self.weights.items()
        }

    def shifted(self, crossing: float) -> "ColumnOrbit":
        return dataclasses.replace(self, s=self.s - crossing)


def follow(fast: Fast, force_scale: float, tolerance: float) -> ColumnOrbit:
    """Move the blocks until the active columns rest.

    **Raises:** Unbounded when the weights blow up, Degenerate when they do not come to rest.
    """
    state = fast.start()
    zero = float(np.max(np.abs(_velocity(fast, state))))
    pace = Pace.at(jnp.asarray(1e-3 / max(zero, 1e-300)))
    rows: list[tuple] = []
    offset = 0.0
    for _ in range(_ROUNDS):
        t, states, kept, pace, read = _advance(fast, state, pace, jnp.asarray(tolerance))
        kept = np.concatenate([[not rows], np.asarray(kept)])
        t, states, read = _kept(kept, (t, states, read))
        if not np.any(kept[1:]) or not np.all(np.isfinite(states)):
            raise Unbounded(
                "the weights grow without bound on a connecting orbit: the objective has no "
                "finite saddle there. Add decay, or targets that finite weights can reach"
            )
        rows.append((offset + t, states, read))
        resting = np.flatnonzero(read[0] <= _AT_REST * force_scale)
        if resting.size:
            rows[-1] = _kept(np.arange(len(t)) <= resting[0], rows[-1])
            return _joined(fast, rows)
        state, offset = jnp.asarray(states[-1]), float(rows[-1][0][-1])
        if offset * force_scale > _PATIENCE:
            break
    raise Degenerate(
        f"a connecting orbit did not come to rest within s = {offset:.3g}: the saddle is "
        "degenerate (zero curvature along its own columns)"
    )


def _kept(kept: np.ndarray, tree):
    return jax.tree.map(lambda x: np.asarray(x)[kept], tree)


def saddle(fast: Fast, blocks: Sequence[Block], ranks: list[int]) -> list[np.ndarray]:
    """Weights at rest next to the end of an orbit, by Newton on the active columns."""
    columns = [
        np.asarray(b.direction)[:, :k] * np.exp(np.asarray(b.log_size)[:k])
        for b, k in zip(blocks, ranks, strict=True)
    ]
    cuts = np.cumsum([z.size for z in columns])[:-1]
    flat = np.concatenate([z.ravel() for z in columns])

    def split(flat):
        parts = np.split(flat, cuts)
        return [x.reshape(z.shape) for x, z in zip(parts, columns, strict=True)]

    shapes = tuple(z.shape for z in columns)
    residual, jacobian = (np.asarray(x) for x in _pull(fast, jnp.asarray(flat), shapes))
    for _ in range(8):
        if not flat.size:
            break
        new = flat - np.linalg.lstsq(jacobian, residual, rcond=1e-9)[0]
        after, slope = (np.asarray(x) for x in _pull(fast, jnp.asarray(new), shapes))
        if not np.max(np.abs(after)) < np.max(np.abs(residual)):
            break
        flat, residual, jacobian = new, after, slope
    parts = zip(split(flat), fast.blocks, strict=True)
    return [z[: b.split] @ z[b.split :].T for z, b in parts]


@eqx.filter_jit
def _pull(fast: Fast, flat: Float[Array, " size"], shapes: tuple[tuple[int, int], ...]):
    """Velocity of the active columns, and its Jacobian."""
    cuts = np.cumsum([m * k for m, k in shapes])[:-1].tolist()

    def velocity(flat):
        zs = [x.reshape(s) for x, s in zip(jnp.split(flat, cuts), shapes, strict=True)]
        blocks = zip(zs, fast.blocks, strict=True)
        weights = [z[: b.split] @ z[b.split :].T for z, b in blocks]
        force = fast.flow.forces(assembled(weights, fast.layout, fast.flow.names))[1]
        out = [
            moved(z, force[name][index], b.split) - b.decay * z
            for z, b, (name, index) in zip(zs, fast.blocks, fast.layout, strict=True)
        ]
        return jnp.concatenate([x.ravel() for x in out])

    return velocity(flat), jax.jacfwd(velocity)(flat)


def _joined(fast: Fast, rows: list[tuple]) -> ColumnOrbit:
    t, state, read = jax.tree.map(lambda *x: np.concatenate(x), *rows)
    _, loss, falls, weights, drift = read
    return ColumnOrbit(fast, t, state, loss, falls, weights, drift)


@eqx.filter_jit
def _velocity(fast: Fast, state: Array) -> Array:
    return fast.velocity(state)
