"""Runs that stop at every kink of their loss, decide on which side of it to go on, and go on."""

import dataclasses
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ..coordinates._record import LeafRecord
from ..flow._flow import Flow
from ..integrate._field import Pace
from ..integrate._march import arrive
from ._box import NotUnique, Tangled, fractions
from ._treatments import Sides

#: More kinks than this in a loss, more met in a run, or more slid on at once, are not located.
MOST_KINKS, MOST_EVENTS, MOST_AT_ONCE = 10_000, 10_000, 64
#: Room for surfaces that are slid on, each compiled once.
_ROOMS = (0, 4, 16, MOST_AT_ONCE)
#: Events without any progress in time after which a run is not followed further.
_STANDSTILL = 20


class NotLocated(Exception):
    """Why the kinks of a loss cannot be located one by one."""


def with_sides(flow: Flow, count: int) -> Flow:
    """The flow with every one of its `count` branches as its start decides it."""
    sides = Sides.of(count, flow.dtype)
    return dataclasses.replace(flow, kinks=_at_start(dataclasses.replace(flow, kinks=sides)))


@eqx.filter_jit
def _at_start(flow: Flow) -> Sides:
    sides, start = flow.kinks, flow.start()
    assert isinstance(sides, Sides)
    # a branch may decide the argument of another: settled after as many passes as they nest
    for _ in range(4):
        h = sides.heights(dataclasses.replace(flow, kinks=sides), start)
        sides = dataclasses.replace(sides, side=jnp.where(sides.side, h > 0, h < 0))
    return sides


class Course:
    """The kinks of one run: what has been met, and what comes next."""

    def __init__(self, flow: Flow, start: float):
        assert isinstance(flow.kinks, Sides)
        self.aim, self.dtype = np.inf, flow.dtype
        self.segments: list[tuple[float, Sides]] = [(start, flow.kinks)]
        self.events, self.slides, self._still = 0, 0, 0
        self._hit = np.zeros(0, int)
        self._crossing = False

    def begin(self, run: Any) -> None:
        """Decide the kinks that the start lies on."""
        sides = run.parts["kinks"]
        heights, _ = _heights(run.parts, run.fixed)
        self._hit = np.flatnonzero(np.asarray(heights) == 0.0)
        if self._hit.size:
            self._decide(run, sides, start=True)

    def after(self, run: Any, done: Any) -> None:
        """What a round calls for: to locate what blocked it, or to decide where it has arrived."""
        kept = np.asarray(done.kept)
        if kept.any():
            self._still = 0
        if bool(done.blocked):
            self._locate(run, float(done.pace.step))
        elif np.isfinite(self.aim):
            gone = float(np.asarray(done.t)[kept][-1]) if kept.any() else 0.0
            self.aim = self.aim - gone if gone < self.aim else 0.0
        if self.aim == 0.0:
            self.aim = np.inf
            self._decide(run, run.parts["kinks"])

    def _locate(self, run: Any, h: float) -> None:
        self._still += 1
        if self._still > _STANDSTILL:
            raise NotLocated(f"{_STANDSTILL} kinks at t = {run.time[0]:.6g} without any progress")
        clock = run._clock(run.time, h)
        span, hit, left, floor = first_crossing(
            run.parts, run.fixed, run.solver, run.tolerance, clock
        )
        run.parts["kinks"] = dataclasses.replace(run.parts["kinks"], floor=floor)
        self.aim, self._hit = float(span), np.flatnonzero(np.asarray(hit))
        self._crossing = not np.any(np.asarray(left))
        self._step = h
        if self.aim > 0.0:
            run.pace = Pace.at(np.array([self.aim]))

    def _decide(self, run: Any, sides: Sides, start: bool = False) -> None:
        self.events += 1
        if self.events > MOST_EVENTS:
            raise NotLocated(f"more than {MOST_EVENTS} kinks up to t = {run.time[0]:.6g}")
        clock = run._clock(run.time)[0]
        new, lead = self._chosen(run, sides, clock, start)
        # arrays: a number would be part of the program, and every event compile its own
        none, still = np.asarray(-1), np.asarray(0.0, self.dtype)
        run.parts = passed(run.parts, new, run.fixed, clock, none, still)
        if run.companion is not None:
            lead = np.asarray(lead) if self._crossing else none
            limit = still if start else np.asarray(self._step, self.dtype)
            run.companion = passed(run.companion, new, run.fixed, clock, lead, limit)
        self.slides += int(np.sum(np.asarray(new.lead) < len(sides.side)))
        self.segments.append((float(run.time[0]), new))
        if not start:
            run.pace = Pace.at(np.array([0.5 * self._step]))

    def _chosen(self, run: Any, sides: Sides, clock: Any, start: bool) -> tuple[Sides, int]:
        """The branches to go on with, and a function that has just become zero."""
        count = len(sides.side)
        side, floor = np.array(sides.side), np.array(sides.floor)
        old_slot, old_lead = np.asarray(sides.slot), np.asarray(sides.lead)
        groups = [np.flatnonzero(old_slot == s) for s, i in enumerate(old_lead) if i < count]
        slid = len(groups)
        hit = self._hit
        if slid + len(hit) > MOST_AT_ONCE:
            raise NotLocated(
                f"{slid + len(hit)} kinks at once at t = {run.time[0]:.6g} (at most {MOST_AT_ONCE})"
            )
        if len(hit):
            room = next(r for r in _ROOMS if r >= len(hit))
            padded = np.concatenate([hit, np.full(room - len(hit), hit[0])])
            values, normals, rounding = (
                np.asarray(x)[: len(hit)]
                for x in _normals(run.parts, run.fixed, jnp.asarray(padded, jnp.int32))
            )
            floor[hit] = np.maximum(2.0 * np.abs(values), rounding)
            largest = np.max(np.abs(normals), axis=1)
            moving = largest > 0
            if not start:
                side[hit[~moving]] ^= True
            met, normals = hit[moving], normals[moving] / largest[moving, None]
            normals = normals / np.linalg.norm(normals, axis=1)[:, None]
            for one in _together(normals):
                # at the start a function and its negative are both zero
                side[met[one]] ^= normals[one] @ normals[one[0]] < 0
                groups.append(met[one])
        slot, lead = _slots(groups, count)
        trial = dataclasses.replace(
            sides,
            side=jnp.asarray(side),
            slot=jnp.asarray(slot),
            lead=jnp.asarray(lead),
            fraction=jnp.zeros((len(lead),), sides.floor.dtype),
            floor=jnp.asarray(floor),
        )
        if not groups:
            return trial, -1
        push, response = _pushes(run.parts | {"kinks": trial}, run.fixed, clock)
        k = len(groups)
        try:
            b = fractions(np.asarray(push)[:k], np.asarray(response)[:k, :k])
        except Tangled as error:
            raise NotLocated(f"at t = {run.time[0]:.6g} {error}") from error
        except NotUnique as error:
            raise ValueError(
                f"At t = {run.time[0]:.6g} the flow stands exactly on a kink that both sides lead "
                "away from, so that it is not unique. Start off the kink."
            ) from error
        for i in np.flatnonzero(b == 1.0):
            side[groups[i]] ^= True
        slot, lead_new = _slots([groups[i] for i in np.flatnonzero((b > 0) & (b < 1))], count)
        new = dataclasses.replace(
            trial,
            side=jnp.asarray(side),
            slot=jnp.asarray(slot),
            lead=jnp.asarray(lead_new),
            fraction=jnp.full((len(lead_new),), 0.5, sides.floor.dtype),
        )
        return new, int(groups[slid][0]) if len(groups) > slid else -1


def _together(normals: np.ndarray) -> list[np.ndarray]:
    """Numbers of the functions with one surface: their normals are parallel."""
    near = np.abs(normals @ normals.T) > 1.0 - 1e-12
    return [np.flatnonzero(near[i]) for i in range(len(near)) if not near[i, :i].any()]


def _slots(groups: list[np.ndarray], count: int) -> tuple[np.ndarray, np.ndarray]:
    room = next(r for r in _ROOMS if r >= len(groups))
    slot = np.full(count, room, np.int32)
    lead = np.full(room, count, np.int32)
    for s, g in enumerate(groups):
        slot[g], lead[s] = s, g[0]
    return slot, lead


def _flow(parts: Any, fixed: Flow) -> tuple[Flow, Sides]:
    flow = dataclasses.replace(fixed, coordinates=parts["coordinates"], kinks=parts["kinks"])
    assert isinstance(flow.kinks, Sides)
    return flow, flow.kinks


@eqx.filter_jit
def first_crossing(
    parts: Any,
    fixed: Flow,
    solver: diffrax.AbstractAdaptiveSolver,
    tolerance: tuple[Array, Array],
    clock: Float[Array | np.ndarray, "2"],
) -> tuple[Float[Array, ""], Bool[Array, " k"], Bool[Array, " m"], Float[Array, " k"]]:
    """How far a run can go, of a step of length h, and what it meets there.

    `clock` = (t, h). The functions that change sign, the surfaces the flow leaves, and floors
    that leave room for rounding where it arrives. The step is taken anew, at every length tried
    (an interpolation would cost digits).
    """
    flow, sides = _flow(parts, fixed)
    unwatched = dataclasses.replace(flow, kinks=sides.unwatched())
    offset, h = clock
    used = sides.lead < sides.side.size

    def gaps(x: Array) -> Array:
        state, frame = arrive(lambda _: unwatched, (), solver, tolerance, offset, x)
        here = unwatched.framed(frame)
        heights = sides.unwatched().heights(here, state) + sides.floor
        heights = jnp.where(sides.free, heights, jnp.inf)
        b = sides.settled(here, offset + x, state).kinks.fraction
        b = jnp.where(used, b, 0.5)
        return jnp.concatenate([heights, b + 1e-12, 1.0 + 1e-12 - b])

    zero = jnp.zeros_like(h)
    start = flow.start()
    heights = jnp.where(sides.free, sides.heights(flow, start) + sides.floor, jnp.inf)
    inside = jnp.full((2 * sides.lead.size,), 0.5, h.dtype)
    begin = jnp.maximum(jnp.concatenate([heights, inside]), 0.0)

    def least(g, drop):
        return jnp.min(jnp.where(jnp.isfinite(drop), g / drop, jnp.inf), initial=jnp.inf)

    # Chandrupatla 1997: bisection or inverse quadratic interpolation, a bracket throughout
    def step(carry):
        i, x, a, fa, b, fb, low, high, drop, met = carry
        g = gaps(x)
        drop = jnp.where(i == 0, jnp.where(g < begin, begin - g, jnp.inf), drop)
        fx = least(g, drop)
        fa = jnp.where(i == 0, fx, fa)
        same = (fx < 0) == (fa < 0)
        c, fc = jnp.where(same, a, b), jnp.where(same, fa, fb)
        b, fb = jnp.where(same, b, a), jnp.where(same, fb, fa)
        first = i == 0
        b, fb = jnp.where(first, zero, b), jnp.where(first, least(begin, drop), fb)
        met = jnp.where(fx < 0, g, met)
        low, high = jnp.where(fx < 0, low, x), jnp.where(fx < 0, x, high)
        a, fa = x, fx
        xi, phi = (a - b) / (c - b), (fa - fb) / (fc - fb)
        quadratic = (phi**2 < xi) & ((1 - phi) ** 2 < 1 - xi)
        guess = fa / (fb - fa) * fc / (fb - fc) + (c - a) / (b - a) * fa / (fc - fa) * fb / (
            fc - fb
        )
        t = jnp.where(quadratic & jnp.isfinite(guess) & ~first, guess, 0.5)
        narrow = 2.0 * jnp.finfo(h.dtype).eps * high / jnp.maximum(jnp.abs(b - a), 1e-300)
        t = jnp.clip(t, narrow, 1 - narrow)
        return i + 1, a + t * (b - a), a, fa, b, fb, low, high, drop, met

    def unfinished(carry):
        i, *_, low, high, _, _ = carry
        narrowed = high - low <= 16.0 * jnp.finfo(h.dtype).eps * high
        return (i == 0) | ((i < 60) & ~narrowed)

    carry = (0, h, h, zero, zero, zero, zero, h, begin, begin)
    *_, low, _, drop, there = jax.lax.while_loop(unfinished, step, carry)
    met = there < 1e-11 * jnp.where(jnp.isfinite(drop), drop, 0.0)
    slack = jnp.where(met, 1e-12 * drop, 0.0)[: sides.side.size]
    hit, low_b, high_b = jnp.split(met, [sides.side.size, sides.side.size + sides.lead.size])
    return low, hit & sides.free, low_b | high_b, jnp.maximum(sides.floor, slack)


@eqx.filter_jit
def _heights(parts: Any, fixed: Flow) -> tuple[Array, Array]:
    flow, sides = _flow(parts, fixed)
    return sides.heights(flow, flow.start()), flow.start()


@eqx.filter_jit
def _normals(parts: Any, fixed: Flow, which: Int[Array, " m"]) -> tuple[Array, Array, Array]:
    """Heights, their gradients in the state, and their rounding."""
    flow, sides = _flow(parts, fixed)
    state = flow.start()
    h, pull = jax.vjp(lambda y: sides.heights(flow, y)[which], state)
    rows = jax.vmap(lambda e: pull(e)[0])(jnp.eye(which.size, dtype=state.dtype))
    rounding = 64.0 * jnp.finfo(state.dtype).eps * jnp.abs(rows) @ jnp.abs(state)
    return h, rows, rounding


@eqx.filter_jit
def _pushes(parts: Any, fixed: Flow, t: Any) -> tuple[Array, Array]:
    """Rates of the heights on the near sides, and how they respond to the fractions."""
    flow, sides = _flow(parts, fixed)

    def rates(b):
        return sides.rates(flow, t, flow.start(), b)

    # between the sides, where both branches are felt
    half = jnp.full_like(sides.fraction, 0.5)
    response = jax.jacfwd(rates)(half)
    return rates(half) - response @ half, response


@eqx.filter_jit
def passed(parts: Any, new: Sides, fixed: Flow, t: Any, lead: Any, limit: Any) -> Any:
    """The parts behind an event, on the branches `new`.

    A companion is not at the surface of function `lead` when the main run is: it was there, or
    will be, after a delay, and for so long it has moved, or will, by the other branch.
    """
    flow, old = _flow(parts, fixed)
    state = flow.start()
    after = dataclasses.replace(flow, kinks=new)

    def shifted():
        before = old.settled(flow, t, state)
        speed = before.motion(t, state)
        h, rate = jax.jvp(lambda y: old.heights(before, y)[lead], (state,), (speed,))
        delay = jnp.where(rate < 0.0, -h / rate, 0.0)
        delay = jnp.clip(delay, -limit, limit)
        return state + delay * (speed - after.velocity(t, state))

    moved = jax.lax.cond(lead >= 0, shifted, lambda: state)
    moved = new.projected(after, moved)
    pairs = zip(after.names, after.coordinates, after.split(moved), strict=True)
    coordinates = tuple(c.at(LeafRecord(c.record(y), c.chart)) for _, c, y in pairs)
    return parts | {"coordinates": coordinates, "kinks": new}
