r"""Two models with plain weights: a two-layer linear network and a stiff tanh network.

They have no Hadamard leaf, hence no dual coordinates: gflow integrates them as everybody
does, and the question is the solver.
"""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import gflow

from .formulations import Formulation


class DeepLinear(eqx.Module):
    """The matrix W₂W₁."""

    first: jax.Array
    second: jax.Array

    def __call__(self):
        return self.second @ self.first


class MatrixLoss(eqx.Module):
    """½‖W₂W₁ − M‖²."""

    target: jax.Array

    def __call__(self, model):
        return 0.5 * jnp.sum((model() - self.target) ** 2)


class DeepLinearField(eqx.Module):
    """(W₁, W₂) ↦ (W₂ᵀR, RW₁ᵀ), R = M − W₂W₁."""

    target: jax.Array

    def __call__(self, t, y, args):
        n = self.target.shape[0]
        W1, W2 = y[: n * n].reshape(n, n), y[n * n :].reshape(n, n)
        R = self.target - W2 @ W1
        return jnp.concatenate([(W2.T @ R).ravel(), (R @ W1.T).ravel()])


@dataclasses.dataclass(frozen=True, eq=False)
class MatrixFactorisation:
    """½‖W₂W₁ − M‖² from W₁, W₂ = α·(Gaussian/√n), as plain arrays."""

    target: np.ndarray

    @classmethod
    def draw(cls, n: int, singular: tuple[float, ...], seed: int = 0) -> "MatrixFactorisation":
        """A target of rank len(singular) with these singular values."""
        rng = np.random.default_rng(seed)
        left, right = (np.linalg.qr(rng.standard_normal((n, n)))[0] for _ in range(2))
        k = len(singular)
        return cls((left[:, :k] * np.array(singular)) @ right[:, :k].T)

    def model(self, log_alpha: float, key) -> DeepLinear:
        n = len(self.target)
        return DeepLinear(*(np.exp(log_alpha) / n**0.5 * jax.random.normal(key, (2, n, n))))

    @property
    def objective(self) -> MatrixLoss:
        return MatrixLoss(jnp.asarray(self.target))

    def raw(self, model: DeepLinear) -> Formulation:
        n, M = len(self.target), self.target
        start = np.concatenate([np.ravel(model.first), np.ravel(model.second)])
        size, identity = n * n, np.eye(n)

        def split(y):
            return y[..., :size].reshape(*y.shape[:-1], n, n), y[..., size:].reshape(
                *y.shape[:-1], n, n
            )

        def rhs(t, y):
            W1, W2 = split(y)
            R = M - W2 @ W1
            return np.concatenate([(W2.T @ R).ravel(), (R @ W1.T).ravel()])

        def jacobian(t, y):
            W1, W2 = split(y)
            R = M - W2 @ W1
            out = np.empty((2, n, n, 2, n, n))
            # δ(W₂ᵀR)_ij = −(W₂ᵀW₂ δW₁)_ij + (δW₂ᵀR)_ij − (W₂ᵀ δW₂ W₁)_ij
            out[0, :, :, 0] = -np.einsum("ik,jl->ijkl", W2.T @ W2, identity)
            out[0, :, :, 1] = np.einsum("il,kj->ijkl", identity, R)
            out[0, :, :, 1] -= np.einsum("ki,lj->ijkl", W2, W1)
            # δ(RW₁ᵀ)_ij = (R δW₁ᵀ)_ij − (W₂ δW₁ W₁ᵀ)_ij − (δW₂ W₁W₁ᵀ)_ij
            out[1, :, :, 0] = np.einsum("il,jk->ijkl", R, identity)
            out[1, :, :, 0] -= np.einsum("ik,jl->ijkl", W2, W1)
            out[1, :, :, 1] = -np.einsum("ik,lj->ijkl", identity, W1 @ W1.T)
            return out.reshape(2 * size, 2 * size)

        def weights(y):
            W1, W2 = split(y)
            return (W2 @ W1).reshape(*y.shape[:-1], size)

        return Formulation(
            start=start,
            rhs=rhs,
            jacobian=jacobian,
            field=DeepLinearField(jnp.asarray(M)),
            weights=weights,
            scale=float(np.min(np.abs(start))),
            stable_step=1.0 / float(np.linalg.norm(M, 2)),
        )

    def of_trajectory(self, trajectory: gflow.Trajectory) -> np.ndarray:
        first, second = (trajectory.observables[k] for k in ("first", "second"))
        return (second @ first).reshape(len(trajectory.t), -1)


class TanhNetwork(eqx.Module):
    """x ↦ W₃ tanh(W₂ tanh(W₁x)), plain arrays."""

    first: jax.Array
    second: jax.Array
    third: jax.Array

    @classmethod
    def draw(cls, inputs: int, width: int, outputs: int, *, key, scale: float) -> "TanhNetwork":
        """Gaussian entries of standard deviation scale/√(fan in)."""
        shapes = [(width, inputs), (width, width), (outputs, width)]
        keys = jax.random.split(key, 3)
        arrays = [
            scale / s[1] ** 0.5 * jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True)
        ]
        return cls(*arrays)

    def __call__(self, x):
        return self.third @ jnp.tanh(self.second @ jnp.tanh(self.first @ x))
