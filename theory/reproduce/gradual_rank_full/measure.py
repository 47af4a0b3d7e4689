"""Predictions and runs of the four problems, judged, and the numbers that the figures show."""

import math
from typing import NamedTuple

import numpy as np

import gflow
import theory
from gflow.internal import least_squares
from theory import Prediction, gradual_rank

from .. import Report, Runs, Scales, compare_scales, offsets
from . import problem
from .settings import Settings


class Gauge(NamedTuple):
    """One start in the gauge and the loss of its plain factors, and what is predicted of it."""

    guarded: gflow.Trajectory
    tau: np.ndarray
    unguarded: np.ndarray
    prediction: Prediction


def head(report: Report, settings: Settings) -> Scales:
    """One softmax head with full matrices from α = 1e-15 down to 1e-1000."""
    one = problem.attention(1, 3, 2, None, 48)
    prediction = gradual_rank.predict(one.at(30), one.objective)
    end = 1.12 * prediction.stages[-1].tau
    runs: Runs = {
        k: gflow.simulate(one.at(k), one.objective, tau1=end, rtol=1e-8) for k in settings.exponents
    }
    label = "softmax head, full matrices"
    compare_scales(report, "full-head", label, runs, prediction, second={100: 1000})
    for k in (100, 1000):
        for i, stage, offset, bar in offsets(runs[k], prediction):
            key = f"full-head.alpha1e-{k}.C.stage{i}"
            report.add(key, stage.offset, offset, 1e-6, bar, unit="flow time")
    report.data(runs[100], "full_head")
    return Scales(runs, prediction)


def heads(report: Report) -> None:
    """Two heads of one scale: they learn the first mode together, in predicted shares."""
    one = problem.attention(5, 3, 2, 2, 24)
    prediction = gradual_rank.predict(one.at(12), one.objective)
    run = gflow.simulate(one.at(12), one.objective, tau1=prediction.stages[1].tau * 1.5)
    report.say(f"two heads: predicted saddle path ({prediction.ended})", prediction)
    result = theory.compare(run, prediction)
    report.compare("two-heads.alpha1e-12", result, "two heads, α = 10^-12")
    between = prediction.at(run.log_alpha).t[:2]
    here = run.model(t=float(np.mean(between)))
    sizes = np.linalg.norm(np.asarray(here.vo.value), axis=(1, 2))
    for (name, index), share in prediction.stages[0].shares.items():
        report.add(
            f"two-heads.share.{name}.head{index[0]}",
            share,
            sizes[index[0]] / sizes.sum(),
            1e-6,
            text="share in the first mode",
        )


def sensing(report: Report, settings: Settings) -> Scales:
    """Matrix sensing (2301.11500): the saddles are the best fits of rank 1, 2, …"""
    one = problem.sensing()
    prediction = gradual_rank.predict(one.at(30), one.objective)
    end = 1.15 * prediction.stages[-1].tau
    runs: Runs = {k: gflow.simulate(one.at(k), one.objective, tau1=end) for k in (10, 60)}
    compare_scales(report, "matrix-sensing", "matrix sensing", runs, prediction)
    for rank, stage in enumerate(prediction.stages, 1):
        report.add(
            f"matrix-sensing.loss.rank{rank}",
            best_fit(one.objective, rank, one.rng, settings.fits),
            stage.loss,
            1e-8,
            paper="arXiv 2301.11500",
            text="loss of the best fit of that rank",
        )
    return Scales(runs, prediction)


def best_fit(objective: problem.Sensing, rank: int, rng: np.random.Generator, starts: int) -> float:
    """Least loss over matrices of a rank, by alternating least squares from random starts."""
    rows, y = np.asarray(objective.measurements), np.asarray(objective.targets)
    d = rows.shape[-1]
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
    return least_squares(features.reshape(len(y), -1), y).reshape(shape)


def gauge(report: Report) -> Gauge:
    """A dense linear network from α = 1e-60: in the gauge, and as plain factors by Diffrax."""
    one = problem.dense()
    prediction = gradual_rank.predict(one.guarded, one.objective)
    run = gflow.simulate(one.guarded, one.objective, tau1=1.2)
    result = theory.compare(run, prediction)
    report.compare("dense-linear.alpha1e-60", result, "dense linear network, α = 10^-60")
    for k, (stage, size) in enumerate(zip(prediction.stages, one.sizes, strict=True)):
        report.add(f"dense-linear.T.stage{k + 1}", 1.0 / size, stage.tau, 1e-9, unit="τ")
    tau = np.linspace(0.0, 1.2, 600)
    return Gauge(run, tau, one.unguarded(tau), prediction)
