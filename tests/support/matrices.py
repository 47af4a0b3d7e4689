"""Losses of one matrix W = A Bᵀ and random matrices, shared by the tests of factored weights."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import gflow
from gflow.results._crossings import Crossing, Quantity, first_crossing

LOG10 = math.log(10.0)


def gaussian(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def rotation(r, seed):
    return np.linalg.qr(gaussian(r, r, seed=seed))[0]


class Matrix(eqx.Module):
    """A model that is its weight."""

    weight: Any


class Quadratic(eqx.Module):
    """½ vec(W − M)ᵀ K vec(W − M)."""

    kernel: jax.Array
    target: jax.Array

    def __call__(self, model):
        rest = (model.weight.value - self.target).ravel()
        return 0.5 * jnp.sum(rest * jnp.matmul(self.kernel, rest))


def quadratic_problem(seed: int, d: int = 3) -> tuple[np.ndarray, ...]:
    """K and M of a loss that commutes with nothing, and O(1) factors A, B of full width."""
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((d * d, d * d))
    kernel = root @ root.T / d**2 + 0.3 * np.eye(d * d)
    u, v = (np.linalg.qr(rng.standard_normal((d, d)))[0] for _ in range(2))
    target = u @ np.diag(np.linspace(2.0, 0.7, d)) @ v.T
    return kernel, target, rng.standard_normal((d, d)), rng.standard_normal((d, d))


def quadratic(seed: int, log_alpha: float, d: int = 3, r: int | None = None):
    """The model of the problem with r columns at α, and its loss."""
    kernel, target, left, right = quadratic_problem(seed, d)
    weight = gflow.Factored(left[:, :r], right[:, :r], log_scale=log_alpha)
    return Matrix(weight), Quadratic(jnp.asarray(kernel), jnp.asarray(target))


def loss_crossing(run: gflow.Trajectory, level: float) -> Crossing:
    """When the loss falls through a level."""
    found = first_crossing(run, Quantity(sign=-1.0), -float(level))
    assert found is not None
    return found


def orthogonal(seed):
    return jnp.asarray(np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0])


class Coupled(eqx.Module):
    """Learns mode 1, then mode 2 at rate 0.4; the first would sooner turn if softer than 1.

    The learned column of size 0.2 turns to mode 2 at rate 0.4 − 0.4·stiffness.
    """

    left: jax.Array
    right: jax.Array
    stiffness: jax.Array

    def __call__(self, model):
        w = self.left.T @ model.weight.value @ self.right
        others = jnp.sum(w**2) - w[0, 0] ** 2 - w[1, 1] ** 2
        first = 0.5 * (w[0, 0] - 1.0) ** 2
        return first + 0.5 * (w[1, 1] - 2.0 * w[0, 0]) ** 2 + self.stiffness * others


def coupled(stiffness: float) -> Coupled:
    return Coupled(orthogonal(1), orthogonal(2), jnp.asarray(stiffness))
