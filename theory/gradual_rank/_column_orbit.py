"""One head of a factored leaf on an orbit: active columns, and dormant ones carried along.

The active columns of Z = [A; B] make W and move it; the dormant ones, infinitely smaller as
α → 0, follow Z' = H(W(s)) Z in the gauge in which each is cleared of all larger ones
(`gflow.coordinates`), so that their log-sizes are logarithms of ratios of volumes and stay as
well-determined as those of the active ones, however long the orbit.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from gflow.internal import clearing, column_velocity, pulled

from ._fast_system import OrbitLeaf


class Block(OrbitLeaf):
    """Directions and log-sizes of columns, which of them are active.

    `level`: dormant columns of one level are of like size, as at a start that nothing has pulled
    yet; else one is infinitely smaller than the one before. `told`: the last of them has been
    far above its start. `split`: rows of A.
    """

    direction: Float[Array, "rows r"]
    log_size: Float[Array, " r"]
    living: Bool[Array, " r"]
    level: Int[Array, " r"]
    told: Bool[Array, ""]
    decay: Float[Array, ""]
    split: int = eqx.field(static=True)

    def flat(self):
        return jnp.concatenate([self.direction.ravel(), self.log_size])

    def at(self, flat):
        cut = self.direction.size
        new = flat[:cut].reshape(self.direction.shape), flat[cut:]
        return eqx.tree_at(lambda b: (b.direction, b.log_size), self, new)

    def weight(self):
        return self.made_of(jnp.where(self.living, jnp.exp(2.0 * self.log_size), 0.0))

    def mixed(self, gram: Float[Array, "r r"]) -> Float[Array, "m n"]:
        """Σ A_i gram_ij B_jᵀ of the active columns."""
        left, right = self.halves()
        size = jnp.where(self.living, jnp.exp(jnp.where(self.living, self.log_size, 0.0)), 0.0)
        return jnp.matmul(left * size[None], jnp.matmul(gram, (right * size[None]).T))

    def halves(self) -> tuple[Float[Array, "m r"], Float[Array, "n r"]]:
        return self.direction[: self.split], self.direction[self.split :]

    def made_of(self, square: Float[Array, " r"]) -> Float[Array, "m n"]:
        """The matrix of columns of these squared sizes."""
        left, right = self.halves()
        return jnp.matmul(left * square[None], right.T)

    def velocity(self, force):
        return self.moving(force, self._share())

    def moving(self, force: Float[Array, "m n"], share: Float[Array, "r r"]):
        turn, growth = column_velocity(self.direction, self.pull(force), share)
        return jnp.concatenate([turn.ravel(), growth - self.decay])

    def pull(self, force: Float[Array, "m n"]) -> Float[Array, "rows r"]:
        """Hx of every column."""
        return pulled(self.direction, force, self.split)

    def mixing(self, force: Float[Array, "m n"]) -> Float[Array, "r r"]:
        """Ω of z' = Hz + zΩ, antisymmetric: how the gauge turns active columns into each other."""
        x = jnp.where(self.living[None], self.direction, 0.0)
        hx = self.pull(force)
        turn, growth = column_velocity(self.direction, hx, self._share())
        taken = jnp.matmul(x.T, hx - turn - growth[None] * self.direction)
        square = jnp.matmul(x.T, x) + jnp.diag(jnp.where(self.living, 0.0, 1.0))
        gap = self.log_size[None, :] - self.log_size[:, None]
        # from the larger of two columns: the other way round rounding would be blown up
        both = self.living[:, None] & self.living[None, :] & (gap <= 0.0)
        both &= jnp.arange(x.shape[1])[:, None] != jnp.arange(x.shape[1])[None, :]
        half = jnp.where(
            both, jnp.linalg.solve(square, taken) * jnp.exp(jnp.minimum(gap, 0.0)), 0.0
        )
        return half.T - half

    @property
    def modes(self):
        return self.log_size.size

    def disturbed(self, amount):
        return self.made_of(jnp.where(self.living, jnp.exp(2.0 * self.log_size), amount))

    def pushed(self, force, amount):
        """An active column is cleared of dormant ones as well: the gauge is one of rotations."""
        back = jnp.where(self.living[:, None], 0.0, amount[:, None])
        sizes = jnp.where(self.living, self.log_size, jnp.inf)
        return self.moving(force, self._share() - back * jnp.exp(-2.0 * sizes)[None])

    def _share(self) -> Float[Array, "r r"]:
        """How much of its overlap with column i column j is cleared of."""
        r = len(self.log_size)
        place = jnp.where(self.living, 0, r) + jnp.arange(r)
        before = jnp.where(place[:, None] < place[None, :], 1.0, 0.0)
        both = self.living[:, None] & self.living[None, :]
        alike = ~self.living[:, None] & ~self.living[None, :]
        alike = alike & (self.level[:, None] == self.level[None, :])
        return jnp.where(both | alike, clearing(self.log_size), before)

    @property
    def active(self):
        rows = jnp.broadcast_to(self.living[None], self.direction.shape)
        return jnp.concatenate([rows.ravel(), self.living])

    @property
    def log_sizes(self):
        return jnp.arange(self.direction.size + self.log_size.size) >= self.direction.size

    @property
    def unitless(self):
        return True  # directions have no units of their own

    def without(self, gone):
        return eqx.tree_at(lambda b: b.living, self, self.living & ~gone[self.direction.size :])

    @property
    def drifts(self) -> bool:
        """Square and of full width: the columns then fill a maximal isotropic space."""
        rows, r = self.direction.shape
        return 2 * self.split == rows and r == self.split

    def recentred(self):
        """The last dormant column put back where the conserved balance keeps it.

        AᵀA − BᵀB is infinitely smaller than the columns, so the last one is [u; ±v]/√2 with u
        and v orthogonal to both halves of the others. The sign is kept; rounding in the
        direction of the other would grow.
        """
        if not self.drifts:
            return self
        x, cut = self.direction, self.split
        halves, lengths = [], []
        for half in (x[:cut], x[cut:]):
            rest = jnp.linalg.qr(half[:, :-1], mode="complete")[0][:, -1]
            along = jnp.sum(rest * half[:, -1])
            halves.append(rest * jnp.sign(along) / jnp.sqrt(2.0))
            lengths.append(jnp.abs(along))
        dormant = self.told & ~self.living[-1]
        last = jnp.where(dormant, jnp.concatenate(halves), x[:, -1])
        # what it has along the others is no part of the volume, the rest is
        size = 0.5 * jnp.log(2.0 * lengths[0] * lengths[1])
        log_size = self.log_size.at[-1].add(jnp.where(dormant, size, 0.0))
        new = x.at[:, -1].set(last), log_size
        return eqx.tree_at(lambda b: (b.direction, b.log_size), self, new)
