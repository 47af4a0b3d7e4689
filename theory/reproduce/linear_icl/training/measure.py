"""Gradient descent on sampled prompts, as published, beside the flow of the population loss."""

import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import gflow
from gflow.models import MergedHeads, SeparateHeads
from theory import linear_icl as icl

from ... import Report
from .. import problem
from ..heads.measure import levels, passing
from ..problem import CONTEXT, FOUR, ZHANG
from ..settings import Settings

#: Standard errors of a sample of prompts that are allowed.
DEVIATIONS = 3.0


class Descent(NamedTuple):
    """A trained model, the flow of the same loss, and that of the population loss."""

    run: gflow.Trajectory
    sampled: gflow.Trajectory
    flow: gflow.Trajectory
    prompts: int


class Trained(NamedTuple):
    merged: Descent
    separate: Descent


class Prompts(NamedTuple):
    """What a sample of prompts has: β (P, D), x_q (P, D), y_q (P,)."""

    beta: np.ndarray
    query: np.ndarray
    target: np.ndarray


class SampleLoss(eqx.Module):
    """½ mean (y_q − βᵀM x_q)² by the moments of a sample: what descent descends, exactly."""

    linear: Float[Array, " entries"]
    square: Float[Array, "entries entries"]
    top: Float[Array, ""]

    def __call__(self, model: MergedHeads | SeparateHeads) -> Float[Array, ""]:
        m = jnp.ravel(model.matrix())
        return 0.5 * (self.top - 2.0 * self.linear @ m + m @ (self.square @ m))


def sample_loss(sample: Prompts) -> SampleLoss:
    count = len(sample.target)
    z = np.einsum("pa,pb->pab", sample.beta, sample.query).reshape(count, -1)
    moments = (sample.target @ z, z.T @ z, sample.target @ sample.target)
    return SampleLoss(*(jnp.asarray(x / count) for x in moments))


def trained(report: Report, settings: Settings) -> Trained:
    """Both protocols, on fewer prompts than published and for as long as the drops take."""
    return Trained(merged(report, *settings.merged_protocol),
                   separate(report, *settings.separate_protocol))  # fmt: skip


def merged(report: Report, prompts: int, steps: int) -> Descent:
    """Fig. 1: the step at which the loss is half-way, and its two plateaus."""
    model, rate = problem.trained_merged()
    found, sample = descend(model, rate, prompts, steps, seed=1)
    v, u = np.asarray(model.value.value), np.asarray(model.key_query.value)
    escape = float(np.linalg.norm(np.square(FOUR)))
    start = math.log(1.0 / icl.aligned_size(v, u, FOUR))
    middle = float(0.5 * (levels(FOUR)[0] + levels(FOUR)[-1]))
    expected, measured = passing(found.flow, middle)[0], step_below(found.run, middle)
    # growth by 1 + ηr a step in place of e^{ηr}, and a rate r = ‖E y_q βx_qᵀ‖ of the sample
    force = np.diag(np.square(FOUR)) / escape
    along = sample.target * np.einsum("pa,ab,pb->p", sample.beta, force, sample.query)
    relative = 0.5 * rate * escape + DEVIATIONS * standard_error(along) / escape
    report.add(
        "descent.merged.step", expected / rate, measured / rate, relative * expected / rate, 1.0,
        unit="steps", paper=ZHANG,
        text=f"step at which the loss on {prompts} prompts is half-way, by the flow of the "
        f"population loss in the unit t = 2 lr N (escape alone: {start / escape / rate:.0f} steps)",
    )  # fmt: skip
    same = passing(found.sampled, middle)[0]
    report.add(
        "descent.merged.sample-step", same / rate, measured / rate, escape * same, 1.0,
        unit="steps", paper=ZHANG,
        text="the same by the flow of the loss on the same prompts, up to a growth by 1 + ηr in "
        "place of e^{ηr} a step",
    )  # fmt: skip
    plateau(report, "descent.merged", 0, found.run, 0, sample, np.zeros((4, 4)), 0.0)
    end = np.diag(icl.merged(FOUR, CONTEXT, 1.0, math.inf).diagonal)
    left = float(found.flow.loss[-1]) - float(levels(FOUR)[-1])
    plateau(report, "descent.merged", 4, found.run, len(found.run.t) - 1, sample, end, left)
    return found


def separate(report: Report, prompts: int, steps: int) -> Descent:
    """Fig. 3: the first drop, and every plateau that the steps reach."""
    model, rate = problem.trained_separate()
    found, sample = descend(model, rate, prompts, steps, seed=2)
    loss = levels(FOUR)
    middles = 0.5 * (loss[1:] + loss[:-1])
    middle = float(middles[0])
    expected, measured = passing(found.flow, middle)[0], step_below(found.run, middle)
    # T is inversely proportional to λ², which the sample has to its standard error
    along = sample.target * sample.beta[:, 0] * sample.query[:, 0]
    relative = DEVIATIONS * standard_error(along) / FOUR[0] ** 2 + rate / expected
    report.add(
        "descent.separate.step", expected / rate, measured / rate, relative * expected / rate, 1.0,
        unit="steps", paper=ZHANG,
        text=f"step at which the first drop is half-way on {prompts} prompts, by the flow of the "
        "population loss in the unit t = 2 lr N^(2/3)",
    )  # fmt: skip
    same_sample(report, found, middles, rate)
    passed = [0.0, *(step_below(found.run, x) for x in middles)]
    flowed = [0.0, *(passing(found.flow, float(x))[0] for x in middles)]
    optimum = icl.merged(FOUR, CONTEXT, 1.0, math.inf).diagonal
    for m in range(len(FOUR)):
        if not (math.isfinite(passed[m + 1]) and math.isfinite(flowed[m + 1])):
            break
        flat = int(np.argmin(np.abs(found.run.t - 0.5 * (passed[m] + passed[m + 1]))))
        there = int(np.argmin(np.abs(found.flow.t - 0.5 * (flowed[m] + flowed[m + 1]))))
        matrix = np.diag(np.where(np.arange(len(FOUR)) < m, optimum, 0.0))
        # what the flow itself has left, or gone beyond, in the middle of its plateau
        off = abs(float(found.flow.loss[there]) - float(loss[m]))
        plateau(report, "descent.separate", m, found.run, flat, sample, matrix, off)
    return found


def same_sample(report: Report, found: Descent, middles: np.ndarray, rate: float) -> None:
    """Steps of the drops against the flow of the same sample: what discretisation does.

    A step of v' = λ²v² leaves 1/v too large by η²λ⁴v, which adds up to η ln(κ/v₀), a shift by
    ln(κ/v₀) steps. A drop that comes later brings the next ones along.
    """
    for m, level in enumerate(middles, 1):
        expected = passing(found.sampled, float(level))[0]
        measured = step_below(found.run, level)
        if not (math.isfinite(expected) and math.isfinite(measured)):
            break
        v = np.abs(np.asarray(found.run.leaves["value"]["value"]))
        late = math.log(float(np.max(v)) / float(np.max(v[0])))
        report.add(
            f"descent.separate.sample-step{m}", expected / rate, measured / rate, 2.0 * m * late,
            1.0, unit="steps", paper=ZHANG,
            text=f"step at which drop {m} is half-way, by the flow of the loss on the same prompts",
        )  # fmt: skip


def descend(model, rate: float, prompts: int, steps: int, seed: int) -> tuple[Descent, Prompts]:
    task = gflow.tasks.in_context_regression(
        list(FOUR), CONTEXT, prompts=prompts, key=jax.random.key(seed)
    )
    run = gflow.descend(model, task.objective, learning_rate=rate, steps=steps, save_every=10)
    flow = gflow.simulate(model, task.population, t1=rate * steps, rtol=1e-8)
    x, y = np.asarray(task.inputs)[:, :-1, :-1], np.asarray(task.inputs)[:, :-1, -1]
    beta = np.einsum("pn,pnd->pd", y, x) / CONTEXT
    sample = Prompts(beta, np.asarray(task.inputs)[:, -1, :-1], np.asarray(task.targets))
    sampled = gflow.simulate(model, sample_loss(sample), t1=rate * steps, rtol=1e-8)
    return Descent(run, sampled, flow, prompts), sample


def plateau(
    report: Report, key: str, m: int, run: gflow.Trajectory, at: int, sample: Prompts,
    matrix: np.ndarray, off: float,
) -> None:  # fmt: skip
    """The loss on a sample of P prompts: of mean L_m, standard error s/√P, and less by its fit.

    Fitting D² entries to a sample brings its loss down by about D² L_m/P.
    """
    residual = sample.target - np.einsum("pa,ab,pb->p", sample.beta, matrix, sample.query)
    error, fitted = standard_error(0.5 * residual**2), matrix.size / len(residual)
    expected = float(levels(FOUR)[m])
    report.add(
        f"{key}.plateau{m}", expected, float(run.loss[at]),
        DEVIATIONS * error + fitted * expected + off, error, paper=ZHANG,
        text=f"loss on {len(residual)} prompts at step {at * run.statistics['save_every']}, within "
        f"{DEVIATIONS:g} standard errors of the sample, what a fit to it gains, and what the flow "
        "is off its plateau",
    )  # fmt: skip


def standard_error(values: np.ndarray) -> float:
    return float(np.std(values, ddof=1) / math.sqrt(len(values)))


def step_below(run: gflow.Trajectory, level: float) -> float:
    """t at which the recorded loss comes below a level, interpolated; NaN where it does not."""
    below = np.flatnonzero(run.loss < level)
    if not below.size:
        return math.nan
    i = int(below[0])
    share = (run.loss[i - 1] - level) / (run.loss[i - 1] - run.loss[i])
    return float(run.t[i - 1] + share * (run.t[i] - run.t[i - 1]))
