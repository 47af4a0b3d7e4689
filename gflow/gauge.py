"""Coordinates for W = A Bᵀ in which no column ever sinks below the rounding of another."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .coordinates import FlowCoordinates, State, Weight, growth_horizon

#: Cosine of two columns beyond which they are made orthogonal at the end of a step.
OVERLAP = 0.2


class GaugeCoordinates(FlowCoordinates):
    r"""Directions x_j and log-sizes ℓ_j of the columns z_j = e^{ℓ_j} x_j of Z = [A; B].

    The flow of any loss of W = A Bᵀ acts on the columns, Z' = H(W) Z with the symmetric
    H = [[0, G], [Gᵀ, 0]] − λI, G = −∂L/∂W, and W, the loss and the decay do not change under
    Z → ZR with R orthogonal. Left alone every column turns to the fastest direction, and what
    tells one dormant mode from another, or a dormant from a learned one, drowns in rounding. So
    Z' = HZ + ZΩ with the antisymmetric

        Ω_ij = −c_ij sinh r/(2 cosh² r),  r = ℓ_i − ℓ_j,
        c_ij = 2 x_iᵀHx_j + (κ_i + κ_j − x_iᵀHx_i − x_jᵀHx_j) x_iᵀx_j,  κ_j = |Hx_j|,

    which takes from a column what it picks up of a larger one and makes the two orthogonal,
    and does to the larger one e^{−2r} of it. The j-th largest column then comes to rest on the
    j-th eigenvector of H and its logarithm grows linearly: a plateau costs no more at
    α = 1e-100 than at 1e-3. Columns of like size are not told apart by Ω; where two of them
    come to overlap, one rotation at the end of a step (Jacobi's) makes them orthogonal.

    Leading axes are heads, each with a gauge of its own.
    """

    direction: Float[Array, "... rows r"]
    log_size: Float[Array, "... r"]
    rotations: Int[Array, "..."]
    split: int = eqx.field(static=True)

    @classmethod
    def from_columns(cls, left: Array, right: Array, log_size: Array) -> "GaugeCoordinates":
        """At left·e^{log_size} and right·e^{log_size}, columns made orthogonal."""
        direction = jnp.concatenate([left, right], axis=-2)
        rotations = jnp.zeros(direction.shape[:-2], jnp.int32)
        flat = _flattened(direction, log_size)
        direction, log_size = jax.vmap(orthogonal)(*flat)
        return cls(
            direction.reshape(*rotations.shape, *direction.shape[1:]),
            log_size.reshape(*rotations.shape, log_size.shape[-1]),
            rotations,
            left.shape[-2],
        )

    @property
    def size(self) -> int:
        return self.direction.size + self.log_size.size

    def start(self) -> State:
        return jnp.concatenate([self.direction.ravel(), self.log_size.ravel()])

    def _columns(self, state: State) -> tuple[Array, Array]:
        cut = self.direction.size
        direction = state[:cut].reshape(self.direction.shape)
        return direction, state[cut:].reshape(self.log_size.shape)

    def value(self, state: State) -> Weight:
        direction, log_size = self._columns(state)
        left, right = direction[..., : self.split, :], direction[..., self.split :, :]
        return jnp.matmul(left * jnp.exp(2.0 * log_size)[..., None, :], right.swapaxes(-1, -2))

    def _moved(self, direction: Array, force: Weight) -> Array:
        """Hx of every column, without decay."""
        left, right = direction[..., : self.split, :], direction[..., self.split :, :]
        up = jnp.matmul(force, right)
        down = jnp.matmul(force.swapaxes(-1, -2), left)
        return jnp.concatenate([up, down], axis=-2)

    def velocity(self, state: State, force: Weight, decay: Float[Array, ""]) -> State:
        x, log_size = self._columns(state)
        hx = self._moved(x, force)
        xt = x.swapaxes(-1, -2)
        # H and the overlaps of all columns in one product
        both = jnp.matmul(xt, jnp.concatenate([hx, x], axis=-1))
        r = x.shape[-1]
        m, overlap = both[..., :r], both[..., r:]
        growth, square = (jnp.diagonal(y, axis1=-2, axis2=-1) for y in (m, overlap))
        squared = jnp.sum(hx**2, axis=-2)
        moving = squared > 0.0
        speed = jnp.where(moving, jnp.sqrt(jnp.where(moving, squared, 1.0)), 0.0)
        damping = speed - growth
        c = 2.0 * m + (damping[..., :, None] + damping[..., None, :]) * overlap
        gap = log_size[..., :, None] - log_size[..., None, :]
        share = jnp.tanh(gap) * jax.nn.sigmoid(2.0 * gap)  # e^r sinh r/(2 cosh² r); 0 at r = 0
        v = hx - jnp.matmul(x, c * share)
        rate = jnp.sum(x * v, axis=-2) / square + 0.5 * speed * (square - 1.0)
        dx = v - rate[..., None, :] * x
        return jnp.concatenate([dx.ravel(), (rate - decay).ravel()])

    def tolerance(self, rtol: Float[Array, ""]) -> tuple[State, State]:
        # as in log coordinates: a column is known to a relative error at any size
        zero = jnp.zeros_like(self.start())
        return zero + 0.1 * rtol, zero

    def frame(self) -> Array:
        return self.rotations

    def framed(self, frame: Array) -> "GaugeCoordinates":
        return eqx.tree_at(lambda c: c.rotations, self, frame)

    def recentred(self, state: State) -> tuple[Array, State]:
        direction, log_size = self._columns(state)
        if direction.shape[-1] == 1:
            return self.rotations, state
        x, logs, turned = jax.vmap(_parted)(*_flattened(direction, log_size))
        rotations = self.rotations + turned.reshape(self.rotations.shape)
        return rotations, jnp.concatenate([x.ravel(), logs.ravel()])

    def horizon(self, state: State, velocity: State, atol: State) -> Float[Array, ""]:
        cut = self.direction.size
        return growth_horizon(state[cut:], velocity[cut:], atol[cut:])

    def at(self, record: dict[str, Array]) -> "GaugeCoordinates":
        new = tuple(record[k] for k in ("direction", "log_size", "rotations"))
        return GaugeCoordinates(*new, self.split)

    def residual(self, state: State, force: Weight, decay: Float[Array, ""]) -> Array:
        """Growth rate left of a dormant column, and e^ℓ|(H − λ)x| of an active one."""
        x, log_size = self._columns(state)
        hx = self._moved(x, force)
        growth = jnp.sum(x * hx, axis=-2) - decay
        moving = jnp.sqrt(jnp.sum((hx - decay * x) ** 2, axis=-2))
        active = jnp.exp(log_size) * moving
        dormant = jnp.where(log_size < 0.0, growth, 0.0)
        return jnp.max(jnp.maximum(dormant, active))

    def descent(self, state: State, force: Weight, decay: Float[Array, ""]) -> Float[Array, ""]:
        x, log_size = self._columns(state)
        z = x * jnp.exp(log_size)[..., None, :]
        return jnp.sum((self._moved(z, force) - decay * z) ** 2)

    def record(self, state: State) -> dict[str, Array]:
        direction, log_size = self._columns(state)
        return {
            "value": self.value(state),
            "direction": direction,
            "log_size": log_size,
            "rotations": self.rotations,
        }

    def resolved(self, state: State) -> Array:
        return jnp.array(True)


def _flattened(direction: Array, log_size: Array) -> tuple[Array, Array]:
    """With one axis of heads, whether there are none or several."""
    rows, r = direction.shape[-2:]
    return direction.reshape(-1, rows, r), log_size.reshape(-1, r)


def _parted(x: Float[Array, "rows r"], log_size: Float[Array, " r"]) -> tuple[Array, Array, Array]:
    """The pair of columns that overlap most made orthogonal, if they overlap too much."""
    overlap = jnp.abs(jnp.matmul(x.T, x)) * (1.0 - jnp.eye(x.shape[1], dtype=x.dtype))
    worst = jnp.argmax(overlap)
    i, j = worst // x.shape[1], worst % x.shape[1]
    turn = overlap[i, j] > OVERLAP
    turned = rotated(x, log_size, i, j)
    x, log_size = (jnp.where(turn, a, b) for a, b in zip(turned, (x, log_size), strict=True))
    return x, log_size, turn.astype(jnp.int32)


def rotated(x: Float[Array, "rows r"], log_size: Float[Array, " r"], i: Any, j: Any) -> Any:
    """Columns i and j of x·e^{log_size} after Jacobi's rotation: orthogonal, of length one.

    With t the tangent of the angle and ρ ≤ 1 the smaller over the larger column, the smaller
    takes on −t/ρ of the larger; both t and t/ρ are computed without cancellation, so that a
    column of any size keeps its relative accuracy.
    """
    swap = log_size[j] > log_size[i]
    i, j = jnp.where(swap, j, i), jnp.where(swap, i, j)
    big, small = x[:, i], x[:, j]
    norms = jnp.sqrt(jnp.sum(big**2)), jnp.sqrt(jnp.sum(small**2))
    big, small = big / norms[0], small / norms[1]
    logs = log_size[i] + jnp.log(norms[0]), log_size[j] + jnp.log(norms[1])
    overlap = jnp.sum(big * small)
    ratio = jnp.exp(jnp.minimum(logs[1] - logs[0], 0.0))
    gap = 0.5 * (1.0 - ratio) * (1.0 + ratio)  # ρ sinh r
    over = overlap / (gap + jnp.sqrt((ratio * overlap) ** 2 + gap**2))  # t/ρ
    over = jnp.where(jnp.isfinite(over), over, jnp.sign(overlap))
    cosine = 1.0 / jnp.sqrt(1.0 + (ratio * over) ** 2)
    new = cosine * (big + ratio**2 * over * small), cosine * (small - over * big)
    lengths = [jnp.sqrt(jnp.sum(y**2)) for y in new]
    least = 64 * jnp.finfo(x.dtype).eps
    empty = lengths[1] < least  # the columns were parallel: there is one less of them
    second = jnp.where(empty, small, new[1] / jnp.where(empty, 1.0, lengths[1]))
    size = logs[1] + jnp.log(jnp.where(empty, 1.0, lengths[1]))
    x = x.at[:, i].set(new[0] / lengths[0]).at[:, j].set(second)
    log_size = log_size.at[i].set(logs[0] + jnp.log(lengths[0]))
    return x, log_size.at[j].set(jnp.where(empty, EMPTY, size))


#: Log-size of a column that is zero.
EMPTY = -1e12


def orthogonal(x: Float[Array, "rows r"], log_size: Float[Array, " r"]) -> tuple[Array, Array]:
    """All columns made orthogonal and of length one, by sweeps of Jacobi's rotations."""
    norms = jnp.sqrt(jnp.sum(x**2, axis=0))
    there = norms > 0.0
    log_size = jnp.where(there, log_size + jnp.log(jnp.where(there, norms, 1.0)), EMPTY)
    x = jnp.where(there, x / jnp.where(there, norms, 1.0), 1.0 / jnp.sqrt(1.0 * x.shape[0]))
    r = x.shape[1]
    pairs = jnp.array([(i, j) for i in range(r) for j in range(i + 1, r)], jnp.int32)
    if r == 1:
        return x, log_size

    def sweep(_, carry):
        return jax.lax.fori_loop(0, len(pairs), lambda k, now: rotated(*now, *pairs[k]), carry)

    return jax.lax.fori_loop(0, 12, sweep, (x, log_size))
