"""The one call that integrates: convert, check, integrate, return a Trajectory."""

import enum
import math
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, PyTree

from .coordinates import LogCoordinates
from .flow import Decay, Flow, Objective, build_flow
from .integrate import Round, first_record, run_round, single_step
from .parameters import Constant, Hadamard, is_parameter
from .solvers import Rodas5P
from .trajectory import Resolver, Trajectory, log_alpha_of

_FOREVER = 1e30


class Status(enum.Enum):
    """How a run ended; the value is the message."""

    reached = "reached the requested time"
    converged = "converged: no weight moves or grows any more"
    max_steps = (
        "stopped at max_steps. Likely causes: (a) an explicit solver on a long plateau, (b) a "
        "tolerance near rounding, (c) no t1 and a loss without a minimum. Pass t1, a larger "
        "rtol or max_steps"
    )
    step_underflow = (
        "the step size shrank to nothing. Likely causes: (a) the loss is not differentiable or "
        "not finite here, (b) it is unbounded below and the weights blow up, (c) rtol is "
        "beyond float64"
    )
    overflow = (
        "the loss became NaN or infinite. Likely causes: (a) it is unbounded below and the "
        "weights blow up, (b) it is undefined where they went. What was recorded before is kept"
    )
    unresolved = (
        "dormant weights have sunk below the rounding of the active ones in the raw factors "
        "(u, v): later stage times would be noise. Use gflow.Hadamard leaves (log coordinates)"
    )
    interrupted = "interrupted by the user"


def simulate(
    model: PyTree,
    objective: Objective,
    *,
    t1: float | int | None = None,
    tau1: float | int | None = None,
    log_alpha: float | int | None = None,
    decay: Decay = 0.0,
    rtol: float = 1e-8,
    solver: diffrax.AbstractSolver | None = None,
    observables: Mapping[str, Callable[[Any], Any]] | None = None,
    save: ArrayLike | Sequence[float] | None = None,
    error_bars: bool = True,
    max_steps: int = 100_000,
    progress: bool = False,
    allow_float32: bool = False,
    allow_frozen_sign: bool = False,
) -> Trajectory:
    r"""Integrate the gradient flow dθ/dt = −∇L(θ) − λθ of a model's factors.

    **Arguments:**

    - `model`: any Equinox module. Hadamard leaves run in log coordinates, other inexact
      arrays as they are; `Frozen` leaves and integers stay. Leading batch axes are not
      meant: one model a call.
    - `objective`: model ↦ scalar loss, best an `eqx.Module` (a bare function works and
      compiles anew whenever it is another object).
    - `t1` or `tau1`: end, in flow time t or in τ = t/log(1/α). Neither: until nothing
      moves or grows any more.
    - `log_alpha`: natural logarithm of the initial scale, when the leaves do not know it.
    - `decay`: λ ≥ 0, λ(t), or {leaf name: λ or λ(t)}, for (λ/2)‖factors‖².
    - `rtol`: absolute error in log|weight| while dormant, relative error in the weight
      while active; for plain arrays relative to max(initial scale, |weight|).
    - `observables`: name ↦ function of the model (only `.value` of its parameters).
    - `save`: flow times to record besides every accepted step; those that a run stopped
      early does not reach are left out.
    - `error_bars`: repeat each accepted step as two halves and report the difference.

    **Returns:** a `Trajectory`; look at `.status`. A failed solve keeps what it has.

    **Raises:** ValueError for bad input, naming what was given and what to do.

    ```python
    traj = gflow.simulate(model, objective, tau1=6.0)
    traj.tau, traj.loss, traj.stages()
    ```
    """
    observables = dict(observables or {})
    flow = build_flow(
        model,
        objective,
        decay=decay,
        allow_float32=allow_float32,
        allow_frozen_sign=allow_frozen_sign,
    )
    _check_rtol(rtol, flow)
    solver = _choose_solver(flow, solver)
    scale, conflict = log_alpha_of(model, log_alpha)
    start = elapsed_time(model)
    end = _end_time(t1, tau1, start, scale, conflict)
    wanted = _save_times(save, start, end)
    if end is None and not all(isinstance(rate, Constant | None) for rate in flow.decay):
        raise ValueError(
            "decay depends on time, so that rest at one time is not rest for ever. Give t1 or tau1."
        )

    began = time.perf_counter()
    run = _Run(flow, solver, rtol, observables, start, end, error_bars)
    run.go(max_steps, progress)
    trajectory = Trajectory.from_records(
        model=model,
        t=np.array(run.times),
        records=run.records,
        refined=run.refined if error_bars else None,
        log_alpha=scale,
        log_alpha_conflict=conflict,
        status=run.status,
        method=_describe(flow, solver, rtol),
        statistics={
            "accepted": run.accepted,
            "rejected": run.rejected,
            "rounds": run.rounds,
            "seconds": time.perf_counter() - began,
        },
        resolver=Resolver(
            flow, lambda f, t, h: single_step(f, solver, _scalar(f, t), _scalar(f, h), observables)
        ),
    )
    if not trajectory.successful:
        warnings.warn(f"gflow.simulate {trajectory.status}.", stacklevel=2)
    return trajectory.with_times(wanted[wanted <= trajectory.t[-1]])


class _Run:
    """The loop over rounds: what is recorded, and when to stop."""

    def __init__(self, flow, solver, rtol, observables, start, end, error_bars):
        self.solver, self.observables, self.end = solver, observables, end
        self.flow, self.companion = flow, flow if error_bars else None
        atol, relative = flow.tolerance(rtol)
        dtype = flow.start().dtype
        self.tolerance = (jnp.asarray(atol, dtype), jnp.asarray(relative, dtype))
        self.status = Status.max_steps
        self.accepted = self.rejected = self.rounds = 0
        first = to_host(first_record(flow, observables, jnp.asarray(start, dtype)))
        self.times, self.records, self.refined = [start], [first], [first]
        self.initial_residual = float(first["residual"])
        if end is None and self.initial_residual == 0.0:
            raise ValueError(
                "The start is stationary (no force on any weight), so the run would end at "
                "once. Give t1 or tau1, or start away from the saddle."
            )
        speed = float(jnp.max(jnp.abs(_start_velocity(flow, jnp.asarray(start, dtype)))))
        self.step = 1e-3 / speed if speed > 0 else 1e-3

    def go(self, max_steps: int, progress: bool) -> None:
        try:
            while self.accepted + self.rejected < max_steps:
                if self._advance(progress):
                    return
        except KeyboardInterrupt:
            self.status = Status.interrupted

    def _advance(self, progress: bool) -> bool:
        offset = self.times[-1]
        span = _FOREVER if self.end is None else self.end - offset
        dtype = self.tolerance[0].dtype
        done: Round = run_round(
            self.flow,
            self.companion,
            self.solver,
            self.tolerance,
            jnp.asarray(offset, dtype),
            jnp.asarray(span, dtype),
            jnp.asarray(min(self.step, span), dtype),
            self.observables,
        )
        count = int(done.accepted)
        self.rounds += 1
        self.accepted += count
        self.rejected += int(done.rejected)
        self.step = float(done.next_step)
        if count == 0:
            self.status = Status.step_underflow
            return True
        local, record, refined = to_host((done.t, done.record, done.refined))
        finite = np.isfinite(record["loss"][:count])
        if not finite.all():
            count, self.status = int(np.argmin(finite)), Status.overflow
            if count == 0:
                return True
        resolved = record["resolved"][:count]
        if not resolved.all():
            count, self.status = max(int(np.argmin(resolved)), 1), Status.unresolved
        resting = record["residual"][:count] <= 1e-9 * self.initial_residual
        if self.end is None and resting.any() and self.status is Status.max_steps:
            count, self.status = int(np.argmax(resting)) + 1, Status.converged
        self.times.extend((offset + local[:count]).tolist())
        self.records.append(jax.tree.map(lambda x: x[:count], record))
        last = jax.tree.map(lambda x: x[count - 1], record)
        self.flow = _moved(self.flow, last)
        if refined is not None:
            self.refined.append(jax.tree.map(lambda x: x[:count], refined))
            self.companion = _moved(self.flow, jax.tree.map(lambda x: x[count - 1], refined))
        if progress:
            goal = "rest" if self.end is None else f"{self.end:.6g}"
            print(
                f"\rt = {self.times[-1]:.6g} of {goal}, {self.accepted} steps, "
                f"loss {float(last['loss']):.6g}",
                end="",
                file=sys.stderr,
                flush=True,
            )
        return self._finished(float(local[count - 1]), span)

    def _finished(self, reached: float, span: float) -> bool:
        if self.status is not Status.max_steps:
            return True
        if self.end is not None and (reached >= span or self.times[-1] >= self.end):
            self.times[-1] = self.end  # offset + span may be one rounding away from it
            self.status = Status.reached
        elif reached <= 1e-13 * self.times[-1]:  # a whole round within rounding of one time
            self.status = Status.step_underflow
        else:
            return False
        return True


@eqx.filter_jit
def _start_velocity(flow: Flow, t: Array) -> Array:
    return flow.velocity(t, flow.start())


def to_host(tree: Any) -> Any:
    return jax.tree.map(np.asarray, tree)


def _moved(flow: Flow, record: dict[str, Any]) -> Flow:
    leaves = jax.tree.map(jnp.asarray, record["leaves"])
    return flow.at(leaves)


def _scalar(flow: Flow, x: float) -> Array:
    return jnp.asarray(x, flow.start().dtype)


def _check_rtol(rtol: float, flow: Flow) -> None:
    eps = float(jnp.finfo(flow.start().dtype).eps)
    if not 64 * eps <= rtol < 1:
        raise ValueError(
            f"rtol = {rtol}: choose a number from {64 * eps:.1e} (64 roundings) to below 1."
        )


def _choose_solver(flow: Flow, solver: Any) -> diffrax.AbstractAdaptiveSolver:
    logarithmic = any(isinstance(c, LogCoordinates) for c in flow.coordinates)
    if solver is None:
        return Rodas5P() if logarithmic else diffrax.Tsit5()
    if not isinstance(solver, diffrax.AbstractAdaptiveSolver):
        raise ValueError(
            f"solver = {solver!r} has no error estimate. Pass an adaptive Diffrax solver "
            "(diffrax.Tsit5(), diffrax.Kvaerno5(), gflow.solvers.Rodas5P()) or None."
        )
    implicit = isinstance(solver, diffrax.AbstractImplicitSolver | Rodas5P)
    if implicit and not logarithmic:
        raise ValueError(
            f"{type(solver).__name__} on raw weights damps the escape from a saddle that it "
            "should follow, and reports success. Use gflow.Hadamard leaves (log coordinates), "
            "or an explicit method such as diffrax.Tsit5()."
        )
    return solver


def _describe(flow: Flow, solver: Any, rtol: float) -> str:
    kinds = sorted({type(c).__name__.removesuffix("Coordinates").lower() for c in flow.coordinates})
    return f"{type(solver).__name__} in {' and '.join(kinds)} coordinates, rtol={rtol:g}"


def elapsed_time(model: PyTree) -> float:
    leaves = jax.tree.leaves(model, is_leaf=is_parameter)
    times = {float(x.elapsed) for x in leaves if isinstance(x, Hadamard)}
    if len(times) > 1:
        raise ValueError(
            f"The Hadamard leaves have run for different times {sorted(times)}: they do not "
            "come from one trajectory. gflow.rescale(model, log_alpha) starts all anew."
        )
    return times.pop() if times else 0.0


def _end_time(t1, tau1, start: float, log_alpha: float, conflict: str) -> float | None:
    if t1 is not None and tau1 is not None:
        raise ValueError(f"Give t1 = {t1} or tau1 = {tau1}, not both.")
    if tau1 is not None:
        if not log_alpha < 0:
            raise ValueError(f"tau1 = {tau1} counts time in log(1/α), but {conflict}")
        t1 = float(tau1) * -log_alpha
    if t1 is None:
        return None
    t1 = float(t1)
    if not (math.isfinite(t1) and t1 > start):
        raise ValueError(
            f"The run would end at t1 = {t1}, but the model stands at t = {start}: the end must "
            "be finite and later. (A model from traj.final keeps the origin of its time.)"
        )
    return t1


def _save_times(save: Any, start: float, end: float | None) -> np.ndarray:
    times = np.asarray([] if save is None else save, float).ravel()
    outside = ~((times >= start) & (times <= (np.inf if end is None else end)))
    if outside.any() or not np.all(np.isfinite(times)):
        raise ValueError(
            f"save contains t = {times[outside | ~np.isfinite(times)][0]}, outside the run from "
            f"t = {start} to {'rest' if end is None else end}. (These are flow times t, not τ.)"
        )
    return times
