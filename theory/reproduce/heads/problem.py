"""Heads that sum to a matrix of rank one; heads of an attention that learns a teacher."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import gflow

PAPER = "Identifiability of heads, arXiv 2604.23681"
LAWS = "Marcotte, Gribonval & Peyré 2023, arXiv 2307.00144"

U, V, SIGMA = np.array([0.6, 0.8, 0.0]), np.array([0.0, 0.6, -0.8, 0.0]), 2.0
HEADS, RANK = 3, 2


class Together(eqx.Module):
    """½‖Σ_h W_h − M‖²: every head feels the same force."""

    target: jax.Array

    def __call__(self, model: dict[str, gflow.Factored]) -> jax.Array:
        return 0.5 * jnp.sum((jnp.sum(model["w"].value, axis=0) - self.target) ** 2)


class Start(NamedTuple):
    """The O(1) factors of every head, (H, m, r) and (H, n, r)."""

    left: np.ndarray
    right: np.ndarray

    def model(self, exponent: float) -> dict[str, gflow.Factored]:
        """Of size α = 10^−exponent."""
        log_alpha = -exponent * np.log(10.0)
        return {"w": gflow.Factored(self.left, self.right, log_scale=log_alpha)}


def drawn(seed: int) -> Start:
    rng = np.random.default_rng(seed)
    shapes = (HEADS, len(U), RANK), (HEADS, len(V), RANK)
    return Start(*(rng.normal(size=shape) for shape in shapes))


def rank_one() -> Together:
    return Together(jnp.asarray(SIGMA * np.outer(U, V)))


class Teacher(NamedTuple):
    """Two heads of softmax attention that learn two others, value–output matrices first."""

    inputs: jax.Array
    targets: jax.Array

    @property
    def objective(self) -> gflow.objectives.SquaredLoss:
        return gflow.objectives.SquaredLoss(self.inputs, self.targets)

    def student(self, size: float) -> gflow.models.SoftmaxAttention:
        """Plain factors: value–output of size 0.3, key–query of this size (0: frozen)."""
        rng = np.random.default_rng(5)
        shape = (2, 3, 2)
        kq, vo = (
            gflow.to_factors(gflow.Factored(s * rng.normal(size=shape), s * rng.normal(size=shape)))
            for s in (size, 0.3)
        )
        return gflow.models.SoftmaxAttention(kq if size else gflow.Frozen(kq.value), vo)


def teacher() -> Teacher:
    rng = np.random.default_rng(4)
    inputs = rng.normal(size=(12, 4, 3))
    kq, vo = (
        gflow.Frozen(rng.normal(size=(2, 3, 2)) @ rng.normal(size=(2, 2, 3))) for _ in range(2)
    )
    model = gflow.models.SoftmaxAttention(kq, vo)
    return Teacher(jnp.asarray(inputs), jax.vmap(model)(jnp.asarray(inputs)))
