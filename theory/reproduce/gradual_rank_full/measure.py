"""Rank by rank without the diagonal assumption: full matrices, predicted and simulated."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import gflow
from gflow import models, objectives
from gflow.internal import PlainFactors
from gflow.plot import COLOURS, STYLE, alpha_label

from ... import gradual_rank, plot
from ...comparison._compare import compare, measure
from .._report import Report
from ..gradual_rank.measure import _compare_runs, _figure

LOG10 = math.log(10.0)


class Matrix(eqx.Module):
    """One factored matrix."""

    weight: gflow.Parameter


class Sensing(eqx.Module):
    """½ Σ (⟨M_i, W⟩ − y_i)²/N of N random measurements."""

    measurements: Float[Array, "n d d"]
    targets: Float[Array, " n"]

    def __call__(self, model: Matrix) -> Float[Array, ""]:
        read = jnp.tensordot(self.measurements, model.weight.value, axes=2)
        return 0.5 * jnp.mean((read - self.targets) ** 2)


class Distance(eqx.Module):
    """½‖W − target‖²."""

    target: Float[Array, "m n"]

    def __call__(self, model: Matrix) -> Float[Array, ""]:
        return 0.5 * jnp.sum((model.weight.value - self.target) ** 2)


def run(report: Report) -> None:
    """A softmax head, two heads that share a mode, matrix sensing, and the gauge itself."""
    import matplotlib.pyplot as plt

    with plt.rc_context(STYLE):
        for part in (head, heads, sensing, gauge):
            part(report)


def attention_problem(seed: int, d: int, rank: int, heads: int | None, sequences: int):
    """A teacher of full matrices, the loss of a student, and the student's O(1) factors."""
    rng = np.random.default_rng(seed)
    lead = () if heads is None else (heads,)
    inputs = rng.standard_normal((sequences, 5, d))

    def matrix():
        left, right = rng.standard_normal((*lead, d, rank)), rng.standard_normal((*lead, rank, d))
        return gflow.Frozen(jnp.asarray(left @ right))

    kq, vo = matrix(), matrix()
    kq = gflow.Frozen(0.6 * kq.value)
    targets = jax.vmap(models.SoftmaxAttention(kq, vo))(jnp.asarray(inputs))
    start = np.random.default_rng(seed + 100)
    factors = [start.standard_normal((*lead, d, rank)) for _ in range(4)]
    return objectives.SquaredLoss(inputs, targets), factors


def student(factors: list[np.ndarray], exponent: float) -> models.SoftmaxAttention:
    kq, vo = (gflow.Factored(*factors[i : i + 2], -exponent * LOG10) for i in (0, 2))
    return models.SoftmaxAttention(kq, vo)


def head(report: Report) -> None:
    """One softmax head with full matrices from α = 1e-15 down to 1e-1000."""
    objective, factors = attention_problem(1, 3, 2, None, 48)
    prediction = gradual_rank.predict(student(factors, 30), objective)
    end = 1.12 * prediction.stages[-1].tau
    exponents = (15, 100, 1000) if report.fast else (15, 30, 60, 100, 1000)
    runs = {
        k: gflow.simulate(student(factors, k), objective, tau1=end, rtol=1e-8) for k in exponents
    }
    label = "softmax head, full matrices"
    _compare_runs(report, "full-head", label, runs, prediction, second={100: 1000})
    for k in (100, 1000):
        for i, (crossing, stage) in enumerate(
            zip(measure(runs[k], prediction), prediction.stages, strict=True)
        ):
            assert crossing is not None
            report.add(
                f"full-head.alpha1e-{k}.C.stage{i + 1}",
                stage.offset, crossing.t - stage.tau * runs[k].scale, 1e-6, crossing.error,
                unit="flow time",
            )  # fmt: skip
    main = runs[100]
    report.data(main, "full_head")
    figure, axes = _figure(2, 2)
    plot.collapse([runs[k] for k in (15, 100)], prediction, axes[0, 0])
    axes[0, 0].set_title("loss: two α on one staircase")
    plot.ranks_with_times(main, prediction, axes[0, 1])
    axes[0, 1].set(
        title=f"ranks at {alpha_label(main.log_alpha)}",
        ylabel=r"number of singular values $>\sqrt{\alpha}$",
    )
    plot.spectrum_with_times(main, prediction, axes[1, 0])
    axes[1, 0].set_title("singular values of the two matrices")
    plot.spectrum_with_times(main, prediction, axes[1, 1], logarithmic=True)
    axes[1, 1].set_title("the same, dormant ones included")
    report.figure(figure, "full_head")


def heads(report: Report) -> None:
    """Two heads of one scale: they learn the first mode together, in predicted shares."""
    objective, factors = attention_problem(5, 3, 2, 2, 24)
    model = student(factors, 12)
    prediction = gradual_rank.predict(model, objective)
    end = prediction.stages[1].tau * 1.5
    run = gflow.simulate(model, objective, tau1=end)
    report.say(f"two heads: predicted saddle path ({prediction.ended})", prediction)
    result = compare(run, prediction)
    report.compare("two-heads.alpha1e-12", result, "two heads, α = 10^-12")
    first = prediction.stages[0]
    between = prediction.at(run.log_alpha).t[:2]
    here = run.model(t=float(np.mean(between)))
    sizes = np.linalg.norm(np.asarray(here.vo.value), axis=(1, 2))
    for (name, index), share in first.shares.items():
        report.add(
            f"two-heads.share.{name}.head{index[0]}",
            share, sizes[index[0]] / sizes.sum(), 1e-6, text="share in the first mode",
        )  # fmt: skip


def sensing(report: Report) -> None:
    """Matrix sensing (2301.11500): the saddles are the best fits of rank 1, 2, …"""
    rng = np.random.default_rng(0)
    d = 5
    u, v = (np.linalg.qr(rng.standard_normal((d, d)))[0] for _ in range(2))
    target = u @ np.diag([3.0, 2.0, 1.2, 0.0, 0.0]) @ v.T
    measurements = rng.standard_normal((400, d, d))
    objective = Sensing(jnp.asarray(measurements), jnp.asarray(np.tensordot(measurements, target)))
    left, right = rng.standard_normal((d, 3)), rng.standard_normal((d, 3))

    def model(exponent):
        return Matrix(gflow.Factored(left, right, -exponent * LOG10))

    prediction = gradual_rank.predict(model(30), objective)
    end = 1.15 * prediction.stages[-1].tau
    runs = {k: gflow.simulate(model(k), objective, tau1=end) for k in (10, 60)}
    _compare_runs(report, "matrix-sensing", "matrix sensing", runs, prediction)
    for rank, stage in enumerate(prediction.stages, 1):
        best = best_fit(objective, d, rank, rng, 3 if report.fast else 8)
        report.add(
            f"matrix-sensing.loss.rank{rank}", best, stage.loss, 1e-8,
            paper="arXiv 2301.11500", text="loss of the best fit of that rank",
        )  # fmt: skip
    figure, axes = _figure(1, 2)
    plot.collapse([runs[k] for k in (10, 60)], prediction, axes[0])
    axes[0].set_title("matrix sensing: best fits of rank 1, 2, 3")
    plot.spectrum_with_times(runs[60], prediction, axes[1])
    axes[1].set_title(f"singular values at {alpha_label(runs[60].log_alpha)}")
    report.figure(figure, "matrix_sensing")


def best_fit(objective: Sensing, d: int, rank: int, rng, starts: int) -> float:
    """Least loss over matrices of a rank, by alternating least squares from random starts."""
    rows, y = np.asarray(objective.measurements), np.asarray(objective.targets)
    best = math.inf
    for _ in range(starts):
        right = rng.standard_normal((d, rank))
        for _ in range(400):
            left = _solve(rows @ right, y, (d, rank))
            right = _solve(rows.transpose(0, 2, 1) @ left, y, (d, rank))
        read = np.tensordot(rows, left @ right.T, axes=2)
        best = min(best, 0.5 * float(np.mean((read - y) ** 2)))
    return best


def _solve(features: np.ndarray, y: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return np.linalg.lstsq(features.reshape(len(y), -1), y, rcond=None)[0].reshape(shape)


def gauge(report: Report) -> None:
    """A dense linear network from α = 1e-60: in the gauge, and as plain factors."""
    rng = np.random.default_rng(0)
    bases = [np.linalg.qr(rng.standard_normal((5, 5)))[0] for _ in range(2)]
    sizes = np.array([3.0, 2.0, 1.5, 1.2, 1.0])
    objective = Distance(jnp.asarray(bases[0] @ np.diag(sizes) @ bases[1].T))
    left, right = rng.standard_normal((5, 5)), rng.standard_normal((5, 5))
    if np.linalg.det(left @ right.T) * np.linalg.det(np.asarray(objective.target)) < 0:
        left = left @ np.diag([-1.0, 1, 1, 1, 1])
    scale = -60 * LOG10
    model = Matrix(gflow.Factored(left, right, scale))
    prediction = gradual_rank.predict(model, objective)
    run = gflow.simulate(model, objective, tau1=1.2)
    result = compare(run, prediction)
    report.compare("dense-linear.alpha1e-60", result, "dense linear network, α = 10^-60")
    for k, (stage, size) in enumerate(zip(prediction.stages, sizes, strict=True)):
        report.add(f"dense-linear.T.stage{k + 1}", 1.0 / size, stage.tau, 1e-9, unit="τ")
    plain = Unguarded(jnp.asarray(left * math.exp(scale)), jnp.asarray(right * math.exp(scale)))
    without = gflow.simulate(plain, objective, tau1=1.2, log_alpha=scale, error_bars=False)
    figure, axes = _figure(1, 2)
    for ax, trajectory, title in zip(
        axes, (run, without), ("columns in their gauge", "plain factors, float64"), strict=True
    ):
        ax.plot(trajectory.tau, trajectory.loss, color=COLOURS[0], lw=1.5, label="simulated")
        grid = plot.finite_grid(prediction, scale, 1.2)
        ax.plot(grid, prediction.at(scale).loss(grid), **plot.FINITE, label="predicted at that α")
        ax.set(xlabel=plot.TAU_LABEL, ylabel="loss", title=f"{title}, {alpha_label(scale)}")
        ax.legend(frameon=False, fontsize="x-small")
    report.figure(figure, "gauge")


class Unguarded(eqx.Module):
    """A and B as plain arrays, which nothing guards."""

    left: Float[Array, "m r"]
    right: Float[Array, "n r"]

    @property
    def weight(self) -> PlainFactors:
        return PlainFactors(self.left, self.right)
