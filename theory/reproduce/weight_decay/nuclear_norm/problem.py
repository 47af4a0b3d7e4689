"""Distance to a diagonal matrix, in both conventions of the loss."""

from typing import Literal, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gflow.models import DeepLinear

from ..pairs import normal_pair, pair

TARGET = np.diag([0.2, 0.4, 0.6, 0.8, 1.0])
#: The name of a convention, as in `theory.weight_decay`.
Loss = Literal["half", "full"]


class Distance(eqx.Module):
    """factor · ‖A Bᵀ − D‖², with the factor ½ or 1."""

    target: Float[Array, "m n"]
    factor: Float[Array, ""]

    def __call__(self, model: DeepLinear) -> Float[Array, ""]:
        return self.factor * jnp.sum((model.product - self.target) ** 2)


class Problem(NamedTuple):
    """The loss, its speed beside that of "half" (of the flow, and of λ), and a start."""

    loss: Loss
    clock: float
    objective: Distance
    start: DeepLinear


def problem(loss: Loss) -> Problem:
    """From factors of size ½."""
    clock = 1.0 if loss == "half" else 2.0
    objective = Distance(jnp.asarray(TARGET), jnp.asarray(0.5 * clock))
    return Problem(loss, clock, objective, normal_pair(0, 0.5, 5, 5))


def aligned(small: float) -> DeepLinear:
    """A = B with AᵀB = small · I: diagonal in the bases of D, and balanced."""
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((5, 5)))[0]
    return pair(*(np.sqrt(small) * turn.T for _ in range(2)))
