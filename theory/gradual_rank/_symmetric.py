"""The limit algorithm for squares W = X Xᵀ.

As for A Bᵀ with both halves of a column alike and G + Gᵀ in place of the force G: on the
complement of the saddle j columns grow together at the sum of its j largest eigenvalues,
which may be negative, and nothing ever grows along a negative one.
"""

import dataclasses
import math
from typing import ClassVar, Self

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from gflow.internal import pulled, svd

from ._column_orbit import Block
from ._columns import Columns
from ._turning import Mode


class SymmetricBlock(Block):
    """Columns [x; x] under G + Gᵀ."""

    def halves(self):
        half = 0.5 * (self.direction[: self.split] + self.direction[self.split :])
        return half, half

    def pull(self, force):
        return pulled(self.direction, force + force.T, self.split)

    @property
    def drifts(self) -> bool:
        return True

    def recentred(self):
        """Both halves alike again: along [v; −v] rounding would grow where G is negative."""
        half = self.halves()[0]
        return eqx.tree_at(lambda b: b.direction, self, jnp.concatenate([half, half]))


@dataclasses.dataclass(frozen=True, eq=False)
class SymmetricColumns(Columns):
    """`Columns` of a leaf X Xᵀ: eigenvectors in place of singular vectors, no second branch."""

    block: ClassVar[type[Block]] = SymmetricBlock

    @property
    def full(self) -> bool:
        return False

    def factors(self) -> np.ndarray:
        return super().factors()[: self.split]

    @staticmethod
    def product(factors: Array, split: int) -> Array:
        return jnp.matmul(factors, factors.T)

    def _facing(self, force: np.ndarray, floor: float) -> Self:
        complement = svd(self.weight)[0][:, self.k :]
        h, p = np.linalg.eigh(complement.T @ (force + force.T) @ complement)
        h, half = h[::-1], (complement @ p)[:, ::-1]
        basis = np.concatenate([half, half]) / math.sqrt(2.0)
        grows, shrinks = h > floor, h < -floor
        modes = (
            *self._alike(h[grows], basis[:, grows]),
            Mode(0.0, basis[:, ~grows & ~shrinks]),
            *self._alike(h[shrinks], basis[:, shrinks]),
        )
        return self._felt(force, floor, h, modes)
