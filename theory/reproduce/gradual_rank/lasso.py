"""Time-averaged weights of the diagonal network against the Lasso path of scikit-learn."""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import ArrayLike

from gflow import Trajectory, tasks
from theory import Prediction, saddle_to_saddle

from .. import Report


@dataclasses.dataclass(frozen=True, eq=False)
class LassoPath:
    """Lasso weights at λ = 1/τ for the half-sum loss, piecewise linear in λ."""

    knots: np.ndarray
    weights: np.ndarray

    @classmethod
    def of(cls, inputs: ArrayLike, targets: ArrayLike) -> "LassoPath":
        """From `lars_path`, whose alphas are λ/n."""
        from sklearn.linear_model import lars_path

        alphas, _, coefficients = lars_path(np.array(inputs), np.array(targets), method="lasso")
        return cls(alphas[::-1] * np.size(targets), coefficients.T[::-1])

    def at(self, tau: np.ndarray) -> np.ndarray:
        penalty = 1.0 / tau
        columns = [np.interp(penalty, self.knots, column) for column in self.weights.T]
        return np.stack(columns, axis=-1)


def simulated_average(trajectory: Trajectory, leaf: str) -> np.ndarray:
    """(1/t)∫₀ᵗ θ at every recorded time but the first, by Hermite quadrature."""
    record, t = trajectory.leaves[leaf], trajectory.t
    speed = 2.0 * np.abs(record["value"]) * record["force"]  # θ' where c = u² − v² → 0
    h = np.diff(t)[:, None]
    trapezoid = 0.5 * h * (record["value"][1:] + record["value"][:-1])
    correction = h**2 / 12.0 * (speed[:-1] - speed[1:])
    return np.cumsum(trapezoid + correction, axis=0) / t[1:, None]


def relative_distance(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """‖one − other‖/‖other‖ along the last axis."""
    return np.linalg.norm(one - other, axis=-1) / np.linalg.norm(other, axis=-1)


class LassoDistances(NamedTuple):
    """(τ, relative distance of the time average from the Lasso at λ = 1/τ) of limit and run."""

    limit: tuple[np.ndarray, np.ndarray]
    run: tuple[np.ndarray, np.ndarray]
    deactivations: list[float]
    scale: float


def lasso_distances(
    report: Report, task: tasks.Task, run: Trajectory, path: Prediction
) -> LassoDistances:
    """The two-sided test: equal before the first deactivation, different after it."""
    lasso = LassoPath.of(task.inputs, task.targets)
    off = next(k for k, s in enumerate(path.stages) if s.deactivated)
    start, first_off = path.stages[0].tau, path.stages[off].tau
    next_on = path.stages[off + 1].tau

    def limit(tau: np.ndarray) -> np.ndarray:
        return relative_distance(saddle_to_saddle.time_average(path, tau), lasso.at(tau))

    exact = limit(np.geomspace(1.01 * start, first_off, 60)).max()
    apart = limit(np.linspace(first_off, next_on, 60)[1:]).max()
    report.add(
        "diabetes.lasso.before",
        0.0,
        exact,
        1e-9,
        text="(1/τ)∫β of the limit path against the Lasso, up to the first deactivation",
    )
    report.add(
        "diabetes.lasso.after",
        1.0,
        float(apart > 1e3 * max(exact, 1e-12)),
        0.0,
        text="the same after the first deactivation (1: they differ)",
    )
    tau = run.tau[1:]
    later = tau > 1.2 * start
    average = simulated_average(run, "weight")[later]
    distance = relative_distance(average, lasso.at(tau[later]))
    near = distance[tau[later] < first_off].max()
    report.say(
        "diabetes: distance of the time average (1/τ)∫β from the Lasso at λ = 1/τ, relative to "
        "the Lasso weights",
        f"  limit path, up to the first deactivation (τ = {first_off:.5g}): {exact:.1e}",
        f"  limit path, from there to the next stage (τ = {next_on:.5g}): {apart:.1e}",
        f"  simulated at Λ = {run.scale:.5g}, before it: {near:.1e} (of order 1/Λ)",
    )
    fine = np.geomspace(1.01 * start, float(run.tau[-1]), 2000)
    return LassoDistances(
        (fine, np.maximum(limit(fine), 1e-16)),
        (tau[later], distance),
        [stage.tau for stage in path.stages if stage.deactivated],
        run.scale,
    )
