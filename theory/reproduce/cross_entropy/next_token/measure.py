"""Both stages by flow, gradient descent and normalised descent, and what rounding does to it."""

import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gflow
from gflow import observables
from gflow.internal import angle
from gflow.models import OneLayerDecoder
from gflow.objectives import CrossEntropy
from gflow.tasks import next_token
from theory import cross_entropy

from ... import Report
from ..normalised import normalised
from ..settings import Settings

PAPER = "Huang, Liang, Yang 2024, arXiv 2409.17335"
VOCABULARY, SENTENCES, LENGTH = 8, 60, 5
LATE, RTOL = 1e100, 1e-9
#: Rates of gradient descent and of normalised descent; norm of W_OV in the second stage.
RATE, NORMALISED, NORM = 1.0, 0.1, 30.0


class Stage(NamedTuple):
    """One layer: its name, its separator, and the runs."""

    name: str
    goal: np.ndarray
    flow: gflow.Trajectory
    descent: gflow.Trajectory
    normalised: gflow.Trajectory
    rounded: gflow.Trajectory


class RoundedDecoder(OneLayerDecoder):
    """The same map by softmax, whose derivative a(1 − a) is rounding once a is near 1."""

    def __call__(self, x):
        attention = jax.nn.softmax(x @ (self.kq.value @ x[-1]))
        return self.ov.value @ (attention @ x)


class Rounded(CrossEntropy):
    """The same loss by log_softmax, whose gradient p − 1 is rounding once p is near 1."""

    def __call__(self, model):
        logits = jax.vmap(lambda x: model(x))(self.inputs)
        rows = jax.nn.log_softmax(logits, axis=-1)
        return -jnp.mean(jnp.take_along_axis(rows, self.labels[:, None], axis=-1))


def stages(report: Report, settings: Settings) -> list[Stage]:
    """W_OV on the pairs, then W_KQ on the sentences with W_OV at its separator."""
    task = next_token(VOCABULARY, SENTENCES, LENGTH, key=jax.random.key(0))
    report.say(
        f"Next tokens: {VOCABULARY} tokens, {SENTENCES} sentences of {LENGTH}; "
        f"{len(task.constraints)} constraints on W_KQ, which a linear programme calls "
        + ("feasible" if _feasible(task.constraints) else "infeasible")
    )
    eye = np.eye(VOCABULARY)
    outer = cross_entropy.max_margin(eye, np.asarray(task.next))
    rows = np.asarray(task.constraints).reshape(len(task.constraints), -1)
    inner = cross_entropy.max_margin(rows, np.ones(len(rows), int)).weights.reshape(eye.shape)
    start = np.random.default_rng(1).normal(size=eye.shape)
    first = OneLayerDecoder(gflow.Frozen(0.0 * eye), gflow.Scaled(start, 0.0))
    values = NORM * outer.margin * outer.weights
    second = OneLayerDecoder(gflow.Scaled(0.1 * start, 0.0), gflow.Frozen(values))
    return [
        stage(report, settings, "ov", first, task.pairs, outer.weights),
        stage(report, settings, "kq", second, task.objective, inner),
    ]


def _feasible(constraints) -> bool:
    rows = np.asarray(constraints).reshape(len(constraints), -1)
    return cross_entropy.separable(rows, np.ones(len(rows), int))


def stage(
    report: Report,
    settings: Settings,
    leaf: str,
    start: OneLayerDecoder,
    objective: CrossEntropy,
    goal: np.ndarray,
) -> Stage:
    """One layer trained in three ways, its angle to the separator watched."""
    watched = {"angle": observables.angle(leaf, goal), "norm": observables.norm(leaf)}
    flow = gflow.simulate(start, objective, t1=LATE, rtol=RTOL, observables=watched)
    heading = flow.heading(leaf)
    off = angle(heading.direction, goal)
    key = f"next-token.{leaf}"
    report.add(
        f"{key}.direction",
        0.0,
        off,
        1e-2,
        heading.error,
        unit="rad",
        paper=PAPER,
        text=f"angle of W_{leaf.upper()} at infinity to its hard-margin solution",
    )
    descent = gflow.descend(
        start, objective, learning_rate=RATE, steps=settings.steps, observables=watched
    )
    optimizer, steps = normalised(NORMALISED), settings.steps
    both = []
    for model, loss in (
        (start, objective),
        (RoundedDecoder(start.kq, start.ov), Rounded(objective.inputs, objective.labels)),
    ):
        with warnings.catch_warnings():  # a gradient of nothing but rounding ends as 0/0
            warnings.filterwarnings("ignore", "gflow.descend diverged")
            both.append(
                gflow.descend(
                    model,
                    loss,
                    optimizer=optimizer,
                    learning_rate=NORMALISED,
                    steps=steps,
                    observables=watched,
                    save_every=max(steps // 500, 1),
                )
            )
    cosines = [np.cos(run.observables["angle"]) for run in both]
    report.add(
        f"{key}.normalised",
        1.0,
        float(cosines[0][-1]),
        1e-3,
        paper=PAPER,
        text=f"cosine to the solution after {steps} steps of normalised descent",
    )
    report.say(
        f"W_{leaf.upper()}: cosine {np.cos(flow.observables['angle'][-1]):.6f} along the flow at "
        f"t = {LATE:g}, {np.cos(descent.observables['angle'][-1]):.6f} by gradient descent at "
        f"t = {descent.t[-1]:g}, {cosines[0][-1]:.6f} by {steps} normalised steps; with softmax "
        f"and log_softmax as usual {np.max(cosines[1]):.6f} at most, {cosines[1][-1]:.6f} at last"
    )
    return Stage(leaf, goal, flow, descent, *both)
