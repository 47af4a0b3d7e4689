"""Data that no direction separates, a model with a linear readout, and F at its minimiser."""

from typing import Any, NamedTuple

import jax
import numpy as np
from scipy import optimize

import gflow
from gflow.models import LastTokenTransformer
from theory import condensation as co

from ...scales import LOG10

EXAMPLES, TOKENS, WIDTH = 256, 6, 6
#: Norm of the outer weights at the hand-over, and of W_Q at the end, where logits are small.
OUTER, LEVEL = 0.2, 0.05


class Problem(NamedTuple):
    """The task, and F at u*."""

    task: gflow.tasks.AttentionLabels
    F: np.ndarray


def problem() -> Problem:
    """With a linear readout the loss of uniform attention is convex in u = W_V W1 W2.

    Its minimiser u* gives F without any simulation.
    """
    task = gflow.tasks.attention_labels(EXAMPLES, TOKENS, WIDTH, key=jax.random.key(3))
    x, y = np.asarray(task.inputs), np.asarray(task.labels)
    co.check_not_separable(x, y)
    return Problem(task, settled(x, y))


def linear(x):
    """No activation, as in the paper's Proposition 3."""
    return x


def model(exponent: int) -> LastTokenTransformer:
    """Weights of size ε = 10^−exponent."""
    return LastTokenTransformer.small(
        WIDTH, WIDTH, log_epsilon=-exponent * LOG10, key=jax.random.key(0), activation=linear
    )


def key_query(exponent: int) -> tuple[np.ndarray, np.ndarray]:
    """W_Q and W_K of that model at the start."""
    kq: Any = model(exponent).kq
    left, right = (np.asarray(x) * 10.0**-exponent for x in (kq.left, kq.right))
    return left, right


def settled(X: np.ndarray, y: np.ndarray) -> np.ndarray:
    """F at u*, the minimiser of the loss with uniform attention."""
    rows = y[:, None] * X.mean(axis=1)

    def loss(u):
        q = np.exp(-rows @ u)
        return np.mean(q), -np.mean(q[:, None] * rows, axis=0)

    def curvature(u):
        return (rows * np.exp(-rows @ u)[:, None]).T @ rows / len(rows)

    found = optimize.minimize(
        loss,
        np.zeros(X.shape[-1]),
        jac=True,
        hess=curvature,
        method="trust-exact",
        options={"gtol": 1e-13},
    )
    one = np.eye(X.shape[-1])
    return co.key_query_matrix(X, y, one, one, found.x, activation="linear")
