"""A softmax pair on sampled prompts, its first order in key-query, and linear attention."""

import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import gflow
from gflow.models import SoftmaxContextHeads

from ... import Report
from .. import problem
from ..heads.measure import passing
from ..problem import FOUR, HE
from ..settings import Settings

#: Prompts of a sample that is trained on, and of one whose force is looked at.
PROMPTS, MANY = 50, 20_000
#: Sizes of the start (rounding of means that should vanish is felt below 1e-9), and the times over
#: ln(1/ε)/rate at which runs end.
SIZES, LATE = (1e-3, 1e-7), (2.2, 1.3)
#: As tight as this for steps as close as a figure wants them.
RTOL = 1e-11
#: Standard deviations of the logits of pairs whose best loss is asked for.
LADDER = np.geomspace(0.05, 5.0, 13)
#: Between which standard deviations of the logits the power is measured.
SMALL = (0.003, 0.03)


class Beside(NamedTuple):
    """Runs from one start on one sample, and how far the softmax is from its first order.

    `logits`: their standard deviation along the softmax run; `apart`: |L − L₁|/(L(0) − L₁), with
    L₁ the loss of the first order at the same weights. `ladder`: sizes of logits, and the loss of
    the best pair that has them over that of the best first order, both of the loss at zero.
    """

    softmax: gflow.Trajectory
    first: gflow.Trajectory
    linear: gflow.Trajectory
    logits: np.ndarray
    apart: np.ndarray
    ladder: tuple[np.ndarray, np.ndarray]


class FirstOrder(eqx.Module):
    """½ mean (y − aᵀM x_q)² by moments, a a vector of each prompt: β, or β − ȳ x̄.

    Of a ± pair that is all of first order, Σμ being zero.
    """

    force: Float[Array, " entries"]
    second: Float[Array, "entries entries"]
    top: Float[Array, ""]

    def __init__(self, vectors: np.ndarray, queries: np.ndarray, targets: np.ndarray):
        z = np.einsum("pa,pb->pab", vectors, queries).reshape(len(targets), -1)
        moments = (targets @ z, z.T @ z, targets @ targets)
        self.force, self.second, self.top = (jnp.asarray(x / len(targets)) for x in moments)

    def __call__(self, model: SoftmaxContextHeads) -> Float[Array, ""]:
        m = jnp.ravel(jnp.tensordot(model.value.value, model.key_query.value, 1))
        return 0.5 * (self.top - 2.0 * self.force @ m + m @ (self.second @ m))


def prompts(report: Report, settings: Settings) -> dict[int, Beside]:
    """By the number of pairs in a prompt."""
    return {context: beside(report, context) for context in settings.softmax_contexts}


def beside(report: Report, context: int) -> Beside:
    """The rate of escape, over all prompts and of the sample; then where the first order ends."""
    ladder = escape_rate(report, context)
    inputs, target = (np.concatenate(x) for x in zip(*mirrored(context), strict=True))
    sample = gflow.objectives.SquaredLoss(inputs, target)
    beta, centred = vectors(inputs)
    first, linear = (FirstOrder(a, inputs[:, -1, :-1], target) for a in (centred, beta))
    rate = float(np.linalg.norm(first.force))
    # what grows, and nothing else
    grows = np.asarray(first.force).reshape(len(FOUR), -1) / rate
    models = [problem.softmax_pair(size, grows) for size in SIZES]
    ends = [late * math.log(1.0 / size) / rate for late, size in zip(LATE, SIZES, strict=True)]
    runs = [
        gflow.simulate(model, sample, t1=end, rtol=RTOL, observables={"first": first})
        for model, end in zip(models, ends, strict=True)
    ]
    slope(report, context, runs, rate)
    run = runs[0]
    flows = (gflow.simulate(models[0], one, t1=ends[0], rtol=RTOL) for one in (first, linear))
    logits = np.array([spread(w) for w in np.asarray(run.leaves["key_query"]["value"])])
    order = run.observables["first"]
    drop = run.loss[0] - order
    told = drop > 1e-8 * run.loss[0]
    apart = np.where(told, np.abs(run.loss - order) / np.where(told, drop, 1.0), np.nan)
    found = Beside(run, *flows, logits, apart, ladder)
    departs(report, context, found)
    return found


def vectors(inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """β, and β − ȳ x̄, of every prompt."""
    x, y = inputs[:, :-1, :-1], inputs[:, :-1, -1]
    beta = np.einsum("pn,pnd->pd", y, x) / x.shape[1]
    return beta, beta - np.mean(y, axis=1)[:, None] * np.mean(x, axis=1)


def escape_rate(report: Report, context: int) -> tuple[np.ndarray, np.ndarray]:
    """That of the first order, ‖E y_q (β − ȳ x̄)x_qᵀ‖, along Λ²; and the ladder of this sample."""
    task, norm = sampled(context, MANY), float(np.linalg.norm(np.square(FOUR)))
    inputs, target = np.asarray(task.inputs), np.asarray(task.targets)
    force, centred = np.diag(np.square(FOUR)) / norm, vectors(inputs)[1]
    along = target * np.einsum("pa,ab,pb->p", centred, force, inputs[:, -1, :-1])
    error = float(np.std(along, ddof=1)) / math.sqrt(MANY)
    report.add(
        f"softmax.prompts{context}.rate", (1.0 - 1.0 / context) * norm, float(np.mean(along)),
        3.0 * error, error, unit="rate", paper=HE,
        text=f"rate at which a softmax pair escapes, on {MANY} prompts of {context} pairs: "
        "(1 − 1/N)‖Λ²‖, to 3 standard errors",
    )  # fmt: skip
    return climbed(inputs, target, FirstOrder(centred, inputs[:, -1, :-1], target))


def climbed(
    inputs: np.ndarray, target: np.ndarray, first: FirstOrder
) -> tuple[np.ndarray, np.ndarray]:
    """Losses of pairs W = ± the best matrix of the first order, scaled, each with its best μ."""
    force, second = np.asarray(first.force), np.asarray(first.second)
    best = np.linalg.solve(second, force)
    least = 1.0 - float(force @ best / first.top)
    direction = best.reshape(len(FOUR), -1)
    direction = direction / spread(direction[None])
    losses = []
    for size in LADDER:
        w = jnp.asarray(size * np.stack([direction, -direction]))
        pair = SoftmaxContextHeads(*(gflow.Scaled(x, 0.0) for x in (np.array([1.0, -1.0]), w)))
        answer = np.asarray(jax.vmap(pair)(jnp.asarray(inputs)))
        losses.append(1.0 - (target @ answer) ** 2 / (answer @ answer) / (target @ target))
    return LADDER, np.array(losses) / least


def sampled(context: int, prompts: int) -> gflow.tasks.InContextPrompts:
    key = jax.random.key(context)
    return gflow.tasks.in_context_regression(list(FOUR), context, prompts=prompts, key=key)


def mirrored(context: int) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Prompts and answers, and each with −x_q, −y_q, as likely: means odd in x_q vanish.

    They vanish over all prompts; on a sample without its mirror image the mean label ȳ, which
    heads share, has a force E[y_q ȳ] of O(1/√prompts), and zero is no saddle.
    """
    task = sampled(context, PROMPTS)
    inputs, target = np.asarray(task.inputs), np.asarray(task.targets)
    other = inputs.copy()
    other[:, -1, :-1] *= -1.0
    return (inputs, target), (other, -target)


def spread(w: np.ndarray) -> float:
    """Standard deviation of xᵀW x_q of the first head over all prompts."""
    lam = np.array(FOUR)
    return math.sqrt(float(np.sum(w[0] ** 2 * lam[:, None] * lam[None])))


def slope(report: Report, context: int, runs: list[gflow.Trajectory], rate: float) -> None:
    """What a factor e of the size costs is 1/rate of the first order, whatever the drop is."""
    level = 0.75 * float(runs[0].loss[0])
    (one, bar), (other, more) = (passing(run, level) for run in runs)
    apart = math.log(SIZES[0] / SIZES[1])
    # what the start is off the growing orbit is of second order in it
    report.add(
        f"softmax.prompts{context}.slope", 1.0 / rate, (other - one) / apart,
        (10.0 * SIZES[0] ** 2 / rate + bar + more) / apart, (bar + more) / apart,
        unit="t/ln(1/ε)", paper=HE,
        text=f"what a factor e in ε costs a softmax pair on {context} pairs, from {SIZES[0]:g} to "
        f"{SIZES[1]:g}: 1/rate of its first order",
    )  # fmt: skip


def departs(report: Report, context: int, found: Beside) -> None:
    """The first order ends as the square of the logits; how late it is half-way is told."""
    inside = np.flatnonzero((found.logits > SMALL[0]) & (found.apart > 0.0))
    steps = inside[0], np.flatnonzero(found.logits < SMALL[1])[-1]
    x, y = (np.log(values[list(steps)]) for values in (found.logits, found.apart))
    power = (y[1] - y[0]) / (x[1] - x[0])
    middle = 0.5 * float(found.first.loss[0] + found.first.loss[-1])
    times = [passing(run, middle)[0] for run in (found.softmax, found.first, found.linear)]
    most = int(np.nanargmax(found.apart))
    sizes, losses = found.ladder
    beyond = f"no best pair of logits up to {sizes[-1]:g}"
    if losses[-1] > 1.1:
        beyond = f"the best pair of logits of {float(np.interp(1.1, losses, sizes)):.2g}"
    report.add(
        f"softmax.prompts{context}.power", 2.0, float(power), 0.05, paper=HE,
        text=f"power of the logits (from {SMALL[0]:g} to {SMALL[1]:g}) by which the loss of a "
        f"pair leaves its first order; at most {found.apart[most]:.2g} of the drop, at logits of "
        f"{found.logits[most]:.2g} of the {found.logits[-1]:.2g} that are reached. Half-way of the "
        f"first order at t = {times[0]:.4g} (softmax), {times[1]:.4g} (first order), "
        f"{times[2]:.4g} (linear attention). On {MANY} prompts "
        f"{beyond} loses a tenth more than the best first order",
    )  # fmt: skip
