"""A frozen stack of softmax heads with adapters, and a teacher with rank-one changes.

Every head gets adapters W + ABᵀ on its key–query and value–output matrix (LoRA), started at zero
size. The frozen weights tell the heads apart, so that every rank jump of the sixteen matrices has
a winner.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gflow
from gflow import models, objectives

from ..scales import LOG10

LAYERS, HEADS, WIDTH, COLUMNS = 2, 4, 3, 2


class Problem(NamedTuple):
    """The loss, and by layer and matrix the frozen weights and the O(1) factors."""

    objective: objectives.SquaredLoss
    frozen: list[list[np.ndarray]]
    factors: list[list[list[np.ndarray]]]

    def at(self, exponent: float) -> models.Residual:
        """The student with adapters of size α = 10^−exponent."""
        return _stack(
            [
                [
                    models.Adapted(base, gflow.Factored(a, b, -exponent * LOG10))
                    for base, (a, b) in zip(bases, pairs, strict=True)
                ]
                for bases, pairs in zip(self.frozen, self.factors, strict=True)
            ]
        )


def problem(seed: int) -> Problem:
    """Distance to a stack whose every matrix differs by a change of rank one."""
    rng = np.random.default_rng(seed)
    shape = HEADS, WIDTH, WIDTH
    inputs = jnp.asarray(rng.standard_normal((32, 6, WIDTH)))
    frozen = [[size * rng.standard_normal(shape) for size in (0.7, 0.35)] for _ in range(LAYERS)]

    def changed(base: np.ndarray) -> gflow.Frozen:
        change = rng.standard_normal((*shape[:2], 1)) @ rng.standard_normal((HEADS, 1, WIDTH))
        change *= 0.6 / np.linalg.norm(change, axis=(1, 2), keepdims=True)
        return gflow.Frozen(base + change)

    teacher = _stack([[changed(base) for base in pair] for pair in frozen])
    objective = objectives.SquaredLoss(inputs, jax.vmap(teacher)(inputs), reduction="half_mean")
    factors = [
        [[rng.standard_normal((*shape[:2], COLUMNS)) for _ in range(2)] for _ in pair]
        for pair in frozen
    ]
    return Problem(objective, frozen, factors)


def _stack(matrices) -> models.Residual:
    return models.Residual([models.SoftmaxAttention(*pair) for pair in matrices])
