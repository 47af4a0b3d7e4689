"""Data that no direction separates, and a tanh transformer of weights of size ε."""

import math
from typing import NamedTuple

import jax
import numpy as np

import gflow
from gflow.models import LastTokenTransformer
from theory import condensation as co

EXPONENT, EXAMPLES, TOKENS = 8, 512, 10
EPSILON = 10.0**-EXPONENT


class Problem(NamedTuple):
    task: gflow.tasks.AttentionLabels
    model: LastTokenTransformer

    @property
    def data(self) -> tuple[np.ndarray, np.ndarray]:
        return np.asarray(self.task.inputs), np.asarray(self.task.labels)


def problem(d: int) -> Problem:
    """Of width d."""
    task = gflow.tasks.attention_labels(EXAMPLES, TOKENS, d, key=jax.random.key(4))
    model = LastTokenTransformer.small(d, d, log_epsilon=math.log(EPSILON), key=jax.random.key(0))
    found = Problem(task, model)
    co.check_not_separable(*found.data)
    return found
