"""Losses, models and starts: softmax heads, matrix sensing, a dense linear network."""

import math
from typing import NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import gflow
from gflow import models, objectives

from ..scales import LOG10


class Matrix(eqx.Module):
    """One factored matrix."""

    weight: gflow.Parameter


class Sensing(eqx.Module):
    """½ Σ (⟨M_i, W⟩ − y_i)²/N of N random measurements."""

    measurements: Float[Array, "n d d"]
    targets: Float[Array, " n"]

    def __call__(self, model: Matrix) -> Float[Array, ""]:
        read = jnp.tensordot(self.measurements, model.weight.value, axes=2)
        return 0.5 * jnp.mean((read - self.targets) ** 2)


class Distance(eqx.Module):
    """½‖W − target‖²."""

    target: Float[Array, "m n"]

    def __call__(self, model: Matrix) -> Float[Array, ""]:
        return 0.5 * jnp.sum((model.weight.value - self.target) ** 2)


class Attention(NamedTuple):
    """The loss of a student, and its O(1) factors: left and right of kq, then of vo."""

    objective: objectives.SquaredLoss
    factors: list[np.ndarray]

    def at(self, exponent: float) -> models.SoftmaxAttention:
        """The student at α = 10^−exponent."""
        kq, vo = (gflow.Factored(*self.factors[i : i + 2], -exponent * LOG10) for i in (0, 2))
        return models.SoftmaxAttention(kq, vo)


def attention(seed: int, d: int, rank: int, heads: int | None, sequences: int) -> Attention:
    """A teacher of full matrices of a rank, and a student with as many columns."""
    rng = np.random.default_rng(seed)
    lead = () if heads is None else (heads,)
    inputs = rng.standard_normal((sequences, 5, d))

    def matrix():
        left, right = rng.standard_normal((*lead, d, rank)), rng.standard_normal((*lead, rank, d))
        return gflow.Frozen(jnp.asarray(left @ right))

    kq, vo = matrix(), matrix()
    kq = gflow.Frozen(0.6 * kq.value)
    targets = jax.vmap(models.SoftmaxAttention(kq, vo))(jnp.asarray(inputs))
    start = np.random.default_rng(seed + 100)
    factors = [start.standard_normal((*lead, d, rank)) for _ in range(4)]
    return Attention(objectives.SquaredLoss(inputs, targets), factors)


class Sensed(NamedTuple):
    """Measurements of a matrix of rank 3, O(1) factors of its estimate, and what draws more."""

    objective: Sensing
    left: np.ndarray
    right: np.ndarray
    rng: np.random.Generator

    def at(self, exponent: float) -> Matrix:
        """The estimate at α = 10^−exponent."""
        return Matrix(gflow.Factored(self.left, self.right, -exponent * LOG10))


def sensing() -> Sensed:
    """400 measurements of a 5 × 5 matrix with singular values 3, 2 and 1.2."""
    rng = np.random.default_rng(0)
    d = 5
    u, v = (np.linalg.qr(rng.standard_normal((d, d)))[0] for _ in range(2))
    target = u @ np.diag([3.0, 2.0, 1.2, 0.0, 0.0]) @ v.T
    measurements = rng.standard_normal((400, d, d))
    objective = Sensing(jnp.asarray(measurements), jnp.asarray(np.tensordot(measurements, target)))
    left, right = rng.standard_normal((d, 3)), rng.standard_normal((d, 3))
    return Sensed(objective, left, right, rng)


class Dense(NamedTuple):
    """The distance to a matrix of singular values `sizes`, and a start from α = e^log_alpha."""

    objective: Distance
    sizes: np.ndarray
    left: np.ndarray
    right: np.ndarray
    log_alpha: float

    @property
    def guarded(self) -> Matrix:
        return Matrix(gflow.Factored(self.left, self.right, self.log_alpha))

    def unguarded(self, tau: np.ndarray) -> np.ndarray:
        """The loss along A and B as plain arrays, by Diffrax's Dopri8."""
        alpha, times = math.exp(self.log_alpha), jnp.asarray(tau * -self.log_alpha)

        def field(t, factors, target):
            left, right = factors
            force = target - left @ right.T
            return force @ right, force.T @ left

        found = diffrax.diffeqsolve(
            diffrax.ODETerm(field), diffrax.Dopri8(), times[0], times[-1], 1e-3,
            (jnp.asarray(self.left * alpha), jnp.asarray(self.right * alpha)),
            self.objective.target, saveat=diffrax.SaveAt(ts=times), max_steps=100_000,
            stepsize_controller=diffrax.PIDController(rtol=1e-8, atol=1e-8 * alpha),
        )  # fmt: skip
        assert found.ys is not None
        left, right = found.ys
        miss = self.objective.target[None] - left @ right.swapaxes(1, 2)
        return np.asarray(0.5 * jnp.sum(miss**2, axis=(1, 2)))


def dense() -> Dense:
    """Five modes; the start has the sign of the target's determinant, so that all are learned."""
    rng = np.random.default_rng(0)
    bases = [np.linalg.qr(rng.standard_normal((5, 5)))[0] for _ in range(2)]
    sizes = np.array([3.0, 2.0, 1.5, 1.2, 1.0])
    target = bases[0] @ np.diag(sizes) @ bases[1].T
    left, right = rng.standard_normal((5, 5)), rng.standard_normal((5, 5))
    if np.linalg.det(left @ right.T) * np.linalg.det(target) < 0:
        left = left @ np.diag([-1.0, 1, 1, 1, 1])
    return Dense(Distance(jnp.asarray(target)), sizes, left, right, -60 * LOG10)
