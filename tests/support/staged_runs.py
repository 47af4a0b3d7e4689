"""A diagonal model of three stages that switches one weight off, and its saddles in fractions."""

import functools
import math

import jax.numpy as jnp
import numpy as np

import gflow
from gflow.models import DiagonalLinear
from gflow.objectives import SquaredLoss

LOG10 = math.log(10.0)
X = np.array([[1, 0.5, 0.7, 0], [0.5, 1, 0.1, 0.7], [0, 0, 0, 0], [0, 0, 0, 0]])
Y = np.array([1.0, 0, 0, 0])
SADDLES = np.array([[4 / 5, 0, 0, 0], [0, 0, 7 / 5, 0], [0, 0, 10 / 7, -10 / 49]])
LOSSES = np.array([0.1, 0.01, 0.0])
EQUAL = ((math.sqrt(2),) * 4,) * 2


def objective():
    return SquaredLoss(jnp.asarray(X), jnp.asarray(Y), "half_sum")


def model(decades, factors=EQUAL):
    log_alpha = -decades * LOG10
    log_s, log_d = (log_alpha + jnp.log(jnp.array(f)) for f in factors)
    return DiagonalLinear(gflow.Hadamard.from_scales(log_s=log_s, log_d=log_d, log_alpha=log_alpha))


@functools.cache
def run(decades, rtol=1e-8):
    return gflow.simulate(model(decades), objective(), tau1=8.0, rtol=rtol)
