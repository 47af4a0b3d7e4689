"""Many runs in one compiled call: seeds, scales, targets or decays, each at its own steps."""

import time
import warnings
from collections.abc import Sequence
from typing import Any

import diffrax
import jax
import numpy as np
from jaxtyping import ArrayLike, PyTree

from ._alpha import log_alpha_or_none
from ._arguments import count
from ._stacking import member, stacked
from .flow._build import (
    build_flow,
    traced_observables,
    with_schedule,
)
from .flow._callables import check_objective
from .flow._decay import BatchDecay
from .flow._flow import Objective
from .flow._order import order_of
from .flow._prepare import log_alpha_of, prepare_times
from .flow._underflow import check_felt
from .integrate._binding import bindings, bound
from .integrate._choose import check_memory, check_rtol, choose, describe
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
from .integrate._run import Rounds
from .integrate._status import message
from .integrate._together import with_common_frames
from .kinks._choose import rounded_batch
from .parameters._base import trained_leaves
from .programs._closure import check_untraced
from .results._batch import Batch
from .results._trajectory import Trajectory
from .save import Save, wanted
from .stop import Ending

#: Members that advance together: on a CPU as many as stay in its caches.
WIDTH_CPU, WIDTH_ACCELERATOR = 256, 65_536


def simulate_batch(
    model: PyTree,
    objective: Objective,
    *,
    in_axes: tuple[int | None, int | None] = (0, None),
    t1: ArrayLike | Sequence[float] | None = None,
    tau1: ArrayLike | Sequence[float] | None = None,
    t0: ArrayLike | Sequence[float] | None = None,
    log_alpha: float | None = None,
    alpha: float | None = None,
    log10_alpha: float | None = None,
    decay: BatchDecay = 0.0,
    rtol: float = 1e-8,
    solver: diffrax.AbstractSolver | None = None,
    observables: Any = None,
    save: ArrayLike | Sequence[float] | Save | None = None,
    stop: Ending | Sequence[Ending] | None = None,
    error_bars: bool = True,
    max_steps: int = 100_000,
    width: int | None = None,
    progress: bool = False,
    allow_float32: bool = False,
    allow_frozen_sign: bool = False,
) -> Batch:
    r"""Integrate the gradient flows of many models, or of one under many objectives.

    Every member takes its own steps; those that have ended leave between two rounds, so
    that one hard member does not hold up the others, and one that fails fails alone.

    **Arguments:** as for `simulate`, and

    - `model`, `objective`: with `in_axes` 0 stacked along a leading axis of all arrays (by
      `eqx.filter_vmap` of the function that makes one, or by `jax.tree.map(jnp.stack)`);
      with None shared by all members.
    - `t1`, `tau1`, `t0`: one for all, or one for each member. Stacking makes new arrays, so that
      plain leaves of runs to be continued need their `t0`.
    - `decay`: as for `simulate`; a number may be an array, one λ for each member.
    - `save`: flow times for all members; they are recorded where a member reaches them.
    - `stop`: conditions of `gflow.stop` for all members; each ends where it meets the first.
    - `width`: how many members advance at once (on a CPU 256).
    - `progress`: a bar of the members that have ended.

    Kinks of the loss are rounded off (`kinks="smooth"` of `simulate`).

    **Returns:** a `Batch`, a sequence of `Trajectory`.

    **Raises:** ValueError for bad input, naming the leaf. A member that fails does not
    raise: it is reported in a warning, in `status` and in `failed`.

    ```python
    make = lambda key: DiagonalLinear(gflow.Hadamard.small(10, log_alpha=-37.0, key=key))
    models = eqx.filter_vmap(make)(jax.random.split(jax.random.key(0), 256))
    batch = gflow.simulate_batch(models, objective, tau1=4.0)
    [stages[0].tau for stages in batch.stages()]
    ```
    """
    log_alpha = log_alpha_or_none(log_alpha, alpha, log10_alpha)
    check_untraced(model=model, objective=objective)
    check_objective(objective)
    single = model if in_axes[0] is None else None
    model, members = stacked(model, objective, in_axes)
    shared = in_axes[1] is None
    flow = build_flow(
        model,
        objective,
        decay=decay,
        allow_float32=allow_float32,
        allow_frozen_sign=allow_frozen_sign,
        members=members,
        shared=shared,
    )
    flow = with_common_frames(flow, model, objective, members, shared)
    wished = conditions(stop)
    programs = traced_observables(with_readings(observables, wished), model, flow, members)
    max_steps = count("max_steps", max_steps, "the most steps of a member that are tried")
    check_rtol(rtol, flow)
    flow = rounded_batch(flow, shared, rtol)
    labels = bindings(trained_leaves(model))
    in_units = bool(labels) and solver is None
    direction = resting_direction(stop, t1 is None and tau1 is None, in_units)
    asked = wanted(save)
    times = prepare_times(
        model, t0=t0, t1=t1, tau1=tau1, save=asked.times, log_alpha=log_alpha, members=members,
        order=_order(model, objective, in_axes), single=single,
    )  # fmt: skip
    if in_units:
        flow = bound(flow, labels, times.start, members, shared)
        wished = wished if times.end is None else [*wished, Condition.at_times(times.end)]
    solver = choose(flow, solver, rtol, members)
    if width is None:
        width = WIDTH_CPU if jax.default_backend() == "cpu" else WIDTH_ACCELERATOR
    if width < 1:
        raise ValueError(f"width = {width}: at least one member has to advance.")
    width = min(width, members)
    flow = with_schedule(flow, times.start, times.end, rtol)

    began = time.perf_counter()
    run = Rounds(
        flow,
        solver=solver,
        rtol=rtol,
        observables=programs,
        start=0.0 if in_units else times.start,
        end=None if in_units else times.end,
        error_bars=error_bars,
        members=members,
        shared=shared,
        width=width,
        conditions=wished,
        weights=asked.weights or in_units,
        lookout=Climbing(times.end) if in_units else Resting(direction),
    )
    check_unmet(wished, run.first)
    check_memory(run, flow, solver)
    check_felt(run)
    still = np.flatnonzero(run.stationary)
    if times.end is None and still.size:
        raise ValueError(f"Members {still.tolist()[:8]} start at rest. Give t1 or tau1.")
    run.go(max_steps, progress)
    statistics = {
        "accepted": int(run.accepted.sum()),
        "rejected": int(run.rejected.sum()),
        "rounds": run.rounds,
        "useful_work": run.tried / max(run.room, 1),
        "seconds": time.perf_counter() - began,
        "method": describe(flow, solver, rtol, run.counts),
    }

    def member_of(i: int) -> Trajectory:
        own = member(model, i)
        scale, conflict = log_alpha_of(own, log_alpha)
        method = statistics["method"]
        trajectory = trajectory_of(run, i, own, scale, conflict, method, times.order)
        return trajectory.with_times(times.of(i, trajectory.t[-1]))

    batch = Batch(run.status, member_of, statistics)
    if batch.failed:
        listed = "; ".join(f"member {i}: {message(*run.ended(i))}" for i in batch.failed[:3])
        more = "" if len(batch.failed) <= 3 else f"; and {len(batch.failed) - 3} more"
        warnings.warn(
            f"gflow.simulate_batch: {len(batch.failed)} of {members} members failed: "
            f"{listed}{more}.",
            stacklevel=2,
        )
    return batch


def _order(models: PyTree, objective: Objective, in_axes: tuple[int | None, int | None]) -> int:
    """Of the saddle that the members start near, by the first of them."""
    own = objective if in_axes[1] is None else member(objective, 0)
    first = member(models, 0)
    if not bindings(trained_leaves(first)):
        return 2
    return order_of(build_flow(first, own), first)
