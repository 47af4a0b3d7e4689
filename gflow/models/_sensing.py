"""Matrices seen through linear measurements A ↦ ⟨A, W⟩, of products and of squares."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from .._alpha import log_alpha_or_none, one_log_alpha
from ..parameters._base import Parameter
from ..parameters._symmetric import Symmetric


class MatrixSensing(eqx.Module):
    r"""A ↦ ⟨A, W⟩ = Σ_ij A_ij W_ij for a matrix W, for example W = A Bᵀ.

    `weight` is W, best a `gflow.Factored`; any parameter of shape (m, n) will do. Matrix
    completion has A with a single 1. Flow time is that of the weight's factors.

    **Raises:** ValueError for a weight that is not one matrix and, at the first call, for
    measurements of another shape.

    ```python
    weight = gflow.Factored.small((5, 5), 3, log_alpha=-230.26, key=key)
    gflow.models.MatrixSensing(weight)(a)          # a: (5, 5) -> scalar
    ```
    """

    weight: Parameter

    def __init__(self, weight: Parameter):
        if weight.value.ndim != 2:
            raise ValueError(
                f"MatrixSensing needs one matrix, and weight.value has shape {weight.value.shape}."
            )
        self.weight = weight

    @property
    def matrix(self) -> Float[Array, "m n"]:
        """The matrix W that is measured."""
        return self.weight.value

    def __call__(self, a: Float[Array, "m n"]) -> Float[Array, ""]:
        return _measured(a, self.matrix)


class SymmetricFactored(eqx.Module):
    r"""A ↦ ⟨A, X Xᵀ⟩ for one factor X: a positive semidefinite matrix, measured.

    `.matrix` is X Xᵀ, exactly symmetric, so that a loss L of it feels −∇L only in its
    symmetric part G. X follows its gradient flow, with decay λ,

        X' = −∇_X (L(X Xᵀ) + (λ/2)‖X‖²) = 2GX − λX.

    With the loss of `gflow.tasks.matrix_sensing`, L = (1/2m) Σ_i (⟨A_i, X Xᵀ⟩ − y_i)², it runs
    at twice the speed of the flow of (1/4m) Σ_i (…)², whose t is (learning rate) × (steps) of
    2301.11500; with ½‖X Xᵀ − M‖² at twice that of `theory.exact_linear.symmetric`. The balance
    is 0, and directions in which G has only
    negative eigenvalues are never learned: X Xᵀ stays positive semidefinite.

    X is e^{log_scale}·`factor`, (n, r), from any scale; see `small` for Gaussian columns. The
    leaf `weight` records and reports as a `gflow.Factored`.

    **Raises:** ValueError for a factor that is not a finite matrix and, at the first call, for
    measurements of another shape.

    Jin, Li, Lyu, Du, Lee 2023 (2301.11500); Li, Luo, Lyu 2021 (2012.09839).

    ```python
    model = gflow.models.SymmetricFactored.small(5, 5, log_alpha=-230.26, key=key)
    model(a), model.matrix                         # a: (5, 5) -> scalar; (5, 5)
    ```
    """

    weight: Parameter

    def __init__(
        self,
        factor: Float[ArrayLike, "n r"],
        log_scale: ArrayLike = 0.0,
        log_alpha: ArrayLike | None = None,
        *,
        alpha: ArrayLike | None = None,
        log10_alpha: ArrayLike | None = None,
    ):
        log_alpha = log_alpha_or_none(log_alpha, alpha, log10_alpha)
        self.weight = Symmetric(factor, factor, log_scale=log_scale, log_alpha=log_alpha)

    @classmethod
    def small(
        cls,
        n: int,
        rank: int,
        *,
        log_alpha: ArrayLike | None = None,
        alpha: ArrayLike | None = None,
        log10_alpha: ArrayLike | None = None,
        key: PRNGKeyArray,
    ) -> "SymmetricFactored":
        """X of `rank` Gaussian columns of size α in n dimensions.

        α is given as `log_alpha` (natural logarithm), `log10_alpha` or `alpha`.
        """
        log_alpha = one_log_alpha(log_alpha, alpha, log10_alpha)
        weight = Symmetric.small((n, n), rank, log_alpha=log_alpha, key=key)
        return cls(weight.left, log_scale=log_alpha)

    @property
    def matrix(self) -> Float[Array, "n n"]:
        """X Xᵀ, equal to its transpose to the last bit."""
        value = self.weight.value
        return 0.5 * (value + value.T)

    def __call__(self, a: Float[Array, "n n"]) -> Float[Array, ""]:
        return _measured(a, self.matrix)


def _measured(a: Array, matrix: Array) -> Array:
    if a.shape != matrix.shape:
        raise ValueError(
            f"A measurement of shape {a.shape} meets a matrix of shape {matrix.shape}: ⟨A, W⟩ "
            "needs one shape."
        )
    return jnp.sum(a * matrix)
