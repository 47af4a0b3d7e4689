"""A diagonal linear network learns its weights one by one. `gflow reproduce my_paper.py` runs it.

Replace problem, measure and draw by those of your paper.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

import gflow
import theory
from theory.reproduce import Experiment, Report, Scales, compare_scales, style


@dataclasses.dataclass(frozen=True)
class Settings:
    """What --fast changes; written into report.json."""

    exponents: tuple[float, ...] = (32, 64)  # α = 10^−k


experiment = Experiment(
    "my-paper",
    "A. Author 2025, arXiv 2501.00000",
    "when each weight of a diagonal linear network is learned, predicted and simulated",
    __name__,
    Settings(),
    fast=Settings(exponents=(64,)),
)

TARGETS = (3.0, -2.0, 1.0)


def problem(exponent: float):
    """A model at α = 10^−exponent, and its loss: ½ Σ (w_i − target_i)²."""
    loss = gflow.objectives.SquaredLoss(jnp.eye(3), jnp.array(TARGETS), reduction="half_sum")
    log_alpha = -exponent * math.log(10.0)
    weight = gflow.Hadamard.small(3, log_alpha=log_alpha, key=jax.random.key(0))
    return gflow.models.DiagonalLinear(weight), loss


def measure(report: Report, settings: Settings) -> Scales:
    """Runs beside their prediction, judged, and a closed form: T_i = 1/|target_i|."""
    prediction = theory.gradual_rank.predict(*problem(64))
    runs = {k: gflow.simulate(*problem(k), tau1=1.5) for k in settings.exponents}
    compare_scales(report, "orthogonal", "orthogonal features", runs, prediction)
    for k, (target, stage) in enumerate(zip(TARGETS, prediction.stages, strict=True), 1):
        report.add(f"orthogonal.T.stage{k}", 1 / abs(target), stage.tau, 1e-12, unit="τ")
    return Scales(runs, prediction)


def draw(numbers: Scales):
    """The loss of all runs, in colour, on their predictions, in black."""
    figure, (ax,) = style.figure(1, 1)
    theory.plot.collapse(list(numbers.runs.values()), numbers.prediction, ax)
    return figure


def run(report: Report, settings: Settings) -> None:
    """What `gflow reproduce` calls."""
    report.figure(draw(measure(report, settings)), "loss")
