"""Data sets with and without a separator, and a linear map on them."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gflow.objectives import CrossEntropy, MarginLoss


class Separator(eqx.Module):
    """x ↦ W x, a number or the logits of classes."""

    weight: jax.Array

    def __call__(self, x: Float[Array, " d"]) -> Array:
        return self.weight @ x


class Data(NamedTuple):
    """A data set with its key in the report: two classes ±1, or K from 0 on."""

    name: str
    inputs: np.ndarray
    labels: np.ndarray

    @property
    def objective(self) -> CrossEntropy | MarginLoss:
        if np.min(self.labels) < 0:
            return MarginLoss(self.inputs, self.labels, loss="logistic")
        return CrossEntropy(self.inputs, self.labels)

    @property
    def start(self) -> Separator:
        """W = 0."""
        shape = self.inputs.shape[1:]
        classes = () if np.min(self.labels) < 0 else (int(np.max(self.labels)) + 1,)
        return Separator(jnp.zeros((*classes, *shape)))


def binary(name: str, seed: int, examples: int, dimensions: int, gap: float) -> Data:
    """Gaussian inputs moved along a random direction by ±gap."""
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=dimensions)
    direction /= np.linalg.norm(direction)
    labels = np.where(np.arange(examples) % 2, 1.0, -1.0)
    inputs = rng.normal(size=(examples, dimensions)) + gap * labels[:, None] * direction
    return Data(name, inputs, labels)


def classes(name: str, seed: int, examples: int, dimensions: int, count: int) -> Data:
    """Gaussian inputs with labels in turn."""
    inputs = np.random.default_rng(seed).normal(size=(examples, dimensions))
    return Data(name, inputs, np.arange(examples) % count)


def separable() -> list[Data]:
    """Five with a separator, whose supports span the inputs: so is the late law known to o(1)."""
    return [
        binary("plane", 5, 20, 2, 2.0),
        classes("three-classes", 41, 9, 3, 3),
        binary("space", 3, 20, 3, 2.0),
        binary("five-dimensions", 11, 30, 5, 2.0),
        classes("classes-in-four", 4, 9, 4, 3),
    ]


def inseparable() -> Data:
    """One without."""
    return binary("overlapping", 5, 40, 3, 0.5)
