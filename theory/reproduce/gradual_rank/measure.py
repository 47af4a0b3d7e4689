"""Predictions and runs of the four problems, judged, and the numbers that the figures show."""

import math
from typing import NamedTuple

import jax

import gflow
from theory import Prediction, assumptions, gradual_rank, saddle_to_saddle

from .. import Convergence, Report, Runs, Scales, compare_scales, convergence, offsets
from . import problem
from .lasso import LassoDistances, lasso_distances
from .settings import Settings


class Fixture(NamedTuple):
    scales: Scales
    convergence: Convergence


class SoftmaxHead(NamedTuple):
    scales: Scales
    convergence: Convergence
    restarts: list[assumptions.Restarts]


class Diabetes(NamedTuple):
    scales: Scales
    lasso: LassoDistances
    #: Of the measurements.
    names: tuple[str, ...]


def fixture(report: Report) -> Fixture:
    """Times and offsets as exact numbers, and α down to 10^-1000000."""
    one = problem.fixture()
    objective = one.task.objective
    prediction = gradual_rank.predict(one.model, objective)
    exact = zip((1.0, 4.0, 4.0 + 80.0 / 49.0), prediction.stages, strict=True)
    for k, (value, stage) in enumerate(exact):
        report.add(f"fixture.T.stage{k + 1}", value, stage.tau, 1e-12, unit="τ")
    first = prediction.stages[0]
    report.add("fixture.C.stage1", 0.5 * math.log(1.6), first.offset, 1e-9, unit="flow time")
    runs: Runs = {
        k: gflow.simulate(one.at(k), objective, tau1=7.0, rtol=1e-10)
        for k in (4, 16, 64, 128, 434294.4819)
    }
    compare_scales(report, "fixture", "fixture", runs, prediction, second={64: 128})
    for k in (64, 128):
        for i, stage, offset, bar in offsets(runs[k], prediction):
            key = f"fixture.alpha1e-{k}.C.stage{i}"
            report.add(key, stage.offset, offset, 1e-6, bar, unit="flow time")
    report.data(runs[64], "fixture")
    table = convergence([runs[k] for k in (16, 64, 128)], prediction)
    return Fixture(Scales(runs, prediction), table)


def softmax_head(report: Report, settings: Settings) -> SoftmaxHead:
    """The head at several α, the limit from two of them, and the theorem's assumptions."""
    one = problem.softmax_head()
    objective = one.task.objective
    prediction = gradual_rank.predict(one.model, objective)
    end = 1.12 * prediction.stages[-1].tau
    runs: Runs = {
        k: gflow.simulate(one.at(k), objective, tau1=end, rtol=settings.rtol)
        for k in settings.head_exponents
    }
    compare_scales(
        report, "softmax-head", "softmax head", runs, prediction, second={32: 64, 64: 128}
    )
    report.data(runs[32], "softmax_head")
    restarted = len(prediction.stages) if settings.restarted is None else settings.restarted
    restarts = [
        assumptions.perturb_and_restart(
            prediction, k, key=jax.random.key(k), samples=settings.samples
        )
        for k in range(restarted)
    ]
    _say_assumptions(report, "softmax head", prediction)
    table = convergence([runs[k] for k in settings.converging], prediction)
    return SoftmaxHead(Scales(runs, prediction), table, restarts)


def diabetes(report: Report, settings: Settings) -> Diabetes:
    """The saddle path by two algorithms, with its deactivation, and the Lasso."""
    one = problem.diabetes()
    task, objective = one.task, one.task.objective
    prediction = gradual_rank.predict(one.model, objective)
    path = saddle_to_saddle.predict(task.inputs, task.targets, "half_sum")
    for k, (general, special) in enumerate(zip(prediction.stages, path.stages, strict=True)):
        report.add(
            f"diabetes.T.stage{k + 1}",
            special.tau,
            general.tau,
            1e-9 * special.tau,
            unit="τ",
            text="limit algorithm against constrained least squares",
        )
    end = 1.4 * prediction.stages[-1].tau
    runs: Runs = {
        k: gflow.simulate(one.at(k), objective, tau1=end, rtol=settings.rtol) for k in (64, 1000)
    }
    compare_scales(report, "diabetes", "diabetes", runs, prediction)
    report.data(runs[64], "diabetes")
    lasso = lasso_distances(report, task, runs[1000], path)
    assert isinstance(task, gflow.tasks.Regression)
    return Diabetes(Scales(runs, prediction), lasso, task.names)


def digits(report: Report, settings: Settings) -> Scales:
    """Interleaved ranks of the head on images."""
    one = problem.digits(settings.images)
    objective = one.task.objective
    prediction = gradual_rank.predict(one.model, objective, rtol=1e-8)
    end = 1.25 * prediction.stages[-1].tau
    runs: Runs = {
        k: gflow.simulate(one.at(k), objective, tau1=end, rtol=settings.rtol)
        for k in settings.digits_exponents
    }
    compare_scales(report, "digits-head", "digits head", runs, prediction, second={32: 64})
    report.data(runs[32], "digits")
    return Scales(runs, prediction)


def _say_assumptions(report: Report, label: str, prediction: Prediction) -> None:
    lines = [f"{label}: the theorem's assumptions as numbers"]
    for row in assumptions.check(prediction):
        lines.append(
            f"  stage {row.stage} {row.switches:16} uniqueness margin {row.margin:.3g} (τ), "
            f"smallest Hessian eigenvalue on the support {row.curvature:.3g}"
        )
    report.say(*lines)
