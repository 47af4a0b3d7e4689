"""One round of integration: a bounded number of steps, and what is recorded of them.

One compiled function advances the flow, or a batch of flows, by at most `attempts` steps and
hands back what was recorded. Memory, progress, partial results, stopping rules and the
removal of finished members live between rounds, outside the compiled code.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from ..coordinates._record import LeafRecord
from ..flow._flow import Flow
from ..kinks._treatments import AsWritten
from ..parameters._base import Constant
from ..solvers._spectral_radius import noise
from ..solvers._switching import Switching, spectral_reach
from ..solvers._turn import Turn
from ._field import Pace
from ._halves import halved
from ._march import arrive, march

Parts = dict[str, PyTree[Array]]

#: Attempts recorded at once.
BLOCK = 32


class Round(eqx.Module):
    """What one round recorded: an entry an attempt, of which only the `kept` are steps.

    `moved` is how far the state came, in tolerances; `missed` whether half a step was too long for
    the companion somewhere.
    """

    t: Float[Array | np.ndarray, "attempts ..."]
    kept: Bool[Array | np.ndarray, "attempts ..."]
    tried: Bool[Array | np.ndarray, "attempts ..."]
    record: dict[str, Any]
    refined: dict[str, Any] | None
    pace: Pace
    moved: Float[Array | np.ndarray, "..."]
    counts: dict[str, Int[Array | np.ndarray, "..."]]
    blocked: Bool[Array | np.ndarray, "..."]
    turned: Bool[Array | np.ndarray, "..."]
    missed: Bool[Array | np.ndarray, "..."]


def divide(flow: Flow, batched: bool, shared: bool) -> tuple[Parts, Flow]:
    """What a run carries from round to round (in a batch: what each member has), and the rest.

    `shared` tells whether the members of a batch have one objective in common.
    """
    moving = flow.moving
    if not batched:
        return moving, dataclasses.replace(flow, coordinates=(), kinks=AsWritten())
    # what λ(t) closes over is one for all
    own = tuple(isinstance(rate, Constant) for rate in flow.decay)
    rates, rest = eqx.partition(flow.decay, own)
    parts = moving | {"decay": rates, "others": flow.others}
    fixed = dataclasses.replace(flow, coordinates=(), kinks=AsWritten(), decay=rest, others=[])
    if shared:
        return parts, fixed
    return parts | {"data": flow.data}, dataclasses.replace(fixed, data=[])


def united(parts: Parts, fixed: Flow) -> Flow:
    """The flow `divide` has taken apart."""
    if "decay" in parts:
        parts = parts | {"decay": eqx.combine(parts["decay"], fixed.decay)}
    return dataclasses.replace(fixed, **parts)


def record_state(flow: Flow, observables, t, state) -> dict[str, Any]:
    record, views = flow.record(t, state), flow.views(state) if observables else {}
    record["observables"] = {name: f(flow.others, views) for name, f in observables.items()}
    return record


@eqx.filter_jit
def first_record(
    parts: Parts,
    fixed: Flow,
    observables: dict,
    clock: Float[Array | np.ndarray, "2 ..."],
    batched: bool = False,
) -> tuple[dict[str, Any], Array, tuple[Array, Array]]:
    """The record of the flow's own starting point, a first step, and tolerances.

    `clock` is the time and the `rtol` asked for. The step is ∞ where nothing moves.
    """

    def first(parts, clock):
        flow = united(parts, fixed)
        t, rtol = clock
        record = record_state(flow, observables, t, flow.start())
        return record, flow.first_step(t, rtol), flow.tolerance(rtol)

    return jax.vmap(first, in_axes=(0, 1))(parts, clock) if batched else first(parts, clock)


@eqx.filter_jit
def run_round(
    parts: Parts,
    refined: Parts | None,
    fixed: Flow,
    members: Int[Array | np.ndarray, " width"] | None,
    solver: diffrax.AbstractAdaptiveSolver,
    tolerance: tuple[Array, Array],
    clock: Float[Array | np.ndarray, "2 ..."],
    pace: Pace,
    observables: dict,
    attempts: int,
    most: Int[Array | np.ndarray, "..."],
    patient: bool = False,
) -> tuple[Parts, Parts | None, Round]:
    """Advance by at most `attempts` or `most` steps; repeat each step kept as two halves.

    `refined` is the companion that takes the halves: its distance from the main run is the
    error bar (see `halved` for one that is `patient`). `clock` is the flow time at the start and
    how far to go. `members` are the rows of a batch to advance (`clock`, `pace` and `tolerance`
    are theirs already); a row past the end is filling. Returns the parts at the last step kept.
    """
    batched = members is not None
    here, companion = (parts, refined) if members is None else _taken((parts, refined), members)
    offset, span = clock

    def each(function, *axes, out=1):
        return jax.vmap(function, axes, out) if batched else function

    def build(parts):
        return united(parts, fixed)

    def recorded(parts, offset, t, state, frame, tried):
        flow = build(parts)

        def at(t, state, frame):
            return record_state(flow.framed(frame), observables, offset + t, state)

        return _in_blocks(jax.vmap(at), tried, (t, state, frame))

    def moved(parts, record, frame, kept):
        last = jnp.max(jnp.where(kept, jnp.arange(attempts), 0))
        record, frame = jax.tree.map(lambda x: x[last], (record, frame))
        new = build(parts).resumed(record, frame).moving
        old = {name: parts[name] for name in new}
        return parts | jax.tree.map(lambda a, b: jnp.where(jnp.any(kept), a, b), new, old)

    steps = march(
        build, here, solver, tolerance, offset, span, pace,
        attempts=attempts, most=most, batched=batched,
    )  # fmt: skip
    record = each(recorded, 0, 0, 1, 1, 1, 1)(
        here, offset, steps.t, steps.state, steps.frame, steps.tried
    )

    def travelled(parts, tolerance, state, kept):
        start, last = build(parts).start(), jnp.max(jnp.where(kept, jnp.arange(attempts), 0))
        atol, rtol = tolerance
        allowed = atol + rtol * jnp.maximum(jnp.abs(start), jnp.abs(state[last]))
        return jnp.where(jnp.any(kept), jnp.max(jnp.abs(state[last] - start) / allowed), 0.0)

    after = each(moved, 0, 1, 1, 1, out=0)(here, record, steps.frame, steps.kept)
    way = each(travelled, 0, 0, 1, 1, out=0)(here, tolerance, steps.state, steps.kept)
    second, missed = None, jnp.zeros_like(steps.blocked)
    if companion is not None:
        method = solver.method if isinstance(solver, Turn) else solver

        def halves(parts, tolerance, offset, t, kept, frames, choice, by_factors):
            closer = jax.tree.map(lambda x: parts["kinks"].closeness * x, tolerance)
            *points, missed = halved(
                build, parts, method, closer, offset, t, kept, choice, patient, frames, by_factors
            )
            # members along the second axis, as everything recorded
            return *points, jnp.broadcast_to(missed, kept.shape)

        states, frames, missed = each(halves, 0, 0, 0, 1, 1, 1, 1, 1)(
            companion, tolerance, offset, steps.t, steps.kept, steps.frame, steps.choice,
            steps.by_factors,
        )  # fmt: skip
        missed = missed[-1]
        second = each(recorded, 0, 0, 1, 1, 1, 1)(
            companion, offset, steps.t, states, frames, steps.tried
        )
        companion = each(moved, 0, 1, 1, 1, out=0)(companion, second, frames, steps.kept)
    if members is not None:
        after, companion = _returned((parts, refined), (after, companion), members)
    counts = getattr(steps.solver_state, "counts", {})
    attempted = (steps.t, steps.kept, steps.tried)
    ends = steps.pace, way, counts, steps.blocked, steps.turned, missed
    done = Round(*attempted, record, second, *ends)
    return after, companion, done


@eqx.filter_jit
def stability_reach(
    parts: Parts, fixed: Flow, clock: Float[Array | np.ndarray, "2"]
) -> Float[Array, ""]:
    """h·ρ at the start of a flow, `clock` = (t, h): above 2 or 3 an explicit step is unstable."""
    flow = united(parts, fixed)
    t, h = clock
    state = flow.start()

    def iterate(_, carry):
        return spectral_reach(lambda y: flow.velocity(t, y), state, h, carry[1])

    return jax.lax.fori_loop(0, 20, iterate, (jnp.zeros_like(h), noise(state, h.dtype)))[0]


def _in_blocks(function: Callable, tried: Bool[Array, " attempts"], rows: PyTree) -> PyTree:
    """`function` of the rows, block by block; rows past the last attempt cost nothing."""
    count = len(tried)
    if count % BLOCK:
        return function(*rows)

    def block(rows):
        tried, rows = rows
        like = jax.eval_shape(function, *rows)
        nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
        return jax.lax.cond(jnp.any(tried), lambda: function(*rows), lambda: nothing)

    blocks = jax.tree.map(lambda x: x.reshape(-1, BLOCK, *x.shape[1:]), (tried, rows))
    out = jax.lax.map(block, blocks)
    return jax.tree.map(lambda x: x.reshape(count, *x.shape[2:]), out)


def _taken(tree: PyTree, members: Int[Array | np.ndarray, " width"]) -> PyTree:
    return jax.tree.map(lambda x: jnp.take(x, members, axis=0, mode="clip"), tree)


def _returned(tree: PyTree, rows: PyTree, members: Int[Array | np.ndarray, " width"]) -> PyTree:
    return jax.tree.map(lambda x, new: x.at[members].set(new, mode="drop"), tree, rows)


#: State components up to which many times are re-solved side by side, not one by one.
_SIDE_BY_SIDE = 128


def side_by_side(flow: Flow, solver: diffrax.AbstractAdaptiveSolver) -> bool:
    """Whether many short solves run as one: not of a solver that would compute two methods."""
    return flow.size <= _SIDE_BY_SIDE and not isinstance(solver, Switching)


@eqx.filter_jit
def resolve(
    parts: Parts,
    fixed: Flow,
    member: Int[Array | np.ndarray, "..."] | None,
    leaves: dict[str, LeafRecord],
    solver: diffrax.AbstractAdaptiveSolver,
    rtol: Float[Array | np.ndarray, ""],
    offset: Float[Array | np.ndarray, "..."],
    span: Float[Array | np.ndarray, "..."],
    observables: dict,
    count: Int[Array | np.ndarray, ""] | int = 0,
) -> dict[str, Any]:
    """The record a time `span` after the recorded `leaves`, to the tolerance of the run.

    With a leading axis on all of `leaves`, `offset` and `span`: for the first `count` of them; of a
    batch each row has its `member`, and `parts` is of all members.
    """

    def one(member, leaves, offset, span):
        own = parts if member is None else jax.tree.map(lambda x: x[member], parts)
        flow = united(own, fixed)
        tolerance, here = flow.tolerance(jnp.asarray(rtol)), flow.at(leaves)
        state, frame = arrive(lambda _: here, (), solver, tolerance, offset, span)
        return record_state(here.framed(frame), observables, offset + span, state)

    rows = member, leaves, offset, span
    if not offset.ndim:
        return one(*rows)
    first = parts if member is None else jax.tree.map(lambda x: x[0], parts)
    if side_by_side(united(first, fixed), solver):
        return jax.vmap(one)(*rows)
    like = jax.eval_shape(one, *jax.tree.map(lambda x: x[0], rows))

    def in_turn(i, out):
        new = one(*jax.tree.map(lambda x: x[i], rows))
        return jax.tree.map(lambda o, x: o.at[i].set(x), out, new)

    blank = jax.tree.map(lambda x: jnp.zeros((len(offset), *x.shape), x.dtype), like)
    return jax.lax.fori_loop(0, count, in_turn, blank)
