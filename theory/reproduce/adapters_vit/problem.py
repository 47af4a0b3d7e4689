"""A vision transformer that is trained on digits, and turned digits that adapters are to learn.

Decay on the adapters gives every saddle of the cross-entropy a curvature of its own: without it
the loss of images that can be told apart falls for ever, and saddles are next to flat.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gflow
from gflow.internal import trained_leaves

from ..scales import LOG10

EXAMPLES, WIDTH, RANK, ANGLE, DECAY = 40, 8, 2, 30.0, 0.02
NAMES = tuple(f"layers.0.attention.{name}" for name in ("query", "key", "value", "output"))


class Problem(NamedTuple):
    """The trained network, the loss on turned digits, and O(1) factors of every adapter."""

    trained: gflow.models.VisionTransformer
    before: float
    objective: gflow.objectives.CrossEntropy
    factors: dict[str, tuple[np.ndarray, np.ndarray]]

    def at(self, exponent: float) -> gflow.models.Tuned:
        """Adapters W + A Bᵀ of all heads from α = 10^−exponent."""
        return self._with({
            name: gflow.Factored(a, b, -exponent * LOG10) for name, (a, b) in self.factors.items()
        })  # fmt: skip

    def usual(self) -> gflow.models.Tuned:
        """As adapters are usually started: A Gaussian of size one over the root of its rows, B = 0.

        (A B of 1e-30 stands for zero.)
        """
        return self._with({
            name: gflow.Factored(a / np.sqrt(a.shape[-2]), 1e-30 * b)
            for name, (a, b) in self.factors.items()
        })  # fmt: skip

    def _with(self, changes: dict[str, gflow.Factored]) -> gflow.models.Tuned:
        return gflow.models.Tuned(self.trained, changes)


def problem() -> Problem:
    """One layer of two heads of width 4: eight matrices."""
    task = gflow.tasks.digits(examples=EXAMPLES)
    model = gflow.models.VisionTransformer(
        (8, 8), patch=4, classes=10, d=WIDTH, heads=2, head_width=WIDTH // 2, hidden=WIDTH,
        layers=1, key=jax.random.key(0),
    )  # fmt: skip
    trained = gflow.descend(
        model, task.objective, optimizer=optax.adam(3e-3), steps=1500, save_every=1500
    ).final
    rng = np.random.default_rng(3)
    factors = {}
    for name in NAMES:
        heads, rows, columns = jnp.shape(trained_leaves(trained)[name])
        factors[name] = tuple(rng.normal(size=(heads, n, RANK)) for n in (rows, columns))
    before = float(task.objective(trained))
    return Problem(trained, before, task.rotated(ANGLE).objective, factors)
