"""The one call that integrates: convert, check, integrate, return a Trajectory."""

import dataclasses
import math
import time
import warnings
from collections.abc import Sequence
from typing import Any

import diffrax
import jax
import numpy as np
from jaxtyping import ArrayLike, PyTree

from ._arguments import count, number
from .flow._flow import Decay, Flow, Objective, build_flow, traced_observables, with_schedule
from .flow._underflow import check_felt
from .integrate._choose import better_method, check_memory, check_rtol, choose, describe
from .integrate._conditions import check_unmet, conditions, ended_at, with_readings
from .integrate._run import Rounds
from .integrate._sinking import first_lost
from .integrate._status import Ended, Status, message
from .kinks._choose import with_kinks
from .kinks._located import NotLocated
from .kinks._treatments import Rounded
from .parameters._base import known_times, trained_leaves
from .parameters._elapsed import agreed
from .results._resolver import Resolver
from .results._risen import first_risen
from .results._trajectory import Trajectory, log_alpha_of
from .stop import Stop


def simulate(
    model: PyTree,
    objective: Objective,
    *,
    t1: float | None = None,
    tau1: float | None = None,
    t0: float | None = None,
    log_alpha: float | None = None,
    decay: Decay = 0.0,
    rtol: float = 1e-8,
    solver: diffrax.AbstractSolver | None = None,
    observables: Any = None,
    save: ArrayLike | Sequence[float] | None = None,
    stop: Stop | Sequence[Stop] | None = None,
    error_bars: bool = True,
    max_steps: int = 100_000,
    progress: bool = False,
    allow_float32: bool = False,
    allow_frozen_sign: bool = False,
    kinks: str | None = None,
) -> Trajectory:
    r"""Integrate the gradient flow dθ/dt = −∇L(θ) − λθ of a model's factors.

    **Arguments:**

    - `model`: any Equinox module. Hadamard leaves run in log coordinates, other inexact
      arrays as they are; `Frozen` leaves and integers stay. Leading batch axes are not
      meant: one model a call.
    - `objective`: model ↦ scalar loss, an `eqx.Module` or any function. Arrays that it reads
      (its own, globals, NumPy's) are those of the moment of the call, and others of equal
      shape compile nothing; other numbers or settings compile anew.
    - `t1` or `tau1`: end, in flow time t or in τ = t/log(1/α). Neither: until every weight
      rests on its own scale. A saddle, and a minimum at infinity, end such a run
      as what they are, without success.
    - `t0`: flow time that the model stands at, the origin of t, τ and λ(t). A model handed out
      by a trajectory knows it (see `Trajectory.final`), any other stands at 0.
    - `log_alpha`: natural logarithm of the initial scale, when the leaves do not know it.
    - `decay`: λ ≥ 0, λ(t), or {leaf name: λ or λ(t)}, for (λ/2)‖factors‖². Where λ(t) lives is
      found before the run, and no step passes over a pulse, a window or a jump of it.
    - `rtol`: absolute error in log|weight| while dormant, relative error in the weight
      while active; for plain arrays relative to max(initial scale, |weight|).
    - `observables`: name ↦ function of the model (only `.value` of its parameters).
    - `save`: flow times to record besides every accepted step; those that a run stopped
      early does not reach are left out.
    - `stop`: a condition of `gflow.stop`, or several: the run ends where the first is met.
    - `solver`: None (`traj.method` says which was taken) or an adaptive Diffrax solver. One
      that stability holds to small steps is run as asked, with advice in a warning.
    - `error_bars`: repeat each accepted step as two halves and report the difference.
    - `kinks`: None stops at every kink of the loss (ReLU, |w|, max) that the run meets and
      decides whether it crosses or slides along it; "smooth" rounds the kinks off, and a bar may
      then be too small where what the width and what the steps do cancel. A loss without kinks
      is not touched.

    **Returns:** a `Trajectory`; look at `.status`. A failed solve keeps what it has.

    **Raises:** ValueError for bad input, naming what was given and what to do.

    ```python
    traj = gflow.simulate(model, objective, tau1=6.0)
    traj.tau, traj.loss, traj.stages()
    ```
    """
    flow = build_flow(
        model,
        objective,
        decay=decay,
        allow_float32=allow_float32,
        allow_frozen_sign=allow_frozen_sign,
    )
    wished = conditions(stop)
    programs = traced_observables(with_readings(observables, wished), model, flow)
    max_steps = count("max_steps", max_steps, "the most steps tried")
    check_rtol(rtol, flow)
    flow, smooth, rounding = with_kinks(flow, trained_leaves(model), kinks, rtol)
    given, solver = solver, choose(flow, solver, rtol)
    scale, conflict = log_alpha_of(model, log_alpha)
    start = elapsed_time(model, _start_time(t0))
    end = _end_time(t1, tau1, start, scale, conflict)
    wanted = save_times(save, start, end)
    flow = with_schedule(flow, start, end, rtol)

    began = time.perf_counter()

    def run_of(flow: Flow, solver: Any) -> Rounds:
        run = Rounds(
            flow,
            solver=solver,
            rtol=rtol,
            observables=programs,
            start=start,
            end=None if end is None else [end],
            error_bars=error_bars,
            watched=given is not None and isinstance(solver, diffrax.AbstractERK),
            conditions=wished,
        )
        check_unmet(wished, run.first)
        check_memory(run, flow, solver)
        check_felt(run)
        if end is None and run.stationary[0]:
            raise ValueError(
                "The start is stationary (no force on any weight), so the run would end at "
                "once. Give t1 or tau1, or start away from the saddle."
            )
        run.go(max_steps, progress)
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
    trajectory = trajectory_of(run, 0, model, scale, conflict, method)
    trajectory.statistics["seconds"] = time.perf_counter() - began
    if not trajectory.successful:
        why = message(trajectory.status, trajectory.cause)
        warnings.warn(f"gflow.simulate {why}.", stacklevel=2)
    if advice := better_method(flow, solver, rtol, run.reach):
        warnings.warn(f"gflow.simulate: {advice}", stacklevel=2)
    return trajectory.with_times(wanted[wanted <= trajectory.t[-1]])


def trajectory_of(
    run: Rounds, i: int, model: PyTree, log_alpha: float, conflict: str, method: str
) -> Trajectory:
    """The trajectory of member `i`, which started as `model`."""
    times, records, refined = run.member(i)
    status, flow = run.ended(i), run.flow(i)
    kept = min(x.chart.steps_on_branch(x) for x in records["leaves"].values())
    lost = first_lost(flow, times, records, run.rtol)
    if lost is not None:
        kept = min(kept, lost + 1)
    statistics = {"accepted": int(run.accepted[i]), "rejected": int(run.rejected[i])}
    statistics["rounds"] = run.rounds
    if run.course is not None:
        statistics |= {"kinks_met": run.course.events, "kinks_slid_on": run.course.slides}
    statistics |= {name: int(count[i]) for name, count in run.counts.items()}
    segments = None if run.course is None else run.course.segments

    def up_to(rows: int, status: Ended) -> Trajectory:
        main, second = jax.tree.map(lambda x: x[:rows], (records, refined))
        return Trajectory.from_records(
            model=model,
            t=times[:rows],
            records=main,
            refined=second,
            log_alpha=log_alpha,
            log_alpha_conflict=conflict,
            status=status.status,
            cause=status.cause,
            method=method,
            statistics=statistics,
            resolver=Resolver(
                flow, run.solver, run.rtol, run.observables, float(run.rest[i]), segments
            ),
        )

    found = up_to(kept, status if kept == len(times) else Ended(Status.unresolved))
    if found.status is Status.stopped:
        found = ended_at(found, run.conditions)
    risen = first_risen(found, run.rtol) if run.autonomous else None
    return found if risen is None else up_to(risen + 1, Ended(Status.risen))


def elapsed_time(model: PyTree, given: float | None = None) -> float:
    """The flow time that all leaves of a model stand at, or the one `given` as t0."""
    leaves = trained_leaves(model).values()
    return agreed(set().union(*(known_times(leaf) for leaf in leaves)), given)


def _start_time(t0: Any) -> float | None:
    if t0 is None:
        return None
    start = number("t0", t0, "the flow time that the model stands at")
    if not math.isfinite(start):
        raise ValueError(f"t0 = {t0}: the flow time that the model stands at must be finite.")
    return start


def _end_time(t1, tau1, start: float, log_alpha: float, conflict: str) -> float | None:
    if t1 is not None and tau1 is not None:
        raise ValueError(f"Give t1 = {t1} or tau1 = {tau1}, not both.")
    if tau1 is not None:
        if not log_alpha < 0:
            raise ValueError(f"tau1 = {tau1} counts time in log(1/α), but {conflict}")
        t1 = number("tau1", tau1, "the end of the run in log(1/α)") * -log_alpha
    if t1 is None:
        return None
    t1 = number("t1", t1, "the end of the run in flow time")
    if not (math.isfinite(t1) and t1 > start):
        raise ValueError(
            f"The run would end at t1 = {t1}, but the model stands at t = {start}: the end must "
            "be finite and later. (A model from traj.final keeps the origin of its time; t0=0.0 "
            "sets it to zero.)"
        )
    return t1


def save_times(save: Any, start: float, end: float | None) -> np.ndarray:
    try:
        times = np.asarray([] if save is None else save, float).ravel()
    except (TypeError, ValueError):
        raise ValueError(f"save = {save!r} is no array of flow times t.") from None
    outside = ~((times >= start) & (times <= (np.inf if end is None else end)))
    if outside.any() or not np.all(np.isfinite(times)):
        raise ValueError(
            f"save contains t = {times[outside | ~np.isfinite(times)][0]}, outside the run from "
            f"t = {start} to {'rest' if end is None else end}. (These are flow times t, not τ.)"
        )
    return times
