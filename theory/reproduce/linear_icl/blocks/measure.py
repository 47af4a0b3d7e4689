"""One head of linear self-attention: its course, where it rests, and what stays zero."""

from typing import Any

import jax
import numpy as np

import gflow
import theory
from gflow.internal import build_flow, trained_leaves
from gflow.models import LinearSelfAttention
from theory import linear_icl as icl

from ... import Report
from .. import problem
from ..heads.measure import RTOL, merged_time
from ..problem import CONTEXT, FOUR, FREI
from ..settings import Settings

#: Sizes σ of the start, the second of which leaves it in a logarithm of time.
SIZES = (1e-2, 1e-50)
#: Prompts of the sample whose forces are looked at, and standard deviations that χ² may be off.
PROMPTS, DEVIATIONS = 20_000, 4.0


def blocks(report: Report, settings: Settings) -> None:
    """From both sizes and several Θ, the worst of each; then the forces on the mixed blocks."""
    objective = problem.objective()
    ends = {}
    for size in SIZES:
        tables = {}
        for number, theta in enumerate(problem.thetas(settings.blocks)):
            model = problem.self_attention(size, theta)
            prediction = icl.predict(model, objective)
            parts = theory.Prediction.of(
                *prediction.curves, *at_rest(), made_from=(model, objective)
            )  # fmt: skip
            run = gflow.simulate(model, objective, t1=merged_time(size) + settled(), rtol=RTOL)
            tables[f"Θ {number}"] = theory.compare(run, parts)
            ends[size] = run.final
        text = f"Linear self-attention from σ = {size:g}, {len(tables)} Θ"
        report.compare_worst(f"blocks.size{size:g}", tables, text)
    mixed(report, ends[SIZES[0]])


def settled() -> float:
    """A time in which what relaxes slowest is 10⁻¹³ of what it was: at the rate u∞² λ²Γ."""
    limit, lam = icl.self_attention_limit(FOUR, CONTEXT), np.array(FOUR)
    gamma = 1.0 / (limit.value * limit.key_query)
    return 30.0 / float(limit.value**2 * np.min(lam**2 * gamma))


def at_rest() -> list[theory.Number]:
    """u, U in the eigenbasis, and the loss at the end, against the limit of the paper."""
    limit = icl.self_attention_limit(FOUR, CONTEXT)

    def read(run: gflow.Trajectory, name: str) -> tuple[np.ndarray, float]:
        each = np.asarray(run.leaves[name]["value"])
        return each[-1], float(np.max(np.abs(each[-1] - each[-2]))) + 10.0 * RTOL

    def value(run: gflow.Trajectory) -> tuple[float, float]:
        last, bar = read(run, "value")
        return float(last[-1, -1]), bar

    def key_query(run: gflow.Trajectory) -> tuple[float, float]:
        last, bar = read(run, "key_query")
        off = last[:-1, :-1] - np.diag(limit.key_query)
        return float(np.max(np.abs(off))), bar

    about: Any = {"source": FREI, "validity": "any start that leaves zero with u² = ‖U‖², at rest"}
    words = "what is left to the end of the run, e^{−rate × time}"
    scale = float(np.max(limit.key_query))
    return [
        theory.Number("u at rest", float(limit.value), value, 1e-7, words, **about),
        theory.Number("largest entry of U − U∞", 0.0, key_query, 1e-7, words, size=scale, **about),
        theory.Number("loss at rest", 0.5 * limit.loss, lambda run: (float(run.loss[-1]), 1e-12),
                      1e-9, words, **about),
    ]  # fmt: skip


def mixed(report: Report, model: LinearSelfAttention) -> None:
    """Forces on W^PV[y, x] and W^KQ[y, x], zero as they stand: exactly, and on a sample.

    Over all prompts they vanish by the symmetry w → −w. On P prompts each is a mean of P numbers
    of mean zero, so that the sum of their squares over those of their standard errors is χ².
    """
    values = {name: leaf.value for name, leaf in trained_leaves(model).items()}
    every = gflow.objectives.SharedTaskRegression(list(FOUR), CONTEXT, np.zeros(4), 0.0)
    forces = of_mixed(build_flow(model, every).forces(values)[1])
    scale = float(np.max(np.abs(every.force)))
    report.add(
        "blocks.mixed.population", 0.0, float(np.max(np.abs(forces))), 1e-13 * scale, paper=FREI,
        text="the largest force on a block that mixes x and y, over all prompts",
    )  # fmt: skip
    task = gflow.tasks.in_context_regression(
        list(FOUR), CONTEXT, prompts=PROMPTS, key=jax.random.key(3)
    )
    each = prompt_forces(model, np.asarray(task.inputs), np.asarray(task.targets))
    mean = np.mean(each, axis=0)
    # forces at one point and of one sample: correlated, but for x and y blocks by themselves
    inverse = np.linalg.inv(np.cov(each.T) / len(each))
    statistic, count = float(mean @ inverse @ mean), len(mean)
    sampled = of_mixed(build_flow(model, task.objective).forces(values)[1])
    report.add(
        "blocks.mixed.sample", 0.0, float(np.max(np.abs(sampled - mean))), 1e-9 * scale,
        text="forces of the flow on a sample, less the mean of those of its prompts",
    )  # fmt: skip
    report.add(
        "blocks.mixed.chi-squared", count, statistic, DEVIATIONS * float(np.sqrt(2.0 * count)),
        unit="χ²", paper=FREI,
        text=f"of the {count} forces on mixed blocks from {PROMPTS} prompts, for a mean of zero "
        f"(the largest is {np.max(np.abs(mean)):.2g}, of a sample)",
    )  # fmt: skip


def of_mixed(forces) -> np.ndarray:
    """On the entries of W^PV[y, x], then on those of W^KQ[y, x]."""
    value, key_query = (np.asarray(forces[name]) for name in ("value", "key_query"))
    return np.concatenate([value[-1, :-1], key_query[-1, :-1]])


def prompt_forces(model: LinearSelfAttention, inputs: np.ndarray, targets: np.ndarray):
    """(y − ŷ) ∂ŷ/∂(mixed entries) of every prompt, by hand, (prompts, 2D)."""
    v, u = (np.asarray(leaf.value) for leaf in (model.value, model.key_query))
    value, matrix, query = v[-1, -1], u[:-1, :-1], inputs[:, -1, :-1]
    square = np.einsum("pna,pnb->pab", inputs, inputs) / (inputs.shape[1] - 1)
    seen = np.einsum("ab,pb->pa", matrix, query)
    answer = value * np.einsum("pa,pa->p", square[:, -1, :-1], seen)
    to_value = np.einsum("pab,pb->pa", square[:, :-1, :-1], seen)
    to_key_query = value * square[:, -1, -1, None] * query
    return (targets - answer)[:, None] * np.concatenate([to_value, to_key_query], axis=1)
