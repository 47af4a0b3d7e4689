"""The lookup loss, a random start and a simplex start."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gflow.models import DeepLinear

from ..pairs import normal_pair, pair

TOKENS, WIDTH = 6, 8
#: Both sides of 1/K.
DECAYS = np.array([0.02, 0.035, 0.05, 0.08, 0.11, 0.13, 0.145, 0.157, 0.18, 0.2, 0.25, 0.3])


class Lookup(eqx.Module):
    """K one-hot tokens: query c must attend to key c. Logits W = A Bᵀ, a column a query."""

    def __call__(self, model: DeepLinear) -> Float[Array, ""]:
        return -jnp.mean(jnp.diagonal(jax.nn.log_softmax(model.product, axis=0)))


def random_start() -> DeepLinear:
    """Normal entries."""
    return normal_pair(2, 0.3, TOKENS, WIDTH)


def simplex_start(small: float) -> DeepLinear:
    """A = B = sqrt(small) V Oᵀ, VVᵀ = I − 11ᵀ/K and O orthonormal."""
    v = np.linalg.eigh(np.eye(TOKENS) - 1.0 / TOKENS)[1][:, 1:]
    turn = np.linalg.qr(np.random.default_rng(3).standard_normal((WIDTH, TOKENS - 1)))[0]
    factor = np.sqrt(small) * v @ turn.T
    return pair(factor, factor)
