"""Coordinates for W = A Bᵀ in which no column ever sinks below the rounding of another."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ._base import Coordinates, State, Weight
from ._branch import steps_on_branch
from ._dormant import felt, growth_horizon
from ._jacobi import EMPTY, OVERLAP, orthogonal, rotated
from ._parallel import blurred, noise_felt
from ._product import balances
from ._record import LeafRecord
from ._spectra import log_singular
from ._view import View

#: Multiplications up to which a loop over a matrix product costs less than a call for it.
SMALL = 1024


class GaugeCoordinates(Coordinates):
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

    logarithmic: ClassVar[bool] = True
    turning: ClassVar[bool] = True
    spectral: ClassVar[bool] = True
    product: ClassVar[bool] = True

    direction: Float[Array, "... rows r"]
    log_size: Float[Array, "... r"]
    rotations: Int[Array, "..."]
    blurred: Bool[Array, "... heads heads"]
    split: int = eqx.field(static=True)

    @classmethod
    def from_columns(cls, left: Array, right: Array, log_size: Array) -> "GaugeCoordinates":
        """At left·e^{log_size} and right·e^{log_size}, columns made orthogonal."""
        direction = jnp.concatenate([left, right], axis=-2)
        rotations = jnp.zeros(direction.shape[:-2], jnp.int32)
        flat = flattened(direction, log_size)
        direction, log_size = jax.vmap(orthogonal)(*flat)
        direction = jax.vmap(completed)(direction, log_size)
        return cls(
            direction.reshape(*rotations.shape, *direction.shape[1:]),
            log_size.reshape(*rotations.shape, log_size.shape[-1]),
            rotations,
            jnp.zeros((flat[0].shape[0],) * 2, bool),
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
        return product(left * jnp.exp(2.0 * log_size)[..., None, :], right.swapaxes(-1, -2))

    def velocity(self, state: State, force: Weight, decay: Float[Array, ""]) -> State:
        x, log_size = self._columns(state)
        turn, growth = column_velocity(x, pulled(x, force, self.split), clearing(log_size))
        there = log_size > 0.5 * EMPTY  # what is zero stays zero, wherever it points
        turn = jnp.where(there[..., None, :], turn, 0.0)
        return jnp.concatenate([turn.ravel(), jnp.where(there, growth - decay, 0.0).ravel()])

    def tolerance(self, rtol: Float[Array, ""]) -> tuple[State, State]:
        # as in log coordinates: a column is known to a relative error at any size
        zero = jnp.zeros_like(self.start())
        return zero + 0.1 * rtol, zero

    def frame(self) -> tuple[Array, Array]:
        return self.rotations, self.blurred

    def framed(self, frame: tuple[Array, Array]) -> "GaugeCoordinates":
        return eqx.tree_at(lambda c: (c.rotations, c.blurred), self, frame)

    def recentred(self, state: State) -> tuple[tuple[Array, Array], State]:
        direction, log_size = self._columns(state)
        flat = flattened(direction, log_size)
        frame = self.rotations, blurred(self.blurred, *flat)
        if direction.shape[-1] == 1:
            return frame, state
        x, logs, turned = jax.vmap(parted)(*flat)
        frame = self.rotations + turned.reshape(self.rotations.shape), frame[1]
        return frame, jnp.concatenate([x.ravel(), logs.ravel()])

    def horizon(self, state: State, velocity: State, atol: State) -> Float[Array, ""]:
        cut = self.direction.size
        return growth_horizon(state[cut:], velocity[cut:], atol[cut:])

    def at(self, record: LeafRecord) -> "GaugeCoordinates":
        new = tuple(record[k] for k in ("direction", "log_size", "rotations", "blurred"))
        return GaugeCoordinates(*new, self.split)

    def drift(
        self, state: State, force: Weight, decay: Float[Array, ""], origin: State
    ) -> tuple[Float[Array, " weights"], Float[Array, " weights"]]:
        x, log_size = self._columns(state)
        hx = pulled(x, force, self.split)
        # a dormant column turns until it grows, at a rate of up to |Hx| − λ
        growth = jnp.sqrt(jnp.sum(hx**2, axis=-2)) - decay
        growth = jnp.where(log_size > 0.5 * EMPTY, growth, 0.0)
        return column_drift(growth, hx - decay * x, log_size)

    def descent(self, state: State, force: Weight, decay: Float[Array, ""]) -> Float[Array, ""]:
        x, log_size = self._columns(state)
        z = x * jnp.exp(log_size)[..., None, :]
        return jnp.sum((pulled(z, force, self.split) - decay * z) ** 2)

    def record(self, state: State) -> dict[str, Array]:
        direction, log_size = self._columns(state)
        return {
            "value": self.value(state),
            "direction": direction,
            "log_size": log_size,
            "rotations": self.rotations,
            "blurred": self.blurred,
        }

    def resolved(self, state: State, force: Weight) -> Array:
        """Whether heads whose columns run parallel still know what tells them apart.

        Heads that feel one force move it in parallel columns, and what tells them apart is as
        small as the next mode of their sum: below the rounding of the first it is noise, which
        grows as that mode should. A loss that reads `.total` keeps them in `FrameCoordinates`.
        """
        direction, log_size = self._columns(state)
        forces = force.reshape(-1, *force.shape[-2:])
        return ~noise_felt(self.blurred, *flattened(direction, log_size), forces)

    def view(self, state: State) -> View:
        x, log_size = self._columns(state)
        z = x * jnp.exp(log_size)[..., None, :]
        factors = z[..., : self.split, :], z[..., self.split :, :].swapaxes(-1, -2)
        return View(self.value(state), factors, balances(factors)[0], True)

    @classmethod
    def log_modes(cls, record: LeafRecord) -> Float[np.ndarray, "... modes"]:
        return log_singular(record)

    @classmethod
    def count_modes(cls, record: LeafRecord, most: int) -> int:
        return min(most, record["log_size"].shape[-1])

    @classmethod
    def steps_on_branch(cls, record: LeafRecord) -> int:
        return steps_on_branch(record)


def product(a: Float[Array, "... i j"], b: Float[Array, "... j k"]) -> Float[Array, "... i k"]:
    """a @ b; of small matrices as a sum of products, which XLA fuses with what is around it."""
    if a.shape[-2] * a.shape[-1] * b.shape[-1] > SMALL:
        return jnp.matmul(a, b)
    return jnp.sum(a[..., :, :, None] * b[..., None, :, :], axis=-2)


def pulled(x: Float[Array, "... rows r"], force: Weight, split: int) -> Float[Array, "... rows r"]:
    """Hx of every column, without decay."""
    up = product(force, x[..., split:, :])
    down = product(force.swapaxes(-1, -2), x[..., :split, :])
    return jnp.concatenate([up, down], axis=-2)


def clearing(log_size: Float[Array, "... r"]) -> Float[Array, "... r r"]:
    """e^r sinh r/(2 cosh² r) of r = ℓ_i − ℓ_j: the part of c_ij x_i that column j is rid of."""
    gap = log_size[..., :, None] - log_size[..., None, :]
    share = jax.nn.sigmoid(2.0 * gap)
    return (2.0 * share - 1.0) * share  # tanh r = 2σ(2r) − 1


def column_velocity(
    x: Float[Array, "... rows r"], hx: Float[Array, "... rows r"], share: Float[Array, "... r r"]
) -> tuple[Float[Array, "... rows r"], Float[Array, "... r"]]:
    """x' and ℓ' under z' = Hz + ZΩ, Ω given by the `share` of c; lengths are drawn to one."""
    mixing, rate = column_mixing(x, hx, share)
    return hx - product(x, mixing) - rate[..., None, :] * x, rate


def column_mixing(
    x: Float[Array, "... rows r"], hx: Float[Array, "... rows r"], share: Float[Array, "... r r"]
) -> tuple[Float[Array, "... r r"], Float[Array, "... r"]]:
    """What every column is rid of, c·share, and ℓ'."""
    m, overlap = (product(x.swapaxes(-1, -2), y) for y in (hx, x))
    growth, square = (jnp.sum(x * y, axis=-2) for y in (hx, x))
    squared = jnp.sum(hx**2, axis=-2)
    moving = squared > 0.0
    speed = jnp.where(moving, jnp.sqrt(jnp.where(moving, squared, 1.0)), 0.0)
    damping = speed - growth
    c = 2.0 * m + (damping[..., :, None] + damping[..., None, :]) * overlap
    mixing = c * share
    v = hx - product(x, mixing)
    return mixing, jnp.sum(x * v, axis=-2) / square + 0.5 * speed * (square - 1.0)


def column_drift(growth: Array, motion: Array, log_size: Array) -> tuple[State, State]:
    """Relative speed of every column, and its scale."""
    length = jnp.sqrt(jnp.sum(motion**2, axis=-2))
    speed = felt(growth.ravel(), length.ravel(), jnp.exp(2.0 * log_size).ravel())
    return speed, jnp.ones_like(speed)


def flattened(direction: Array, log_size: Array) -> tuple[Array, Array]:
    """With one axis of heads, whether there are none or several."""
    rows, r = direction.shape[-2:]
    return direction.reshape(-1, rows, r), log_size.reshape(-1, r)


def parted(x: Float[Array, "rows r"], log_size: Float[Array, " r"]) -> tuple[Array, Array, Array]:
    """The pair of columns that overlap most made orthogonal, if they overlap too much."""
    there = jnp.where((log_size > 0.5 * EMPTY)[None], x, 0.0)
    overlap = jnp.abs(product(there.T, there)) * (1.0 - jnp.eye(x.shape[1], dtype=x.dtype))
    worst = jnp.argmax(overlap)[None]
    i, j = worst // x.shape[1], worst % x.shape[1]
    turn = jnp.max(overlap) > OVERLAP
    turned = rotated(x, log_size, i, j)
    x, log_size = (jnp.where(turn, a, b) for a, b in zip(turned, (x, log_size), strict=True))
    return x, log_size, turn.astype(jnp.int32)


def completed(x: Float[Array, "rows r"], log_size: Float[Array, " r"]) -> Float[Array, "rows r"]:
    """Directions with those of columns that are zero made orthogonal to all others.

    A column that is nowhere has no direction; parallel to one that is there, what the gauge takes
    from it would be all of it, and its direction rounding.
    """
    there = log_size > 0.5 * EMPTY

    def complement():
        kept = jnp.where(there[None], x, 0.0)
        projector = jnp.eye(x.shape[0], dtype=x.dtype) - jnp.matmul(kept, kept.T)
        outside = jnp.linalg.eigh(projector)[1][:, ::-1]
        place = jnp.clip(jnp.cumsum(~there) - 1, 0, x.shape[0] - 1)
        return jnp.where(there[None], x, outside[:, place])

    return jax.lax.cond(jnp.all(there), lambda: x, complement)
