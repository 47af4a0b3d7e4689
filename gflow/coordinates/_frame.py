"""Coordinates for heads W_h = A_h B_hᵀ that feel one force: components in one frame of all."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ._base import State
from ._gauge import GaugeCoordinates, clearing, column_mixing, flattened, parted, product, pulled
from ._jacobi import EMPTY
from ._record import LeafRecord

#: A component below this is known to a relative error, one above to an absolute error.
TAIL = 1e-4

#: The same for what the differences of the forces bring about: below a rounding of it is noise.
SOURCE = 1e-4

#: Components that are needed and have come down to the first are lost in what floats cannot hold.
#: The second is zero beside them, and its product with a tolerance is still a float.
LOST = 1e-270, 1e-285


class HeadForces(NamedTuple):
    """The force on all heads alike and what every head feels besides, each to its own digits."""

    common: Float[Array, "m n"]
    apart: Float[Array, "... m n"]

    @property
    def each(self) -> Float[Array, "... m n"]:
        """The force on every head."""
        return jnp.broadcast_to(self.common, self.apart.shape) + self.apart


class FrameCoordinates(GaugeCoordinates):
    r"""Components y and log-sizes ℓ of the columns z_{h,j} = e^{ℓ_{h,j}} F y_{h,j} of all heads h.

    Heads that feel one force G move it in parallel columns: after the first mode is learned
    they differ by as little as its next column, far below the rounding of the first, and that
    difference is what learns the next mode. So the columns are held as components in one frame F,
    (m + n) × (m + n), that turns with what all heads feel, H(G) = [[0, G], [Gᵀ, 0]],

        F' = HF − FT,   T = diag S + 2 triu S + 4‖H‖(½ diag E + triu E),
        S = FᵀHF,  E = FᵀF − I,

    to the eigenvectors of H in falling order (E is drawn to zero), and with δH_h = H(δG_h) of
    what head h feels besides

        y' = Ty + F⁻¹ δH_h F y − y(c·share) − y·ℓ',   ℓ' as in `GaugeCoordinates`.

    It is z' = Hz + zΩ for any T. T is upper triangular to the last digit: a component is fed by
    those of slower modes, which are smaller, and by δH_h, so that the components of a
    column, (1, 10⁻⁷⁰, 10⁻⁹⁰, …), keep their relative accuracy. Where the forces are no longer
    alike the frame is merely a basis.

    `direction` holds y; forces are `HeadForces`. Steps keep small components beyond the largest
    one to a relative error.
    """

    basis: Float[Array, "... rows rows"]

    @classmethod
    def along(cls, columns: GaugeCoordinates, common: Float[Array, "m n"]) -> "FrameCoordinates":
        """The same columns in the eigenvectors of H(common), in falling order of their rates."""
        split = columns.split
        rows = columns.direction.shape[-2]
        whole = jnp.zeros((rows, rows), common.dtype)
        whole = whole.at[:split, split:].set(common).at[split:, :split].set(common.T)
        size = jnp.max(jnp.abs(whole))
        basis = jnp.linalg.eigh(whole / jnp.where(size > 0.0, size, 1.0))[1][:, ::-1]
        return cls.inside(columns, basis, _turned(basis.T, columns.direction))

    @classmethod
    def inside(cls, columns: GaugeCoordinates, basis: Array, y: Array) -> "FrameCoordinates":
        """The same columns with components `y` in a given frame."""
        return cls(y, columns.log_size, *columns.frame(), columns.split, basis)

    @property
    def size(self) -> int:
        return self.direction.size + self.log_size.size + self.basis.size

    def start(self) -> State:
        return self._state(self.direction, self.log_size, self.basis)

    def _state(self, y: Array, log_size: Array, basis: Array) -> State:
        return jnp.concatenate([y.ravel(), log_size.ravel(), basis.ravel()])

    def _parts(self, state: State) -> tuple[Array, Array, Array]:
        """y, ℓ and F."""
        first = self.direction.size
        second = first + self.log_size.size
        return (
            state[:first].reshape(self.direction.shape),
            state[first:second].reshape(self.log_size.shape),
            state[second:].reshape(self.basis.shape),
        )

    def _columns(self, state: State) -> tuple[Array, Array]:
        y, log_size, basis = self._parts(state)
        return _turned(basis, y), log_size

    def velocity(self, state: State, force: Any, decay: Float[Array, ""]) -> State:
        y, log_size, basis = self._parts(state)
        common, apart = force
        one = jnp.eye(basis.shape[0], dtype=basis.dtype)
        hf = pulled(basis, common, self.split)
        s, e = product(basis.T, hf), product(basis.T, basis) - one
        t = jnp.triu(2.0 * s + 4.0 * _speed(common) * e) * (1.0 - 0.5 * one)
        x = _turned(basis, y)
        besides = pulled(x, apart, self.split)
        hx = pulled(x, jnp.broadcast_to(common, apart.shape), self.split) + besides
        mixing, rate = column_mixing(x, hx, clearing(log_size))
        dy = _turned(t, y) + _turned(_inverse(basis, e, one), besides)
        dy = dy - product(y, mixing) - rate[..., None, :] * y
        there = log_size > 0.5 * EMPTY  # what is zero stays zero, wherever it points
        dy = jnp.where(there[..., None, :], dy, 0.0)
        return self._state(dy, jnp.where(there, rate - decay, 0.0), hf - product(basis, t))

    def allowed(self, error: State, before: State, state: State, force: Any) -> State:
        y, log_size, basis = self._parts(error)
        now = self._parts(state)[0]
        least = jnp.minimum(jnp.abs(self._parts(before)[0]), jnp.abs(now))
        # no squares, which would underflow
        source = jnp.max(jnp.abs(force.apart), axis=(-2, -1), keepdims=True)
        alike = _speed(force.common)
        source = jnp.where(alike > 0.0, source / jnp.where(alike > 0.0, alike, 1.0), 1.0)
        share = jnp.maximum(jnp.maximum(least, SOURCE * source), LOST[1])
        tail = _beyond(now) & (jnp.abs(now) < TAIL)
        return self._state(y * jnp.where(tail, jnp.minimum(share, 1.0), 1.0), log_size, basis)

    def recentred(self, state: State) -> tuple[tuple[Array, Array], State]:
        y, log_size, basis = self._parts(state)
        if y.shape[-1] == 1:
            return self.frame(), state
        turned, logs, count = jax.vmap(parted)(*flattened(y, log_size))
        frame = self.rotations + count.reshape(self.rotations.shape), self.blurred
        return frame, self._state(turned, logs, basis)

    def horizon(self, state: State, velocity: State, atol: State) -> Float[Array, ""]:
        last = self.direction.size + self.log_size.size
        return GaugeCoordinates.horizon(self, state[:last], velocity[:last], atol[:last])

    def at(self, record: LeafRecord) -> "FrameCoordinates":
        new = tuple(record[k] for k in ("components", "log_size", "rotations", "blurred"))
        return FrameCoordinates(*new, self.split, record["basis"])

    def drift(
        self, state: State, force: Any, decay: Float[Array, ""], origin: State
    ) -> tuple[Float[Array, " weights"], Float[Array, " weights"]]:
        return GaugeCoordinates.drift(self, state, force.each, decay, origin)

    def descent(self, state: State, force: Any, decay: Float[Array, ""]) -> Float[Array, ""]:
        return GaugeCoordinates.descent(self, state, force.each, decay)

    def felt(self, state: State, force: Any) -> dict[str, Array]:
        return {"force": force.each}

    def record(self, state: State) -> dict[str, Array]:
        y, _, basis = self._parts(state)
        return GaugeCoordinates.record(self, state) | {"components": y, "basis": basis}

    def resolved(self, state: State, force: Any) -> Array:
        """Whether no component that a learned mode is to come from sinks below the floats."""
        y = self._parts(state)[0]
        size = jnp.abs(y)
        joint = min(self.split, y.shape[-2] - self.split)
        growing = jnp.broadcast_to((jnp.arange(y.shape[-2]) < joint).reshape(-1, 1), y.shape)
        return ~jnp.any(_beyond(y) & growing & (size < LOST[0]) & (size > LOST[1]))


def _turned(matrix: Float[Array, "new rows"], x: Float[Array, "... rows r"]) -> Array:
    """`matrix` applied to the columns of every head, all at once."""
    rows = jnp.moveaxis(x, -2, 0)
    out = product(matrix, rows.reshape(len(rows), -1))
    return jnp.moveaxis(out.reshape(-1, *rows.shape[1:]), 0, -2)


def _inverse(basis: Array, e: Array, one: Array) -> Array:
    """F⁻¹ of a frame that is orthogonal up to E: (I + E)⁻¹ Fᵀ to the fourth power of E."""
    return product(one - e + product(e, e - product(e, e)), basis.T)


def _speed(force: Float[Array, "m n"]) -> Float[Array, ""]:
    """‖H(G)‖."""
    square = jnp.sum(force**2)
    moving = square > 0.0
    return jnp.where(moving, jnp.sqrt(2.0 * jnp.where(moving, square, 1.0)), 0.0)


def _beyond(y: Float[Array, "... rows r"]) -> Bool[Array, "... rows r"]:
    """Components after the largest one of their column."""
    rows = jnp.arange(y.shape[-2]).reshape(-1, 1)
    return jnp.broadcast_to(rows, y.shape) > jnp.argmax(jnp.abs(y), axis=-2, keepdims=True)
