"""2306.07042 end to end: exact fixture, teacher–student head, diabetes, digits head."""

import math

import jax
import numpy as np

import gflow
from gflow import models, tasks
from gflow.plot import STYLE, alpha_label

from ... import assumptions, gradual_rank, plot, saddle_to_saddle
from ..._prediction import Prediction
from ...comparison._compare import compare, measure
from .._report import Report
from ..gradual_rank import lasso

LOG10 = math.log(10.0)


def run(report: Report) -> None:
    """All four problems; `report.fast` takes fewer runs and a subset of the images."""
    import matplotlib.pyplot as plt

    with plt.rc_context(STYLE):
        for part in (fixture, softmax_head, diabetes, digits):
            part(report)


def fixture(report: Report) -> None:
    """Times 1, 4, 4 + 80/49 with a deactivation: exact numbers, and α down to 10^-1000000."""
    task = tasks.zhao_fixture()
    objective = task.objective
    # u = √2·α, v = 0, so that C₁ = ½ log 1.6
    log_scale = np.full(4, 0.5 * math.log(2.0))
    base = models.DiagonalLinear(
        gflow.Hadamard.from_scales(
            log_s=log_scale - LOG10, log_d=log_scale - LOG10, log_alpha=-LOG10
        )
    )
    prediction = gradual_rank.predict(base, objective)
    exact = zip((1.0, 4.0, 4.0 + 80.0 / 49.0), prediction.stages, strict=True)
    for k, (value, stage) in enumerate(exact):
        report.add(f"fixture.T.stage{k + 1}", value, stage.tau, 1e-12, unit="τ")
    first = prediction.stages[0]
    report.add("fixture.C.stage1", 0.5 * math.log(1.6), first.offset, 1e-9, unit="flow time")

    digits_of_alpha = (4, 16, 64, 128, 434294.4819)
    runs = {
        k: gflow.simulate(gflow.rescale(base, -k * LOG10), objective, tau1=7.0, rtol=1e-10)
        for k in digits_of_alpha
    }
    _compare_runs(report, "fixture", "fixture", runs, prediction, second={64: 128})
    for k in (64, 128):
        for i, (crossing, stage) in enumerate(
            zip(measure(runs[k], prediction), prediction.stages, strict=True)
        ):
            if crossing is not None:
                offset = crossing.t - stage.tau * runs[k].scale
                report.add(
                    f"fixture.alpha1e-{k}.C.stage{i + 1}",
                    stage.offset, offset, 1e-6, crossing.error, unit="flow time",
                )  # fmt: skip
    report.data(runs[64], "fixture")

    figure, axes = _figure(1, 2)
    plot.collapse([runs[k] for k in (4, 16, 64)], prediction, axes[0])
    axes[0].set_title("staircase and its finite-α curves")
    _convergence(axes[1], [runs[k] for k in (16, 64, 128)], prediction)
    report.figure(figure, "fixture")


def softmax_head(report: Report) -> None:
    """One softmax head with diagonal weights learns a teacher of the same form."""
    task = tasks.teacher_student(key=jax.random.key(0))
    objective, model = task.objective, _head(task.inputs.shape[-1])
    prediction = gradual_rank.predict(model, objective)
    end = 1.12 * prediction.stages[-1].tau
    exponents = (8, 32, 64) if report.fast else (8, 16, 32, 64, 128)
    rtol = 1e-7 if report.fast else 1e-8
    runs = {
        k: gflow.simulate(gflow.rescale(model, -k * LOG10), objective, tau1=end, rtol=rtol)
        for k in exponents
    }
    _compare_runs(
        report, "softmax-head", "softmax head", runs, prediction, second={32: 64, 64: 128}
    )
    main = runs[32]
    report.data(main, "softmax_head")

    figure, axes = _figure(2, 2)
    plot.collapse([runs[k] for k in (8, 32, exponents[-1])], prediction, axes[0, 0])
    axes[0, 0].set_title("loss: several α on one staircase")
    plot.ranks_with_times(main, prediction, axes[0, 1])
    axes[0, 1].set_title(f"ranks at {alpha_label(main.log_alpha)}")
    for ax, leaf in zip(axes[1], ("kq", "vo"), strict=True):
        plot.weights_with_times(main, prediction, leaf, ax)
        ax.set_title(f"{leaf}: simulated, and predicted times and values")
    report.figure(figure, "softmax_head")

    figure, axes = _figure(1, 2)
    _convergence(axes[0], [runs[k] for k in exponents if k >= 32 or not report.fast], prediction)
    restarts = [
        assumptions.perturb_and_restart(
            prediction, k, key=jax.random.key(k), samples=1 if report.fast else 2
        )
        for k in range(1 if report.fast else len(prediction.stages))
    ]
    plot.restarts(restarts, axes[1])
    axes[1].set_title("perturb and restart")
    report.figure(figure, "softmax_head_checks")
    _say_assumptions(report, "softmax head", prediction)


def diabetes(report: Report) -> None:
    """442 real patients: the saddle path, its deactivation, and the Lasso."""
    task = tasks.diabetes()
    objective = task.objective
    model = models.DiagonalLinear(
        gflow.Hadamard.small(task.inputs.shape[1], log_alpha=-64 * LOG10, key=jax.random.key(0))
    )
    prediction = gradual_rank.predict(model, objective)
    path = saddle_to_saddle.predict(task.inputs, task.targets, "half_sum")
    for k, (general, special) in enumerate(zip(prediction.stages, path.stages, strict=True)):
        report.add(
            f"diabetes.T.stage{k + 1}",
            special.tau, general.tau, 1e-9 * special.tau, unit="τ",
            text="limit algorithm against constrained least squares",
        )  # fmt: skip
    end = 1.4 * prediction.stages[-1].tau
    rtol = 1e-7 if report.fast else 1e-8
    runs = {
        k: gflow.simulate(gflow.rescale(model, -k * LOG10), objective, tau1=end, rtol=rtol)
        for k in (64, 1000)
    }
    _compare_runs(report, "diabetes", "diabetes", runs, prediction)
    report.data(runs[64], "diabetes")
    lasso.add_to(report, task, runs[1000], path)

    figure, axes = _figure(1, 2)
    plot.weights_with_times(runs[64], prediction, "weight", axes[0])
    axes[0].set(xscale="log", xlim=(1.0, end), title="diabetes: weights and predicted times")
    lasso.plot(axes[1], task, runs[1000], path)
    axes[1].set_title("time-averaged weights and the Lasso")
    report.figure(figure, "diabetes")


def digits(report: Report) -> None:
    """A softmax head restores the noisy rows of 1 797 real images."""
    task = tasks.digits_rows(key=jax.random.key(0), examples=100 if report.fast else None)
    objective, model = task.objective, _head(task.inputs.shape[-1])
    prediction = gradual_rank.predict(model, objective, rtol=1e-8)
    end = 1.25 * prediction.stages[-1].tau
    rtol = 1e-7 if report.fast else 1e-8
    runs = {
        k: gflow.simulate(gflow.rescale(model, -k * LOG10), objective, tau1=end, rtol=rtol)
        for k in ((32,) if report.fast else (16, 32, 64))
    }
    _compare_runs(report, "digits-head", "digits head", runs, prediction, second={32: 64})
    main = runs[32]
    report.data(main, "digits")
    figure, axes = _figure(2, 2)
    plot.collapse(list(runs.values()), prediction, axes[0, 0])
    plot.ranks_with_times(main, prediction, axes[0, 1])
    for ax, leaf in zip(axes[1], ("kq", "vo"), strict=True):
        plot.weights_with_times(main, prediction, leaf, ax)
    report.figure(figure, "digits")


def _head(d: int) -> models.DiagonalAttention:
    keys = jax.random.split(jax.random.key(0), 2)
    kq, vo = (gflow.Hadamard.small((1, d), log_alpha=-32 * LOG10, key=key) for key in keys)
    return models.DiagonalAttention(kq, vo)


def _figure(rows: int, columns: int):
    import matplotlib.pyplot as plt

    return plt.subplots(rows, columns, figsize=(3.5 * columns, 2.7 * rows), layout="constrained")


def _compare_runs(report: Report, key, label, runs, prediction, second=None) -> None:
    report.say(f"{label}: predicted saddle path ({prediction.ended})", prediction)
    for k, trajectory in runs.items():
        partner = runs.get((second or {}).get(k))
        result = compare(trajectory, prediction, second=partner)
        report.compare(f"{key}.alpha1e-{k:g}", result, f"{label}, α = 10^-{k:g}")
        if partner is not None:
            for row in result.transitions:
                if math.isfinite(row.limit):
                    report.add(
                        f"{key}.alpha1e-{k:g}.limit.stage{row.stage}",
                        row.tau_limit, row.limit, 1e-4 * row.tau_limit, row.error, unit="τ",
                        text="T by log-Richardson from two runs",
                    )  # fmt: skip


def _convergence(ax, runs, prediction: Prediction) -> None:
    crossings = [measure(run, prediction) for run in runs]
    table = np.array(
        [
            [math.nan if c is None else c.t / run.scale for c in row]
            for row, run in zip(crossings, runs, strict=True)
        ]
    )
    errors = np.array(
        [
            [math.nan if c is None else c.error / run.scale for c in row]
            for row, run in zip(crossings, runs, strict=True)
        ]
    )
    scales = np.array([run.scale for run in runs])
    limits = (scales[-1] * table[-1] - scales[-2] * table[-2]) / (scales[-1] - scales[-2])
    plot.convergence(scales, table, errors, prediction, limits, ax)
    ax.set_title(r"distance to the limit, and $C_k/\Lambda$")


def _say_assumptions(report: Report, label: str, prediction: Prediction) -> None:
    lines = [f"{label}: the theorem's assumptions as numbers"]
    for row in assumptions.check(prediction):
        lines.append(
            f"  stage {row.stage} {row.switches:16} uniqueness margin {row.margin:.3g} (τ), "
            f"smallest Hessian eigenvalue on the support {row.curvature:.3g}"
        )
    report.say(*lines)
