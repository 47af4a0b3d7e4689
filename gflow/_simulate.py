"""The one call that integrates: convert, check, integrate, return a Trajectory."""

import dataclasses
import time
import warnings
from collections.abc import Sequence
from typing import Any

import diffrax
import numpy as np
from jaxtyping import ArrayLike, PyTree

from ._alpha import log_alpha_or_none
from ._arguments import count
from .flow._build import (
    build_flow,
    traced_observables,
    with_schedule,
)
from .flow._decay import Decay
from .flow._driven import driven
from .flow._flow import (
    Flow,
    Objective,
)
from .flow._order import high_order, order_of
from .flow._prepare import prepare_times
from .flow._underflow import check_felt
from .integrate._binding import bindings, bound
from .integrate._choose import better_method, check_memory, check_rtol, choose, describe
from .integrate._climbing import Climbing
from .integrate._conditions import (
    Condition,
    check_unmet,
    conditions,
    resting_direction,
    with_readings,
)
from .integrate._outcome import trajectory_of
from .integrate._resting import Resting
from .integrate._round import BLOCK
from .integrate._run import ATTEMPTS, Rounds
from .integrate._status import Status, message
from .integrate._together import with_common_frames
from .kinks._choose import with_kinks
from .kinks._located import NotLocated
from .kinks._treatments import Rounded
from .parameters._base import to_factors, trained_leaves
from .results._trajectory import Trajectory
from .save import Save, wanted
from .stop import Ending
from .velocity import Velocity

#: How a run ends that does not get on.
_STALLED = (Status.max_steps, Status.step_underflow)


def simulate(
    model: PyTree,
    objective: Objective,
    *,
    t1: float | None = None,
    tau1: float | None = None,
    t0: float | None = None,
    log_alpha: float | None = None,
    alpha: float | None = None,
    log10_alpha: float | None = None,
    decay: Decay = 0.0,
    rtol: float = 1e-8,
    solver: diffrax.AbstractSolver | None = None,
    observables: Any = None,
    save: ArrayLike | Sequence[float] | Save | None = None,
    stop: Ending | Sequence[Ending] | None = None,
    error_bars: bool = True,
    max_steps: int = 100_000,
    progress: bool = False,
    allow_float32: bool = False,
    allow_frozen_sign: bool = False,
    kinks: str | None = None,
    velocity: Velocity | None = None,
) -> Trajectory:
    r"""Integrate the gradient flow dθ/dt = −∇L(θ) − λθ of a model's factors.

    **Arguments:**

    - `model`: any Equinox module. Hadamard leaves run in log coordinates, other inexact
      arrays as they are; `Frozen` leaves and integers stay. `Scaled` leaves with `units` are
      followed unit by unit, through all saddles of order three and more; every trained leaf then
      has units. Leading batch axes are not meant: one model a call.
    - `objective`: model ↦ scalar loss, an `eqx.Module` or any function. Arrays that it reads
      (its own, globals, NumPy's) are those of the moment of the call, and others of equal
      shape compile nothing; other numbers or settings compile anew.
    - `t1` or `tau1`: end, in flow time t or in τ = t/log(1/α), for units α^{D−2} t with D the
      order of the saddle they start near. Neither: until every weight rests on its own scale.
      A saddle ends such a run as what it is, without success. To a minimum at infinity it goes on
      until the directions of the weights rest (`gflow.stop.direction_rests`; `traj.heading`).
    - `t0`: flow time that the model stands at, the origin of t, τ and λ(t). A model handed out
      by a trajectory knows it (see `Trajectory.final`), any other stands at 0.
    - `log_alpha`: natural logarithm of the initial scale, when the leaves do not know it; in its
      place `log10_alpha`, the power of ten, or `alpha` itself.
    - `decay`: λ ≥ 0, λ(t), or {leaf name: λ or λ(t)}, for (λ/2)‖factors‖². Where λ(t) lives is
      found before the run, and no step passes over a pulse, a window or a jump of it.
    - `rtol`: absolute error in log|weight| while dormant, relative error in the weight
      while active; for plain arrays relative to max(initial scale, |weight|).
    - `observables`: name ↦ function of the model (only `.value` of its parameters).
    - `save`: flow times to record besides every accepted step; those that a run stopped
      early does not reach are left out. `gflow.save.observables(times)` keeps the weights of a
      few steps alone, for large models and many times.
    - `stop`: a condition of `gflow.stop`, or several: the run ends where the first is met.
    - `solver`: None (`traj.method` says which was taken) or an adaptive Diffrax solver. One
      that stability holds to small steps is run as asked, with advice in a warning; units are then
      plain weights.
    - `error_bars`: repeat each accepted step as two halves and report the difference.
    - `progress`: a bar of flow time on standard error, where a person sees it (on a terminal, under
      a cell).
    - `kinks`: None stops at every kink of the loss (ReLU, |w|, max) that the run meets and
      decides whether it crosses or slides along it; "smooth" rounds the kinks off, and a bar may
      then be too small where what the width and what the steps do cancel. A loss without kinks
      is not touched.
    - `velocity`: in place of the gradient flow, how the factors move (`gflow.velocity`): sign flow,
      momentum, a preconditioner of one's own. They are plain arrays then (`gflow.to_factors`), and
      kinks are rounded off.

    **Returns:** a `Trajectory`; look at `.status`. A failed solve keeps what it has.

    **Raises:** ValueError for bad input, naming what was given and what to do.

    ```python
    traj = gflow.simulate(model, objective, tau1=6.0)
    traj.tau, traj.loss, traj.stages()
    ```
    """
    log_alpha = log_alpha_or_none(log_alpha, alpha, log10_alpha)
    scaled, model = model, model if velocity is None else to_factors(model)
    flow = build_flow(
        model,
        objective,
        decay=decay,
        allow_float32=allow_float32,
        allow_frozen_sign=allow_frozen_sign,
    )
    flow = with_common_frames(flow, model, objective)
    wished = conditions(stop)
    max_steps = count("max_steps", max_steps, "the most steps tried")
    check_rtol(rtol, flow)
    asked = wanted(save)
    labels = bindings(trained_leaves(model))
    times = prepare_times(
        scaled, t0=t0, t1=t1, tau1=tau1, save=asked.times, log_alpha=log_alpha,
        order=order_of(flow, model),
    )  # fmt: skip
    in_units = bool(labels) and solver is None and velocity is None
    direction = resting_direction(stop, t1 is None and tau1 is None, in_units)
    if in_units:
        wished = wished if times.end is None else [*wished, Condition.at_times(times.end)]
    programs = traced_observables(with_readings(observables, wished), model, flow)
    kinks = "smooth" if in_units or velocity is not None else kinks
    flow, smooth, rounding = with_kinks(flow, trained_leaves(model), kinks, rtol)
    if velocity is not None:
        flow = driven(flow, velocity)
    if in_units:
        flow = bound(flow, labels, times.start)
    given, solver = solver, choose(flow, solver, rtol)
    flow = with_schedule(flow, times.start, times.end, rtol)

    began = time.perf_counter()

    def run_of(flow: Flow, solver: Any) -> Rounds:
        run = Rounds(
            flow,
            solver=solver,
            rtol=rtol,
            observables=programs,
            start=0.0 if in_units else times.start,
            end=None if in_units else times.end,
            error_bars=error_bars,
            watched=given is not None and isinstance(solver, diffrax.AbstractERK),
            conditions=wished,
            weights=asked.weights or in_units,
            lookout=Climbing(times.end) if in_units else Resting(direction),
            attempts=2 * BLOCK if in_units else ATTEMPTS,
        )
        check_unmet(wished, run.first)
        check_memory(run, flow, solver)
        check_felt(run)
        if times.end is None and run.stationary[0]:
            raise ValueError(
                "The start is stationary (no force on any weight), so the run would end at "
                "once. Give t1 or tau1, or start away from the saddle."
            )
        run.go(max_steps, progress)
        if run.status[0] in _STALLED and (why := high_order(run.flow(0))):
            run.cause[0] = why
        return run

    try:
        run = run_of(flow, solver)
    except NotLocated as reason:
        assert smooth is not None
        flow, rounding = dataclasses.replace(smooth, edges=flow.edges), f" ({reason})"
        solver = choose(flow, given, rtol)
        run = run_of(flow, solver)
    method = describe(flow, solver, rtol, run.counts)
    if isinstance(flow.kinks, Rounded):
        width = np.max(np.asarray(flow.kinks.width))
        method += f", kinks rounded off over {width:.1e}{rounding}"
    if velocity is not None:
        method += f", velocity {type(velocity).__name__}"
    trajectory = trajectory_of(run, 0, model, float(times.scale[0]), times.why, method, times.order)
    trajectory.statistics["seconds"] = time.perf_counter() - began
    if not trajectory.successful:
        why = message(trajectory.status, trajectory.cause)
        warnings.warn(f"gflow.simulate {why}.", stacklevel=2)
    if advice := better_method(flow, solver, rtol, run.reach):
        warnings.warn(f"gflow.simulate: {advice}", stacklevel=2)
    return trajectory.with_times(times.of(0, trajectory.t[-1]))
