"""One model trained in three ways: by the exact flow, SGD and Adam."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import Float

import gflow
from gflow.observables import Observable

from .problem import PRODUCTS, Problem, Stacked, changes

RTOL = 1e-4


class Course(NamedTuple):
    """Loss at every record, and of every head of all layers the singular values of what it learned.

    `spectra` are (records, heads, values) by product.
    """

    loss: Float[np.ndarray, " records"]
    spectra: dict[str, Float[np.ndarray, "records heads values"]]

    def ranks(self, name: str) -> Float[np.ndarray, "records heads"]:
        """Stable ranks Σσ²/σ₁²; nan where nothing has been learned."""
        values = self.spectra[name]
        largest = values.max(axis=-1, keepdims=True)
        relative = np.divide(values, largest, out=np.full_like(values, np.nan), where=largest > 0)
        return np.sum(relative**2, axis=-1)

    def met(self, level: float) -> tuple[int, float] | None:
        """The first record at or below `level`, and the share of the way there from the last."""
        below = np.flatnonzero(self.loss <= level * (1.0 + 1e-9))
        if not below.size or below[0] == 0:
            return None
        i = int(below[0])
        before, after = self.loss[i - 1], self.loss[i]
        return i, float(min((before - level) / (before - after), 1.0))

    def at(self, name: str, level: float) -> Float[np.ndarray, " heads"] | None:
        """Stable ranks at a loss, between two records linear in it; None where it is not met."""
        place = self.met(level)
        if place is None:
            return None
        (i, share), ranks = place, self.ranks(name)
        first = ranks[i] if np.any(np.isnan(ranks[i - 1])) else ranks[i - 1]
        return (1.0 - share) * first + share * ranks[i]


def by_flow(problem: Problem, start: Stacked) -> gflow.Trajectory:
    """The exact gradient flow of all weights, to the last level of the loss."""
    return gflow.simulate(
        start, problem.objective, t1=problem.t1, rtol=RTOL, error_bars=False,
        observables=changes(problem, start), save=gflow.save.observables(),
        stop=gflow.stop.loss_below(problem.levels[-1]),
    )  # fmt: skip


def by_sgd(problem: Problem, start: Stacked) -> gflow.Trajectory:
    """Gradient descent on minibatches."""
    return descended(problem, start, changes(problem, start), learning_rate=problem.descent.sgd)


def by_adam(problem: Problem, start: Stacked) -> gflow.Trajectory:
    """Adam on the same minibatches."""
    return descended(
        problem, start, changes(problem, start), optimizer=optax.adam(problem.descent.adam)
    )


def descended(
    problem: Problem, start: Stacked, watched: dict[str, Observable], **rule
) -> gflow.Trajectory:
    """All steps of a rule on minibatches."""
    return gflow.descend(
        start, problem.objective, steps=problem.descent.steps, batch=problem.descent.batch,
        key=jax.random.key(0), observables=watched,
        save_every=max(problem.descent.steps // 200, 1), **rule,
    )  # fmt: skip


METHODS: dict[str, Callable[[Problem, Stacked], gflow.Trajectory]] = {
    "flow": by_flow,
    "SGD": by_sgd,
    "Adam": by_adam,
}


def course(trajectory: gflow.Trajectory) -> Course:
    """What `changes` recorded, heads of all layers side by side."""
    found = {
        name: [np.asarray(x) for key, x in trajectory.observables.items() if key.startswith(name)]
        for name in PRODUCTS
    }
    joined = {name: np.concatenate(layers, axis=1) for name, layers in found.items()}
    return Course(np.asarray(trajectory.loss), joined)
