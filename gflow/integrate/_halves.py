"""The companion of a run, which takes every step of it as two halves: error bars are made of it."""

from collections.abc import Callable
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from ._march import FINE, TERM, with_tolerance
from ._passing import Passing, middle

#: Error, in tolerances, that half a step does not have unless its start is elsewhere.
ASTRAY = 1e6

#: Attempts that the companion of a run makes at one step of it.
MOST_PARTS = 1000


def halved(
    build: Callable[[PyTree], Any],
    parts: PyTree[Array],
    solver: diffrax.AbstractAdaptiveSolver,
    tolerance: tuple[Array, Array],
    offset: Float[Array, ""],
    t: Float[Array, " attempts"],
    kept: Bool[Array, " attempts"],
    choice: PyTree[Array] = (),
    patient: bool = False,
    frames: PyTree[Array] = (),
    by_factors: Bool[Array, " attempts"] | None = None,
) -> tuple[Array, PyTree[Array], Bool[Array, ""]]:
    """States and frames at times `t`, each step that was kept taken as two of half its length.

    `frames` are those in which the run went on after every attempt (see `Field.followed`).
    By the method that took the step: another one has errors of its own, that may cancel those
    which the difference is to show. A companion that is ahead of the run may be in a transition
    that the run has before it, where half a step is too long: the last of the results tells
    whether it was anywhere. A `patient` companion then takes as many as its own error asks for, by
    any method. If it has not arrived after `MOST_PARTS` attempts it is late from there on, and if
    none of them was kept it is lost (NaN).
    """
    field, solver = build(parts), with_tolerance(solver, tolerance)

    uneven = jnp.zeros_like(kept) if by_factors is None else by_factors

    def step(method, now, begin, end, offset, uneven):
        state, frame, inner, jumped = now
        here = field.framed(frame)
        args = here, offset
        if field.stretches:
            passing = Passing(offset + begin, offset + end, begin, end - begin, uneven)
            args, jumped = (*args, passing), jumped | uneven
        new, error, _, inner, _ = method.step(TERM, begin, end, state, args, inner, jumped)
        allowed = here.allowed(tolerance, state, new)
        error = jnp.max(jnp.abs(jnp.asarray(error)) / allowed)
        error = jnp.where(jnp.all(jnp.isfinite(new)), error, jnp.nan)
        frame, new, jumped = here.recentred(new)
        jumped = jumped | uneven  # the slope kept is one of another passing of time
        return (new, frame, jax.tree.map(jnp.asarray, inner), jumped), error

    def begun(now):
        return (field.framed(now[1]).begun(now[0]), *now[1:])

    def two(start, end, kept, choice, uneven, now):
        between = middle(start, end, offset, uneven)
        method = _taking(solver, choice, jnp.array(False))

        def half(now, edges):
            return step(method, now, *edges, offset, uneven)

        def both():
            edges = jnp.stack([start, between]), jnp.stack([between, end])
            after, error = jax.lax.scan(half, now, edges)
            return after, ~jnp.all(error < ASTRAY)

        return jax.lax.cond(kept, both, lambda: (now, jnp.array(False)))

    def many(start, end, kept, choice, uneven, now):
        half, no = middle(start, end, offset, uneven) - start, jnp.array(False)

        def attempt(carry):
            count, begin, h, failed, moved, now = carry
            whole = begin + h >= end
            until = jnp.where(whole, end, begin + h)
            h = jnp.where(whole, end - begin, h)
            # a part near the rounding of the time counts from zero, as if nothing were known
            fine = h < FINE * begin
            edges = jnp.where(fine, 0.0, begin), jnp.where(fine, h, until)
            before = (*now[:3], now[3] | fine)
            method = _taking(solver, choice, failed)
            since = offset + jnp.where(fine, begin, 0.0)
            after, error = step(method, before, *edges, since, uneven)
            good = error <= 1.0
            now = jax.tree.map(lambda a, b: jnp.where(good, a, b), after, now)
            # what a solver knows at the end of such a part, it knows at another time
            now = (*now[:3], now[3] | (good & fine))
            begin = jnp.where(good, until, begin)
            grown = jnp.minimum(2.0 * h, jnp.where(uneven, end - start, half))
            h = jnp.where(good, grown, 0.2 * h)
            return count + 1, begin, h, failed | ~good, moved | good, now

        def unfinished(carry):
            return (carry[1] < upto) & (carry[0] < MOST_PARTS)

        going = kept & jnp.all(jnp.isfinite(now[0]))
        upto = jnp.where(going, end, start)
        begun = (0, start, half, no, no, now)
        *_, moved, now = jax.lax.while_loop(unfinished, attempt, begun)
        state = jnp.where(going & (end > start) & ~moved, jnp.nan, now[0])
        return (state, *now[1:]), no

    def body(carry, entry):
        start, now, failed = carry
        end, kept, choice, uneven, frame = entry
        after, missed = (many if patient else two)(start, end, kept, choice, uneven, begun(now))
        state, frame = field.framed(now[1]).followed(after[0], frame, after[1])
        after, before = (state, frame, *after[2:]), (now[0], frame, *now[2:])
        now = jax.tree.map(lambda a, b: jnp.where(kept, a, b), after, before)
        return (jnp.where(kept, end, start), now, failed | missed), now[:2]

    zero, start = jnp.zeros_like(offset), field.start()
    inner = solver.init(TERM, zero, 0.5 * t[0], start, (field, offset))
    now = (start, field.frame(), jax.tree.map(jnp.asarray, inner), jnp.array(False))
    first = (zero, now, jnp.array(False))
    (_, _, failed), (states, frames) = jax.lax.scan(body, first, (t, kept, choice, uneven, frames))
    return states, frames, failed


def _taking(solver: Any, choice: PyTree[Array], free: Bool[Array, ""]) -> Any:
    """The solver with that method, unless it is `free` to choose."""
    return solver.taking(choice, free) if jax.tree.leaves(choice) else solver
