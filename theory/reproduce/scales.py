"""Runs of one model from several α beside one prediction: the shape of most experiments."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from gflow import Trajectory

from .. import Prediction, Stage, compare
from ..comparison._readings import measure
from ._report import Report

LOG10 = math.log(10.0)
#: By −log₁₀α.
Runs = dict[float, Trajectory]


class Scales(NamedTuple):
    """Runs by −log₁₀α, and their prediction."""

    runs: Runs
    prediction: Prediction


class Convergence(NamedTuple):
    """Stage times τ of every run (rows) with their error bars, and the limit of the last two."""

    scales: Float[np.ndarray, " runs"]
    times: Float[np.ndarray, "runs stages"]
    errors: Float[np.ndarray, "runs stages"]
    limits: Float[np.ndarray, " stages"]


def compare_scales(
    report: Report,
    key: str,
    label: str,
    runs: Runs,
    prediction: Prediction,
    second: dict[float, float] | None = None,
) -> None:
    """Judge every run, as `key.alpha1e-k.<claim>`; `second` names a run's partner at another α.

    With a partner T is also found from the two, without C, and is a row of its own.
    """
    report.say(f"{label}: predicted saddle path ({prediction.ended})", prediction)
    for k, trajectory in runs.items():
        partner = runs.get((second or {}).get(k, math.nan))
        result = compare(trajectory, prediction, second=partner)
        report.compare(f"{key}.alpha1e-{k:g}", result, f"{label}, α = 10^-{k:g}")
        if partner is None:
            continue
        for row in result.transitions:
            if math.isfinite(row.limit):
                report.add(
                    f"{key}.alpha1e-{k:g}.limit.stage{row.stage}",
                    row.tau_limit,
                    row.limit,
                    1e-4 * row.tau_limit,
                    row.error,
                    unit="τ",
                    text="T by log-Richardson from two runs",
                )


def offsets(run: Trajectory, prediction: Prediction) -> Iterator[tuple[int, Stage, float, float]]:
    """(number, stage, t − TΛ, error bar) of every predicted stage that the run passes."""
    crossings = measure(run, prediction)
    for i, (crossing, stage) in enumerate(zip(crossings, prediction.stages, strict=True), 1):
        if crossing is not None:
            yield i, stage, crossing.t - stage.tau * run.scale, crossing.error


def convergence(runs: Sequence[Trajectory], prediction: Prediction) -> Convergence:
    """Times of all stages over α; the last two runs give the limit by log-Richardson."""
    scales = np.array([run.scale for run in runs])
    nothing = (math.nan, math.nan)
    found = np.array(
        [
            [nothing if c is None else (c.t / run.scale, c.error / run.scale) for c in row]
            for run in runs
            for row in [measure(run, prediction)]
        ]
    )
    times, errors = found[..., 0], found[..., 1]
    limits = (scales[-1] * times[-1] - scales[-2] * times[-2]) / (scales[-1] - scales[-2])
    return Convergence(scales, times, errors, limits)
