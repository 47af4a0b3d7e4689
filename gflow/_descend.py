"""Discrete training on the same time axis: gradient descent, minibatches, Optax."""

import dataclasses
import math
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optax
from jaxtyping import PyTree

from ._alpha import log_alpha_or_none
from ._arguments import count, instance
from .flow._build import traced_observables
from .flow._callables import check_objective
from .flow._decay import Decay
from .flow._flow import Objective
from .flow._order import order_of
from .flow._prepare import log_alpha_of
from .parameters._base import is_parameter, to_factors, trained_leaves
from .programs._closure import check_untraced
from .results._resolver import joined
from .results._trajectory import Trajectory
from .training._checkpoints import digest, in_parts
from .training._loop import Run
from .training._memory import Training
from .training._prepare import Request, gradient_descent, optax_rule
from .training._rates import LearningRate
from .training._samples import Batch

_UNKNOWN = (
    "the learning rate inside the optimizer is not known, so that t counts steps. Pass it to "
    "descend as learning_rate=, a number or a schedule, beside optimizer=, or make the optimizer "
    "with optax.inject_hyperparams(optax.adam)(learning_rate=...), for t = Σ η."
)
_SEVERAL = (
    "the leaves have learning rates of their own, so that t counts steps. With one rate for all of "
    "them t = Σ η."
)


def descend(
    model: PyTree,
    objective: Objective,
    *,
    learning_rate: LearningRate = None,
    optimizer: Any = None,
    steps: int,
    batch: Batch | None = None,
    key: Any = None,
    decay: Decay = 0.0,
    log_alpha: float | None = None,
    alpha: float | None = None,
    log10_alpha: float | None = None,
    observables: Any = None,
    save_every: int | None = None,
    resume: Any = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int | None = None,
    progress: bool = False,
    allow_float32: bool = False,
    allow_frozen_sign: bool = False,
) -> Trajectory:
    r"""Train in discrete steps: gradient descent as exact as the flow, or any Optax optimiser.

    With `learning_rate=η` each factor takes the step −η(∇L + λ·factor). In the coordinates
    s = u + v, d = u − v of a Hadamard leaf, with g = −∂L/∂θ, that is

        s⁺ = (1 − ηλ + ηg) s,    d⁺ = (1 − ηλ − ηg) d,

    and for the columns Z = [A; B] of a Factored one, with G = −∂L/∂W,

        Z⁺ = (1 − ηλ) Z + η [[0, G], [Gᵀ, 0]] Z.

    Both are held as logarithms (and signs, or directions), hence exact at any α. u² − v² is not
    conserved: c⁺ = ((1 − ηλ)² − η²g²) c. Time is t = Σ η, in the units of the flow.

    **Arguments:**

    - `model`, `objective`, `decay`, `observables`, `log_alpha` (or `log10_alpha`, or `alpha`): as
      in `gflow.simulate`.
    - `learning_rate`: η of gradient descent: a number, a schedule (a function of the step, such
      as Optax has), or {leaf name: number or schedule} for every leaf.
    - `optimizer`: an Optax transformation. It trains `gflow.to_factors(model)`. Where its
      learning rate is seen (that of Optax's own optimisers, and what `inject_hyperparams` tells)
      t = Σ η; else `learning_rate=`, a number or a schedule, says what η the axis has, or t
      counts steps and there is no τ. Weight decay belongs into the optimiser.
    - `steps`: number of steps. Neither it nor η, `key` or a constant `decay` recompiles.
    - `batch`, `key`: a number draws so many examples for each step, without replacement, from the
      leading axis of `objective.inputs` and `objective.targets` (or `.labels`); the gradient
      is an unbiased estimate of that of `objective`. A sampler is a function
      (objective, key, step) ↦ the objective of that step, with a key of its own for every step;
      arrays that it reads are data, those of the moment of the call. The recorded loss is that
      of `objective`.
    - `save_every`: steps between records; by default such that there are at most 2000.
    - `resume`: a trajectory of `descend`, to go on from its end with the memory of the optimiser,
      the steps of schedules and minibatches, and the time: bit for bit as if it had not
      stopped, after `save` and `load` too. `model` is then `resume.final`.
    - `checkpoint`: a path (NetCDF) at which the run is as far as it has come, written whole after
      every `checkpoint_every` steps (by default a tenth of them). Where the file is there the run
      goes on from it: after a kill the same call gives the uninterrupted run, bit for bit. A run
      that diverges leaves the file of its last good step.
    - `progress`: a bar of the steps, with the loss, on standard error where a person sees it (on a
      terminal, under a cell).

    **Returns:** a `Trajectory` without error bars; `.final` has the signs of s and d.
    When the loss leaves the floats it ends at the last step before that, with a warning and the
    reason in `.status`.

    **Raises:** ValueError for bad input, naming what was given and what to do.

    **Source:** minibatch noise in these coordinates: Pesme et al. 2021 (2106.09524).

    ```python
    gflow.descend(model, objective, learning_rate=1e-2, steps=20_000)
    traj = gflow.descend(model, objective, optimizer=optax.adamw(1e-3), steps=20_000)
    gflow.descend(traj.final, objective, optimizer=optax.adamw(1e-3), steps=5_000, resume=traj)
    ```
    """
    log_alpha = log_alpha_or_none(log_alpha, alpha, log10_alpha)
    check_untraced(model=model, objective=objective)
    check_objective(objective)
    _check_rule(learning_rate, optimizer, decay)
    steps, save_every = _check_steps(steps, save_every)
    if checkpoint is not None:
        if resume is not None:
            raise ValueError(
                "resume= starts from a run at hand and checkpoint= from the file at its path: give "
                "one of the two."
            )
        every = math.ceil(steps / 10) if checkpoint_every is None else checkpoint_every
        every = count("checkpoint_every", every, "the steps from one writing to the next")
        every = save_every * math.ceil(every / save_every)

        def part(model: PyTree, steps: int, before: Trajectory | None) -> Trajectory:
            return descend(
                model, objective, learning_rate=learning_rate, optimizer=optimizer, steps=steps,
                batch=batch, key=key, decay=decay, log_alpha=log_alpha, observables=observables,
                save_every=save_every, resume=before, progress=progress,
                allow_float32=allow_float32, allow_frozen_sign=allow_frozen_sign,
            )  # fmt: skip

        trained = model if optimizer is None else to_factors(model)
        settings = digest(learning_rate, batch, key, decay)
        return in_parts(part, trained, steps, every, Path(checkpoint), settings)
    if checkpoint_every is not None:
        raise ValueError("checkpoint_every= says how often checkpoint= is written: give its path.")
    scale, conflict = log_alpha_of(model, log_alpha)
    checks = dict(allow_float32=allow_float32, allow_frozen_sign=allow_frozen_sign)
    before = None if resume is None else _memory(resume, model)
    request = Request(model, objective, steps, batch, key, before, checks)
    if optimizer is None:
        made = gradient_descent(request, learning_rate, decay)
    else:
        made = optax_rule(request, optimizer, learning_rate)
    programs = traced_observables(observables, made.model, made.flow)

    began = time.perf_counter()
    run = Run(made.steps(programs), made.place, request.first, steps, save_every)
    run.go(progress)
    times = np.concatenate(run.times)
    trajectory = Trajectory.from_records(
        model=made.model,
        t=times,
        records=joined(run.records),
        refined=None,
        log_alpha=scale,
        log_alpha_conflict=conflict,
        order=order_of(made.flow, made.model),
        status=run.status,
        method=made.method,
        statistics={
            "steps": run.made - run.first,
            "save_every": save_every,
            "seconds": time.perf_counter() - began,
        },
        resolver=None,
        training=made.handed_on(run.place, run.made, float(times[-1])),
    )
    if not made.rule.axis.known:
        trajectory = dataclasses.replace(
            trajectory,
            counts_steps=True,
            log_alpha=math.nan,
            log_alpha_conflict=_SEVERAL if optimizer is None else _UNKNOWN,
        )
    if not trajectory.successful:
        warnings.warn(f"gflow.descend {trajectory.status}.", stacklevel=2)
    return trajectory


def _check_rule(learning_rate: Any, optimizer: Any, decay: Decay) -> None:
    if optimizer is None:
        if learning_rate is None:
            raise ValueError(
                "Give learning_rate=η (gradient descent) or optimizer= (Optax); got neither."
            )
        return
    if not isinstance(optimizer, optax.GradientTransformation):
        raise ValueError(
            f"optimizer = {optimizer!r} is no Optax transformation. Pass for example "
            "optax.adam(1e-3), or learning_rate= for plain gradient descent."
        )
    if isinstance(learning_rate, Mapping):
        raise ValueError(
            "learning_rate by leaf is for gradient descent. With an optimizer put the rates there "
            "(optax.multi_transform), and pass one number or schedule for the time axis, if any."
        )
    if isinstance(decay, Mapping) or callable(decay) or decay != 0.0:
        raise ValueError(
            f"decay = {decay!r} belongs to learning_rate=. With an optimizer put it there: "
            "optax.chain(optax.add_decayed_weights(λ), optax.sgd(η)), or optax.adamw."
        )


def _check_steps(steps: int, save_every: int | None) -> tuple[int, int]:
    steps = count("steps", steps, "the number of steps")
    if save_every is None:
        return steps, math.ceil(steps / 2000)
    return steps, count("save_every", save_every, "the steps from one record to the next")


def _memory(resume: Any, model: PyTree) -> Training:
    """**Raises:** ValueError for what `descend` has not made, and for another model."""
    resume = instance("resume", resume, Trajectory, "the result of gflow.descend to go on from")
    if resume.training is None:
        raise ValueError(
            "resume= goes on with a run of gflow.descend, and this trajectory is none. Pass its "
            ".final as the model, without resume=."
        )
    leaves = trained_leaves(model)
    if set(leaves) != set(resume.leaves):
        raise ValueError(
            f"The model trains {sorted(leaves)} and the run in resume= {sorted(resume.leaves)}. "
            "Pass resume.final as the model."
        )
    for name, leaf in leaves.items():
        value = np.asarray(leaf.value if is_parameter(leaf) else leaf)
        recorded = resume.leaves[name]["value"]
        ends = [x for x in (recorded[0], recorded[-1]) if x.shape == value.shape]
        if not any(np.allclose(value, x, rtol=1e-6, atol=1e-9) for x in ends):
            raise ValueError(
                f"Leaf {name!r} of the model is neither where the run in resume= ended nor where "
                "it began. Pass resume.final; for other weights start without resume=."
            )
    return resume.training
