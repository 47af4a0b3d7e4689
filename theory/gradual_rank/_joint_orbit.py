"""Heads that feel one force on an orbit: the columns of their sum, and how the gauge turns them."""

from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._column_orbit import Block
from ._fast_system import OrbitLeaf


class JointBlock(OrbitLeaf):
    """The columns of a sum of heads under their mean force.

    `gram`: R_hᵀR_h of every head where the orbit begins; `turn`: the columns now as combinations
    of those they were, so that head h has turnᵀ gram_h turn.
    """

    columns: Block
    gram: Float[Array, "heads r r"]
    turn: Float[Array, "r r"]

    @classmethod
    def of(cls, columns: Block, gram: Sequence[Float[Array, "r r"]]) -> "JointBlock":
        return cls(columns, jnp.stack(gram), jnp.eye(columns.modes, dtype=columns.log_size.dtype))

    def flat(self):
        return jnp.concatenate([self.columns.flat(), self.turn.ravel()])

    def at(self, flat):
        cut = flat.size - self.turn.size
        new = self.columns.at(flat[:cut]), flat[cut:].reshape(self.turn.shape)
        return eqx.tree_at(lambda b: (b.columns, b.turn), self, new)

    def weight(self):
        return jnp.stack([self.columns.mixed(self._now(gram)) for gram in self.gram])

    def _now(self, gram: Float[Array, "r r"]) -> Float[Array, "r r"]:
        return jnp.matmul(self.turn.T, jnp.matmul(gram, self.turn))

    def velocity(self, force):
        return self._moving(force, self.columns.velocity(jnp.mean(force, axis=0)))

    def _moving(self, force: Float[Array, "heads m n"], velocity: Float[Array, " size"]):
        turn = jnp.matmul(self.turn, self.columns.mixing(jnp.mean(force, axis=0)))
        return jnp.concatenate([velocity, turn.ravel()])

    @property
    def modes(self):
        return self.columns.modes

    def disturbed(self, amount):
        """Without products of a dormant column with another one, which cancel in the sum."""
        quiet = jnp.where(self.columns.living, 0.0, amount)
        shares = jnp.stack([jnp.diagonal(self._now(gram)) for gram in self.gram])
        own = jnp.stack([self.columns.made_of(quiet * share) for share in shares])
        return self.weight() + own

    def pushed(self, force, amount):
        return self._moving(force, self.columns.pushed(jnp.mean(force, axis=0), amount))

    @property
    def active(self):
        return jnp.concatenate([self.columns.active, jnp.zeros(self.turn.size, bool)])

    @property
    def log_sizes(self):
        return jnp.concatenate([self.columns.log_sizes, jnp.zeros(self.turn.size, bool)])

    @property
    def unitless(self):
        return True

    def without(self, gone):
        cut = gone.size - self.turn.size
        return eqx.tree_at(lambda b: b.columns, self, self.columns.without(gone[:cut]))

    @property
    def drifts(self) -> bool:
        return self.columns.drifts

    def recentred(self):
        return eqx.tree_at(lambda b: b.columns, self, self.columns.recentred())
