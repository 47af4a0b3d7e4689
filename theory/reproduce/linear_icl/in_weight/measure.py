"""Linear self-attention on prompts of which a share has one task, as published, in flow time."""

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import gflow
from gflow.objectives import SharedTaskRegression
from theory import linear_icl as icl

from ... import Report
from .. import problem
from ..heads.measure import passing
from ..problem import CONTEXT, ZHANG
from ..settings import Settings
from ..training.measure import step_below

#: As tight as this for steps as close as a figure wants them.
RTOL = 1e-11
#: Steps of the paper, and the flow time by which all of it has come to rest.
STEPS, REST = 4001, 1e5
#: Of the first loss, by what it has fallen at the escape.
FALLEN = 0.01
#: The share of descent on sampled prompts, and how many.
TRAINED, PROMPTS = 0.4, 5000


class Ends(NamedTuple):
    """The loss and the two test losses."""

    loss: float
    in_context: float
    in_weight: float


class InWeight(NamedTuple):
    """By the share of prompts with a task of their own: the run, and losses at its end.

    Observables of a run: the two test losses. `ends`: where the quadratic form has its minimum.
    `escapes`: predicted. `descent`: as published, on sampled prompts.
    """

    runs: dict[float, gflow.Trajectory]
    ends: dict[float, Ends]
    escapes: dict[float, float]
    descent: gflow.Trajectory


class Fixed(eqx.Module):
    """A tensor T by itself."""

    entries: Float[Array, "D1 D1 D"]

    def tensor(self) -> Float[Array, "D1 D1 D"]:
        return self.entries


def tests() -> dict[str, SharedTaskRegression]:
    """Every prompt with its own task; and the shared task, of which the context tells nothing."""
    return {
        "in_context": problem.shared_task(0.0),
        "in_weight": problem.shared_task(1.0, shown=False),
    }


def in_weight(report: Report, settings: Settings) -> InWeight:
    """Escape times, and the three losses at rest, for every share; descent for one."""
    model, rate = problem.trained_blocks()
    runs, ends, escapes = {}, {}, {}
    for own in settings.own_tasks:
        objective = problem.shared_task(1.0 - own, shown=own > 0.0)
        known = icl.shared_task(objective)
        run = gflow.simulate(model, objective, t1=rate * STEPS, rtol=RTOL, observables=tests())
        escapes[own] = escape(report, own, run, known, objective)
        ends[own] = rest(report, own, run, known, objective)
        runs[own] = run
    return InWeight(runs, ends, escapes, descent(report, runs[TRAINED], model, rate))


def escape(
    report: Report, own: float, run: gflow.Trajectory, known: icl.SharedTask,
    objective: SharedTaskRegression,
) -> float:  # fmt: skip
    r"""When the loss has fallen by `FALLEN`: the fastest mode alone, up to its own saturation.

    With v = a u, U = a r summed over heads, a² = ‖g‖² e^{2σt} in the drop σa² − ½γa⁴, and
    (a²)' = 2a²(σ − γa²), γ = ⟨T, GT⟩ of T = u ⊗ r.
    """
    value, key_query = (np.asarray(leaf.value) for leaf in (run.like.value, run.like.key_query))
    v, u = value[:, -1], key_query[:, :, :-1]
    sizes = np.array([
        float(np.sum((0.5 * (v @ a + np.einsum("hbc,bc->h", u, b))) ** 2))
        for a, b in zip(known.value, known.key_query, strict=True)
    ])  # fmt: skip
    sigma = float(known.rates[0])
    mode = np.einsum("a,bc->abc", known.value[0], known.key_query[0]).ravel()
    gamma = float(mode @ np.asarray(objective.second) @ mode)
    drop = FALLEN * float(run.loss[0])
    # σz − ½γz² = drop, and z/(1 − γz/σ) grows as e^{2σt}
    z = (sigma - math.sqrt(sigma**2 - 2.0 * gamma * drop)) / gamma
    expected = math.log(z / (1.0 - gamma * z / sigma) / sizes[0]) / (2.0 * sigma)
    others = float(np.sum(sizes[1:] * np.exp(2.0 * known.rates[1:] * expected)))
    relative = others / z + (gamma * z / sigma) ** 2
    measured, bar = passing(run, float(run.loss[0]) - drop)
    report.add(
        f"in-weight.own{own:g}.escape", expected, measured, relative / (2.0 * sigma), bar, unit="t",
        paper=ZHANG,
        text=f"time at which the loss has fallen by {FALLEN:.0%}, {own:.0%} of the prompts with a "
        f"task of their own: the fastest mode, of rate {sigma:.4g}",
    )  # fmt: skip
    return expected


def rest(
    report: Report, own: float, run: gflow.Trajectory, known: icl.SharedTask,
    objective: SharedTaskRegression,
) -> Ends:  # fmt: skip
    """The loss comes to the minimum of its quadratic form, and so do the two test losses."""
    later = gflow.simulate(
        run.final, objective, t1=REST, rtol=1e-7, observables=tests(), error_bars=False
    )
    fixed = Fixed(jnp.asarray(known.tensor))
    predicted = Ends(0.5 * known.loss, *(float(one(fixed)) for one in tests().values()))
    for name, value in predicted._asdict().items():
        measured, published = (
            x.loss[-1] if name == "loss" else x.observables[name][-1] for x in (later, run)
        )
        words = "loss" if name == "loss" else f"{name.replace('_', '-')} test loss"
        report.add(
            f"in-weight.own{own:g}.{name.replace('_', '-')}", value, float(measured), 1e-5 * value,
            paper=ZHANG,
            text=f"{words} at rest, {own:.0%} of the prompts with a task of their own: the minimum "
            f"of a quadratic form; {float(published):.4g} after the {STEPS} published steps",
        )  # fmt: skip
    return predicted


def descent(report: Report, flow: gflow.Trajectory, model, rate: float) -> gflow.Trajectory:
    """Gradient descent as published, on a sample of prompts: half-way beside the flow of all."""
    task = gflow.tasks.in_context_regression(
        np.full(4, 0.25), CONTEXT, prompts=PROMPTS, key=jax.random.key(7),
        task=problem.one_task(), share=1.0 - TRAINED,
    )  # fmt: skip
    objective, features = of_sample(task)
    run = gflow.descend(
        model, objective, learning_rate=rate, steps=STEPS, save_every=20, observables=tests()
    )
    middle = 0.5 * float(flow.loss[0])
    expected, measured = passing(flow, middle)[0], step_below(run, middle)
    known = icl.shared_task(problem.shared_task(1.0 - TRAINED))
    mode = np.einsum("a,bc->abc", known.value[0], known.key_query[0]).ravel()
    along = np.asarray(task.targets) * (features @ mode)
    error, sigma = float(np.std(along, ddof=1)) / math.sqrt(PROMPTS), float(known.rates[0])
    report.add(
        f"in-weight.own{TRAINED:g}.descent", expected / rate, measured / rate,
        (3.0 * error / sigma + 0.5 * rate * sigma) * expected / rate, 1.0, unit="steps",
        paper=ZHANG,
        text=f"step at which the loss on {PROMPTS} prompts is half of the first, by the flow over "
        "all prompts (3 standard errors of the rate, and growth by 1 + ηr in place of e^{ηr})",
    )  # fmt: skip
    return run


def of_sample(task: gflow.tasks.InContextPrompts) -> tuple[SharedTaskRegression, np.ndarray]:
    """The loss on sampled prompts by their moments, exactly, and S ⊗ x_q of each, (prompts, ·)."""
    tokens, target = np.asarray(task.inputs), np.asarray(task.targets)
    square = np.einsum("pna,pnb->pab", tokens, tokens) / CONTEXT
    features = np.einsum("pab,pc->pabc", square, tokens[:, -1, :-1]).reshape(len(target), -1)
    population: Any = task.population
    moments = (
        (target @ features).reshape(population.force.shape), features.T @ features, target @ target
    )  # fmt: skip
    found = eqx.tree_at(
        lambda x: (x.force, x.second, x.top),
        population,
        tuple(jnp.asarray(x / len(target)) for x in moments),
    )
    return found, features
