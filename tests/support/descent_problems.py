"""Starts and losses of discrete training, among them those of the run at 200 digits."""

import jax
import jax.numpy as jnp
import reference_data
from kinds import Mixed

import gflow
from gflow.models import DiagonalLinear
from gflow.objectives import SquaredLoss

GD = reference_data.load("gd")
RATE = float(GD["learning_rate"])
X = jnp.array([[1, 0.5, 0.7, 0], [0.5, 1, 0.1, 0.7]])
Y = jnp.array([1.0, 0.0])
HALF_SUM = SquaredLoss(X, Y, "half_sum")


def small(log_alpha=-10.0, seed=0, d=4):
    return DiagonalLinear(gflow.Hadamard.small(d, log_alpha=log_alpha, key=jax.random.key(seed)))


def mixed():
    u, v = jnp.array([0.3, -0.1, 0.2, 0.05]), jnp.array([0.1, 0.2, 0.15, -0.3])
    return Mixed(
        gflow.Hadamard(u, v, log_alpha=-2.0),
        gflow.to_factors(gflow.Hadamard(v, 2.0 * u)),
        gflow.Scaled(jnp.array([1.0, 2.0, -1.0, 0.5]), log_scale=-3.0),
        jnp.array([0.1, 0.0, -0.1, 0.2]),
        gflow.Frozen(jnp.array([1.0, 2.0, 0.5, -1.0])),
    )


def gd_problem():
    u, v = (jnp.array(GD[k], float) for k in ("u0", "v0"))
    objective = SquaredLoss(
        jnp.array(GD["inputs"], float), jnp.array(GD["targets"], float), "half_sum"
    )
    return DiagonalLinear(gflow.Hadamard(u, v)), objective
