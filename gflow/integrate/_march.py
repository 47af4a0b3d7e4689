"""Adaptive steps of any Diffrax solver in one bounded loop, for one run or a batch of them."""

from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix
from jaxtyping import Array, Bool, Float, Int, PyTree

from ._field import Landing, Pace
from ._passing import Passing, log_ratio, straighter_in_log

SAFETY, SHRINK = 0.9, 0.1

#: An error below this share of the tolerance says that something else held the step.
LEAST = 1e-2

#: A step that is shorter than this share of the time since a solve began starts another solve,
#: in which time is counted from zero again: what is left to a singular time keeps its digits.
FINE = 1e-10

#: Members of a batch below which a round goes on for the last of them.
NARROW = 8


class Steps(eqx.Module):
    """The attempts of `march`: entry i is what attempt i led to, if `kept`.

    A batch has its axis second. `choice` is what `halved` takes over from a solver that chooses
    between methods, `by_factors` whether time passed so in the step (see `Passing`). `pace` and
    `solver_state` continue the solve. `blocked`: the last attempt, of length `pace.step`, went
    beyond a surface at which the field is another. `turned`: the next one is another method's (see
    `Turn`).
    """

    t: Float[Array, "attempts ..."]
    state: Float[Array, "attempts ... size"]
    frame: PyTree[Array]
    kept: Bool[Array, "attempts ..."]
    tried: Bool[Array, "attempts ..."]
    choice: PyTree[Array]
    by_factors: Bool[Array, "attempts ..."]
    pace: Pace
    solver_state: PyTree
    blocked: Bool[Array, "..."]
    turned: Bool[Array, "..."]


class _Now(eqx.Module):
    """Where a solve is; `before` and `moved`: when the last step began, and how far it went."""

    t: Array
    left: Array
    state: Array
    frame: PyTree[Array]
    pace: Pace
    jumped: Array
    solver_state: PyTree
    blocked: Array
    turned: Array
    before: Array
    moved: Array
    by_factors: Array
    last_by_factors: Array


def velocity(t, state, args):
    """The field as a Diffrax term, `args` = (field, time at the start of the round).

    And how time passes in the step, if it may pass otherwise than evenly.
    """
    field, offset, *passing = args
    if not passing:
        return field.velocity(offset + t, state)
    time, rate = passing[0](t, offset + t)
    return rate.astype(state.dtype) * field.velocity(time, state)


TERM = diffrax.ODETerm(velocity)


#: What an implicit Diffrax solver holds in place of a tolerance it has not been given.
_LEFT_OPEN = diffrax.with_stepsize_controller_tols(diffrax.VeryChord)().rtol


def with_tolerance(solver: Any, tolerance: tuple[Array, Array]) -> Any:
    """The solver with the tolerance of the steps in every root finder that leaves its own open.

    As `diffrax.diffeqsolve` fills it from its controller, but each component has its own.
    """
    atol, rtol = tolerance
    given = {"rtol": rtol, "atol": atol, "norm": optimistix.max_norm}

    def filled(finder: Any) -> Any:
        for name, value in given.items():
            if getattr(finder, name) is _LEFT_OPEN:
                finder = eqx.tree_at(lambda f, name=name: getattr(f, name), finder, value)
        return finder

    def is_finder(node: Any) -> bool:
        return isinstance(node, optimistix.AbstractRootFinder)

    return jax.tree.map(lambda x: filled(x) if is_finder(x) else x, solver, is_leaf=is_finder)


def march(
    build: Callable[[PyTree], Any],
    parts: PyTree[Array],
    solver: diffrax.AbstractAdaptiveSolver,
    tolerance: tuple[Array, Array],
    offset: Float[Array, "..."],
    span: Float[Array, "..."],
    pace: Pace,
    *,
    attempts: int,
    most: Int[Array | np.ndarray, "..."] | None = None,
    batched: bool = False,
) -> Steps:
    """At most `attempts` (and at most `most`) adaptive steps from t = 0 towards `span`.

    `build(parts)` is the `Field`; `span` may be infinite. With `batched` the parts, tolerances,
    offsets, spans and paces have a leading axis, and members move at their own steps in one
    loop, which ends where a quarter of them or less (of at least `NARROW`) are still on their way.
    Steps below `FINE` of the time end it: another call counts from zero. An attempt with a
    non-finite state or error is rejected like one whose error is too large. The step is the smaller
    of what the last error allows and what the trend of the last two does (Gustafsson's predictive
    controller, ACM TOMS 20:496, 1994; Hairer & Wanner, Solving ODEs II, IV.8): towards a transition
    errors grow geometrically, and steps shrink ahead of them.
    """
    each = jax.vmap if batched else _alone
    most = jnp.full(span.shape, attempts) if most is None else most
    begin, attempt = _stepper(build, solver)

    def body(carry):
        i, now, steps = carry
        after, tried = each(attempt)(parts, tolerance, offset, span, now)
        kept = tried & (after.t > now.t)
        choice = _choice(solver, after.solver_state)
        entry = (after.t, after.state, after.frame, kept, tried, choice, after.last_by_factors)
        steps = jax.tree.map(lambda log, x: log.at[i].set(x), steps, entry)
        return i + 1, after, steps

    def unfinished(carry):
        i, now, _ = carry
        running = _running(now, span)
        # those that are left go on in a narrower round, or beside others that wait
        few = (running.size >= NARROW) & (4 * jnp.sum(running) <= running.size)
        return (i < attempts) & jnp.any(running) & ((i == 0) | ~few)

    now = each(begin)(parts, offset, span, pace, most)
    nothing = jnp.zeros_like(span, bool)
    choice = _choice(solver, now.solver_state)
    entry = (now.t, now.state, now.frame, nothing, nothing, choice, nothing)
    blank = jax.tree.map(lambda x: jnp.broadcast_to(x, (attempts, *x.shape)), entry)
    _, now, steps = jax.lax.while_loop(unfinished, body, (0, now, blank))
    return Steps(*steps, now.pace, now.solver_state, now.blocked, now.turned)


def _stepper(
    build: Callable[[PyTree], Any], solver: diffrax.AbstractAdaptiveSolver, whole: bool = True
) -> tuple[Callable[..., _Now], Callable[..., tuple[_Now, Array]]]:
    """The start of `march` and one attempt of it, at a `whole` step or a part of one."""

    def begin(parts, offset, span, pace, most):
        field = build(parts)
        state, zero = field.start(), jnp.zeros_like(span)
        first = jnp.minimum(pace.step, span)
        inner = solver.init(TERM, zero, first, state, (field, offset))
        inner = jax.tree.map(jnp.asarray, inner)
        no = jnp.array(False)
        still = zero, jnp.zeros_like(state), no, no
        return _Now(zero, most, state, field.frame(), pace, no, inner, no, no, *still)

    def attempt(parts, tolerance, offset, span, now):
        atol, _ = tolerance
        method = with_tolerance(solver, tolerance)
        field = build(parts).framed(now.frame)
        running, left = _running(now, span), now.left - 1
        limit = jnp.minimum(now.pace.step, field.horizon(offset + now.t, now.state, atol))
        last = limit >= span - now.t
        # a member that has arrived idles with a step that is harmless
        end = jnp.where(running & last, span, now.t + limit)
        begun = field.begun(now.state) if whole else now.state
        begin, until, by_factors = offset + now.t, offset + end, now.by_factors
        args, jumped = (field, offset), now.jumped
        if field.stretches:
            passing = Passing(begin, until, now.t, end - now.t, by_factors)
            args, jumped = (*args, passing), jumped | by_factors | now.last_by_factors
        state, error, _, inner, _ = method.step(
            TERM, now.t, end, begun, args, now.solver_state, jumped
        )
        moved = state - begun
        allowed = field.allowed(tolerance, begun, state)
        error = jnp.max(jnp.abs(jnp.asarray(error)) / allowed)
        sound = jnp.isfinite(error) & jnp.all(jnp.isfinite(state))
        if whole:
            landing = field.landed(begun, state, end - now.t)
        else:
            landing = Landing(*field.recentred(state))
        frame, state, jumped = landing.frame, landing.state, landing.changed
        kept = running & sound & (error <= 1.0)
        again, here = jnp.array(False), now.frame
        if landing.again is not None:
            again, kept = kept & landing.again, kept & ~landing.again
            here = jax.tree.map(lambda a, b: jnp.where(again, a, b), frame, now.frame)
        way = field.way(offset + now.t, now.state, field.framed(frame), offset + end, state)
        way = jnp.asarray(way, error.dtype)
        turned = running & getattr(inner, "turn", jnp.array(False))
        kept = kept & ~turned
        blocked, kept = kept & (way == 0.0), kept & (way == 1.0)
        h, error = end - now.t, jnp.maximum(error, 1e-30)
        order = jnp.asarray(_error_order(solver, inner), error.dtype)
        factor = SAFETY * error ** (-1.0 / order)
        trend = h / now.pace.kept_step * (now.pace.kept_error / error) ** (1.0 / order)
        # lengths of steps in which time passes differently have no trend
        uneven = by_factors | now.last_by_factors
        factor = jnp.where(kept & ~uneven, factor * jnp.minimum(trend, 1.0), factor)
        factor = jnp.where(sound, jnp.clip(factor, SHRINK, field.grow), SHRINK)
        factor = jnp.where(
            sound & (error <= 1.0) & ~kept, jnp.where(blocked | again, 1.0, way), factor
        )
        factor = jnp.where(turned, 1.0, factor)
        left = jnp.where(blocked | turned, 0, left)
        step = h * factor
        if field.stretches:
            log = factor * log_ratio(begin, until, by_factors)
            step = jnp.where(by_factors, jnp.where(kept, until, begin) * jnp.expm1(log), step)
        step = jnp.minimum(step, _longest(h.dtype))
        pace = Pace(step, h, jnp.maximum(error, LEAST))
        if whole:
            frame, pace = field.paced(frame, pace)
        bends = jnp.array(False)
        if field.stretches:
            bends = (
                straighter_in_log(offset + now.before, begin, until, now.moved, moved, allowed)
                & ~jumped
            )
            moved = jnp.where(jumped, 0.0, moved)
        after = _Now(
            end, left, state, frame, pace, jumped, inner, blocked, turned, now.t, moved, bends,
            by_factors,
        )  # fmt: skip
        stay = eqx.tree_at(
            lambda n: (n.frame, n.pace.step, n.left, n.blocked, n.turned),
            now,
            (
                here, jnp.where(running, step, now.pace.step), left, now.blocked | blocked,
                now.turned | turned,
            ),
        )  # fmt: skip
        chosen = jax.tree.map(lambda a, b: jnp.where(kept, a, b), after, stay)
        return chosen, running & ~turned

    return begin, attempt


def _error_order(solver: diffrax.AbstractAdaptiveSolver, state: PyTree) -> Any:
    """The power of h in the error of a step, which of two methods is that of the one at work."""
    at = getattr(solver, "error_order_at", None)
    return solver.error_order(TERM) if at is None else at(TERM, state)


def _choice(solver: diffrax.AbstractAdaptiveSolver, state: PyTree) -> PyTree[Array]:
    """Which method took the last step, of a solver that chooses; otherwise nothing."""
    choice = getattr(solver, "choice", None)
    return () if choice is None else choice(state)


def arrive(
    build: Callable[[PyTree], Any],
    parts: PyTree[Array],
    solver: diffrax.AbstractAdaptiveSolver,
    tolerance: tuple[Array, Array],
    offset: Float[Array, ""],
    span: Float[Array, ""],
    *,
    most: int = 10_000,
) -> tuple[Array, PyTree[Array]]:
    """State and frame after `span`, by one step where it is exact enough, otherwise by several.

    NaN where `most` attempts do not get there.
    """
    begin, attempt = _stepper(build, solver, whole=False)
    pace = Pace.at(jnp.where(span > 0.0, span, 1.0))
    now = begin(parts, offset, span, pace, jnp.full((), most))
    now = eqx.tree_at(lambda n: n.state, now, build(parts).begun(now.state))

    def advance(carry):
        left, now = carry
        after = attempt(parts, tolerance, offset + (span - left), left, now)[0]
        # every step starts at t = 0, so that none is below the rounding of the time, and where
        # what a solver knows of t = 0 is of another step
        again = jnp.zeros_like(after.t), jnp.array(True)
        return left - after.t, eqx.tree_at(lambda n: (n.t, n.jumped), after, again)

    def unfinished(carry):
        return (carry[0] > 0.0) & (carry[1].left > 0)

    left, now = jax.lax.while_loop(unfinished, advance, (span, now))
    state, frame = build(parts).framed(now.frame).followed(now.state, None, now.frame)
    return jnp.where(left > 0.0, jnp.nan, state), frame


def _running(now: _Now, span: Array) -> Array:
    return (now.t < span) & (now.left > 0) & (now.pace.step >= FINE * now.t)


def _longest(dtype: Any) -> float:
    """Of a step, so that a million of them do not overflow."""
    return float(jnp.finfo(dtype).max) * 1e-6


def _alone(function: Callable) -> Callable:
    return function
