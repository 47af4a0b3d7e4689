"""Data and models: exact fixture, teacher–student head, diabetes, digits head."""

import math
from typing import NamedTuple

import equinox as eqx
import jax
import numpy as np

import gflow
from gflow import models, tasks

from ..scales import LOG10


class Problem(NamedTuple):
    """A task, and a model of it whose O(1) factors are the same at every α."""

    task: tasks.Task
    model: eqx.Module

    def at(self, exponent: float) -> eqx.Module:
        """The model at α = 10^−exponent."""
        return gflow.rescale(self.model, -exponent * LOG10)


def fixture() -> Problem:
    """Times 1, 4, 4 + 80/49 with a deactivation."""
    # u = √2·α, v = 0, so that C₁ = ½ log 1.6
    log_scale = np.full(4, 0.5 * math.log(2.0)) - LOG10
    weight = gflow.Hadamard.from_scales(log_s=log_scale, log_d=log_scale, log_alpha=-LOG10)
    return Problem(tasks.zhao_fixture(), models.DiagonalLinear(weight))


def softmax_head() -> Problem:
    """One softmax head with diagonal weights learns a teacher of the same form."""
    task = tasks.teacher_student(key=jax.random.key(0))
    return Problem(task, _head(task.inputs.shape[-1]))


def diabetes() -> Problem:
    """442 real patients."""
    task = tasks.diabetes()
    weight = gflow.Hadamard.small(
        task.inputs.shape[1], log_alpha=-64 * LOG10, key=jax.random.key(0)
    )
    return Problem(task, models.DiagonalLinear(weight))


def digits(images: int | None) -> Problem:
    """A softmax head restores the noisy rows of real images."""
    task = tasks.digits_rows(key=jax.random.key(0), examples=images)
    return Problem(task, _head(task.inputs.shape[-1]))


def _head(d: int) -> models.DiagonalAttention:
    keys = jax.random.split(jax.random.key(0), 2)
    kq, vo = (gflow.Hadamard.small((1, d), log_alpha=-32 * LOG10, key=key) for key in keys)
    return models.DiagonalAttention(kq, vo)
