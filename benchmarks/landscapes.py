r"""Losses of effective weights θ for the alternatives: force g = −∇L and its Jacobian.

Written twice, as somebody would who has only NumPy (with analytic derivatives, for SciPy
and SUNDIALS) and as somebody would who has JAX (for Diffrax). The tests hold both against
the objective that gflow integrates.
"""

import dataclasses
from functools import cached_property
from typing import Any, Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np


class Landscape(Protocol):
    """A loss of the flat vector of effective weights."""

    def force(self, theta: np.ndarray) -> np.ndarray:
        """g = −∇L(θ)."""
        ...

    def force_jacobian(self, theta: np.ndarray) -> np.ndarray:
        """∂g/∂θ = −∇²L(θ)."""
        ...

    @property
    def traced(self) -> Any:
        """θ ↦ g in JAX, an Equinox module (so that it is compiled once)."""
        ...


class QuadraticForce(eqx.Module):
    """g = b − Hθ."""

    hessian: jax.Array
    linear: jax.Array

    def __call__(self, theta):
        return self.linear - self.hessian @ theta


@dataclasses.dataclass(frozen=True, eq=False)
class Quadratic:
    """½‖Xθ − y‖² by its normal equations: H = XᵀX and b = Xᵀy are formed once."""

    hessian: np.ndarray
    linear: np.ndarray

    @classmethod
    def of(cls, inputs, targets) -> "Quadratic":
        X, y = np.asarray(inputs), np.asarray(targets)
        return cls(X.T @ X, X.T @ y)

    def force(self, theta):
        return self.linear - self.hessian @ theta

    def force_jacobian(self, theta):
        return -self.hessian

    @cached_property
    def traced(self) -> QuadraticForce:
        return QuadraticForce(jnp.asarray(self.hessian), jnp.asarray(self.linear))


class SoftmaxForce(eqx.Module):
    """g of one diagonal softmax head by reverse mode."""

    inputs: jax.Array
    targets: jax.Array

    def loss(self, theta):
        x = self.inputs
        kq, vo = jnp.split(theta, 2)
        keyed = x * kq[None, None, :]
        logits = jnp.sum(keyed[:, :, None, :] * x[:, None, :, :], axis=-1)
        weights = jax.nn.softmax(logits, axis=-1)
        mixed = jnp.sum(weights[..., None] * x[:, None, :, :], axis=2)
        squares = jnp.sum((mixed * vo[None, None, :] - self.targets) ** 2)
        return 0.5 / x.shape[0] * squares

    def __call__(self, theta):
        return -jax.grad(self.loss)(theta)


@dataclasses.dataclass(frozen=True, eq=False)
class SoftmaxHead:
    r"""L = ‖F − Y‖²/2n of one head F_{ai} = o_i M_{ai}, M = A X, θ = (k, o).

    With A_{ab} = softmax_b(Σ_j k_j x_{aj} x_{bj}) and all moments over b under A_a·,

        ∂M_{ai}/∂k_j = x_{aj} C_{aij},   ∂²M_{ai}/∂k_j∂k_l = x_{aj} x_{al} K_{aijl},

    where C is the covariance and K the third cumulant of the tokens.
    """

    inputs: np.ndarray
    targets: np.ndarray

    def force(self, theta):
        k, o = np.split(theta, 2)
        A, M = self._attend(k)
        residual = M * o - self.targets
        outward = -residual / len(self.inputs)
        pulled = outward * o
        # Σ_i pulled_ai C_aij without forming C: moments of z_b = Σ_i pulled_ai x_bi
        x = self.inputs
        z = pulled @ x.transpose(0, 2, 1)
        weighted = A * z
        covariance = weighted @ x - weighted.sum(-1, keepdims=True) * M
        return np.concatenate([np.sum(x * covariance, (0, 1)), np.sum(outward * M, (0, 1))])

    def force_jacobian(self, theta):
        k, o = np.split(theta, 2)
        x, n, d = self.inputs, len(self.inputs), len(k)
        A, M = self._attend(k)
        residual = M * o - self.targets
        centred = x[:, None, :, :] - M[:, :, None, :]
        C = (A[..., None] * centred).transpose(0, 1, 3, 2) @ centred
        # ∂F_ai/∂(k, o)
        slope_k = o[:, None] * (x[:, :, None, :] * C)
        slope_o = M[..., None] * np.eye(d)
        slope = np.concatenate([slope_k, slope_o], -1).reshape(-1, 2 * d)
        hessian = slope.T @ slope
        # and Σ_ai residual_ai ∂²F_ai
        pulled = residual * o
        z = np.sum(pulled[:, :, None, :] * centred, -1)
        third = (A * z)[..., None] * centred
        cumulant = third.transpose(0, 1, 3, 2) @ centred
        hessian[:d, :d] += np.einsum("naj,nal,najl->jl", x, x, cumulant, optimize=True)
        cross = np.einsum("nai,naj,naij->ij", residual, x, C, optimize=True)
        hessian[d:, :d] += cross
        hessian[:d, d:] += cross.T
        return -hessian / n

    def _attend(self, k):
        x = self.inputs
        logits = (x * k) @ x.transpose(0, 2, 1)
        A = np.exp(logits - logits.max(-1, keepdims=True))
        A /= A.sum(-1, keepdims=True)
        return A, A @ x

    @cached_property
    def traced(self) -> SoftmaxForce:
        return SoftmaxForce(jnp.asarray(self.inputs), jnp.asarray(self.targets))
