"""Two examples of four features, starts of models that learn them, and decays of their leaves."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from kinds import Mixed

import gflow
from gflow.models import DiagonalLinear
from gflow.objectives import SquaredLoss

INPUTS = np.array([[1, 0.5, 0.7, 0], [0.5, 1, 0.1, 0.7]])
TARGETS = np.array([1.0, 0.0])
HALF_SUM = SquaredLoss(INPUTS, TARGETS, "half_sum")


def small(log_alpha=-4.6, seed=0, d=4):
    return DiagonalLinear(gflow.Hadamard.small(d, log_alpha=log_alpha, key=jax.random.key(seed)))


GAIN = np.array([1.0, 0.3, 0.5, -0.2])


def mixed():
    return Mixed(
        small(-4.6).weight,
        gflow.to_factors(small(-4.0, seed=1).weight),
        gflow.Scaled(jnp.array([1.0, -0.5, 0.2, 0.1]), log_scale=math.log(1e-4)),
        jnp.array([0.0, 1e-3, 2e-3, 0.0]),
        gflow.Frozen(GAIN),
    )


DECAYS = {
    "none": (0.0, lambda name, t: 0.0),
    "constant": (0.05, lambda name, t: 0.05),
    "of time": (lambda t: 0.2 / (1.0 + t), lambda name, t: 0.2 / (1.0 + t)),
    "by leaf": (
        {"hadamard": 0.1, "factors": 0.07, "scaled": lambda t: 0.02 * t},
        lambda name, t: {"hadamard": 0.1, "factors": 0.07, "scaled": 0.02 * t}.get(name, 0.0),
    ),
}
