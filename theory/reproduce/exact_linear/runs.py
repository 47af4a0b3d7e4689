"""Simulated products of two layers beside their exact solution.

Runs may be padded with zeros to common sizes, which the flow leaves exactly zero, so that all
of one size compile once.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

import gflow
import theory
from theory import exact_linear as exact

from .. import Report

#: Runs must agree with the exact solution to this multiple of rtol. Error bars, which do not
#: know the exact solution, are reported beside it.
MARGIN = 100.0
RTOL = 1e-10


def product(model: gflow.models.DeepLinear):
    return model.product


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """A simulation of W₂W₁ under an objective, and its exact solution at the same times."""

    trajectory: gflow.Trajectory
    objective: gflow.objectives.SquaredLoss
    simulated: np.ndarray
    exact: np.ndarray
    target: np.ndarray

    @property
    def t(self) -> np.ndarray:
        return self.trajectory.t

    @property
    def loss(self) -> np.ndarray:
        """½‖Σ − W₂W₁‖² of the exact solution."""
        return 0.5 * np.sum((self.target - self.exact) ** 2, axis=(1, 2))

    @property
    def error(self) -> np.ndarray:
        """Largest entry of simulated − exact, by time, relative to the largest of Σ."""
        gap = np.max(np.abs(self.simulated - self.exact), axis=(1, 2))
        return gap / np.max(np.abs(self.target))

    @property
    def bar(self) -> float:
        """The largest error bar of the solver, on the same scale."""
        return float(np.max(self.trajectory.error["product"]) / np.max(np.abs(self.target)))


def simulate(w1, w2, target, t1, *, solution=None, pad=None, rtol=RTOL, save=None) -> Run:
    """Follow the flow (padded to `pad`³), and evaluate the exact solution beside it."""
    o, i = target.shape
    layers = [np.asarray(x) for x in (w1, w2, target)]
    if pad is not None:
        layers = [np.pad(x, [(0, pad - n) for n in x.shape]) for x in layers]
    model = gflow.models.DeepLinear(layers[:2])
    inputs = jnp.eye(layers[0].shape[1])
    objective = gflow.objectives.SquaredLoss(inputs, layers[2].T, reduction="half_sum")
    trajectory = gflow.simulate(
        model,
        objective,
        t1=t1,
        rtol=rtol,
        save=save,
        solver=gflow.solvers.Tsit5(),
        observables={"product": product},
    )
    solution = solution or (lambda t: exact.two_layer(w1, w2, target, t))
    measured = trajectory.observables["product"][:, :o, :i]
    return Run(trajectory, objective, measured, solution(trajectory.t), target)


def compare(report: Report, key: str, label: str, one: Run) -> None:
    """Every claim of `theory.exact_linear.predict` on a whole run, up to where it rests."""
    prediction = exact.predict(one.trajectory.like, one.objective)
    report.compare(key, theory.compare(one.trajectory, prediction), label)
