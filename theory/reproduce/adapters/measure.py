"""Low-rank adapters on a frozen transformer: four softmax heads a layer, two layers.

Every head of a frozen stack gets adapters W + ABᵀ on its key–query and value–output matrix
(LoRA), started at zero size. The frozen weights tell the heads apart, so that every rank jump
of the sixteen matrices has a winner.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

import gflow
from gflow import models, objectives
from gflow.plot import STYLE, alpha_label

from ... import gradual_rank, plot
from ...comparison._compare import measure
from .._report import Report
from ..gradual_rank.measure import _compare_runs, _figure

LOG10 = math.log(10.0)
LAYERS, HEADS, WIDTH, COLUMNS = 2, 4, 3, 2


def problem(seed: int):
    """A function of α to the student, and its distance to a stack with rank-one changes."""
    rng = np.random.default_rng(seed)
    shape = HEADS, WIDTH, WIDTH
    inputs = jnp.asarray(rng.standard_normal((32, 6, WIDTH)))
    frozen = [[size * rng.standard_normal(shape) for size in (0.7, 0.35)] for _ in range(LAYERS)]

    def stack(matrices):
        return models.Residual([models.SoftmaxAttention(*pair) for pair in matrices])

    def changed(base):
        change = rng.standard_normal((*shape[:2], 1)) @ rng.standard_normal((HEADS, 1, WIDTH))
        change *= 0.6 / np.linalg.norm(change, axis=(1, 2), keepdims=True)
        return gflow.Frozen(base + change)

    teacher = stack([[changed(base) for base in pair] for pair in frozen])
    objective = objectives.SquaredLoss(inputs, jax.vmap(teacher)(inputs), reduction="half_mean")
    factors = [
        [[rng.standard_normal((*shape[:2], COLUMNS)) for _ in range(2)] for _ in pair]
        for pair in frozen
    ]

    def student(exponent: float):
        return stack(
            [
                [
                    models.Adapted(base, gflow.Factored(a, b, -exponent * LOG10))
                    for base, (a, b) in zip(bases, pairs, strict=True)
                ]
                for bases, pairs in zip(frozen, factors, strict=True)
            ]
        )

    return student, objective


def run(report: Report) -> None:
    """The first rank jumps of sixteen matrices, at two sizes of the adapters."""
    import matplotlib.pyplot as plt

    student, objective = problem(1)
    stages = 4 if report.fast else 8
    prediction = gradual_rank.predict(student(100), objective, max_stages=stages + 1)
    *shown, following = prediction.stages
    end = 0.5 * (shown[-1].tau + following.tau)
    runs = {k: gflow.simulate(student(k), objective, tau1=end) for k in (100, 1000)}
    _compare_runs(report, "adapters", "adapters, 4 heads × 2 layers", runs, prediction)
    for i, (stage, crossing) in enumerate(
        zip(shown, measure(runs[1000], prediction), strict=False)
    ):
        assert crossing is not None
        error = 0.0 if report.fast else crossing.error
        report.add(
            f"adapters.alpha1e-1000.C.stage{i + 1}",
            stage.offset, crossing.t - stage.tau * runs[1000].scale, 1e-3 / stage.rate, error,
            unit="flow time", text=stage.label,
        )  # fmt: skip
    report.data(runs[100], "adapters")
    with plt.rc_context(STYLE):
        _draw(report, runs[100], runs[1000], prediction)


def _draw(report: Report, run: gflow.Trajectory, smaller: gflow.Trajectory, prediction) -> None:
    figure, axes = _figure(2, 2)
    plot.collapse([run, smaller], prediction, axes[0, 0])
    axes[0, 0].set_title("adapters on 4 heads × 2 layers")
    plot.ranks_with_times(run, prediction, axes[0, 1])
    axes[0, 1].set(
        title=f"ranks at {alpha_label(run.log_alpha)}, heads added up",
        ylabel=r"number of singular values $>\sqrt{\alpha}$",
    )
    plot.spectrum_with_times(smaller, prediction, axes[1, 0])
    axes[1, 0].set_title(f"singular values of the adapters, {alpha_label(smaller.log_alpha)}")
    axes[1, 0].set_ylim(top=1.4 * axes[1, 0].get_ylim()[1])
    plot.spectrum_with_times(run, prediction, axes[1, 1], logarithmic=True)
    axes[1, 1].set_title(f"dormant ones included, {alpha_label(run.log_alpha)}")
    axes[1, 1].get_legend().remove()
    report.figure(figure, "adapters")
