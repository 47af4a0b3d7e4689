"""The weight X Xᵀ, from any scale, and X as it is."""

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from .._alpha import one_log_alpha
from ..coordinates._gauge import GaugeCoordinates
from ..coordinates._product import ChainCoordinates
from ..coordinates._symmetric import SquareCoordinates, SymmetricCoordinates
from ._base import Trainable
from ._factored import Factored


class Symmetric(Factored):
    r"""W = e^{2 log_scale} X Xᵀ: left and right are one factor X and stay so.

        X' = −∇_X (L(X Xᵀ) + (λ/2)‖X‖²) = (G + Gᵀ)X − λX,   G = −∂L/∂W

    For L = ½‖X Xᵀ − M‖² it is X' = 2(M − X Xᵀ)X. The two factors of A Bᵀ, started from
    A = B = X, move at half this speed.

    The plain factor (`gflow.to_factors`) is one array X.

    **Raises:** ValueError for factors that differ, or heads: X is one matrix (n, r).

    ```python
    weight = Symmetric(x, x, log_scale=-230.26)
    weight = Symmetric.small((n, n), r, log_alpha=-230.26, key=key)
    ```
    """

    def __check_init__(self):
        left, right = self.left, self.right
        if left.ndim != 2:
            raise ValueError(f"X Xᵀ needs one matrix X, (n, r); X has shape {left.shape}.")
        traced = isinstance(left, jax.core.Tracer) or isinstance(right, jax.core.Tracer)
        if left is not right and not traced and not np.array_equal(left, right):
            raise ValueError(
                "The factors of X Xᵀ differ. Pass one X as left and right, or use gflow.Factored "
                "for A Bᵀ."
            )

    @classmethod
    def small(
        cls,
        shape: tuple[int, ...],
        rank: int,
        *,
        log_alpha: ArrayLike | None = None,
        alpha: ArrayLike | None = None,
        log10_alpha: ArrayLike | None = None,
        key: PRNGKeyArray,
        exponent: ArrayLike = 1.0,
    ) -> "Symmetric":
        """X of `rank` Gaussian columns of size α^exponent, for W of `shape` (n, n)."""
        log_alpha = one_log_alpha(log_alpha, alpha, log10_alpha)
        if len(shape) != 2 or shape[0] != shape[1]:
            raise ValueError(f"X Xᵀ is square, (n, n), and its shape was given as {shape}.")
        if rank < 1:
            raise ValueError(f"rank = {rank}: a product needs at least one column.")
        x = jax.random.normal(key, (shape[0], rank))
        return cls(x, x, log_scale=log_alpha, exponent=exponent)

    def conserved(self) -> Float[Array, "..."]:
        """Nothing: there is one factor, and XᵀX moves."""
        return jnp.zeros((0,), self.left.dtype)

    def coordinates(self, decays: bool) -> GaugeCoordinates:
        return SymmetricCoordinates.from_columns(self.left, self.right, self.log_scale)

    def _plain(self, left: Array, right: Array) -> "SquareFactor":
        return SquareFactor(left)


class SquareFactor(Trainable):
    """W = X Xᵀ with a plain array X: what an outside optimiser trains."""

    spectral: ClassVar[bool] = True

    factor: Float[Array, "n r"]

    @property
    def value(self) -> Float[Array, "n n"]:
        return jnp.matmul(self.factor, self.factor.swapaxes(-1, -2))

    @property
    def factors(self) -> tuple[Float[Array, "n r"], Float[Array, "r n"]]:
        return self.factor, self.factor.swapaxes(-1, -2)

    def conserved(self) -> Float[Array, "..."]:
        return jnp.zeros((0,), self.factor.dtype)

    def coordinates(self, decays: bool) -> ChainCoordinates:
        return SquareCoordinates.at_factors((self.factor,))

    def at_record(self, record: Mapping[str, Any], time: float) -> "SquareFactor":
        return SquareFactor(jnp.asarray(record["factor_0"]))
