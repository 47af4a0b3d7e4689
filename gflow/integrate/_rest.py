"""Whether a flow is at rest: every weight on its own scale, and no way down left."""

import enum
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.sparse.linalg import ArpackError, LinearOperator, eigs

from ..coordinates._record import LeafRecord
from ..flow._flow import Flow
from ..solvers._spectral_radius import noise
from ..solvers._switching import spectral_reach
from ._round import record_state

#: Speeds up to so many times their rounding are zero.
ROUNDINGS = 8.0

#: A weight is at rest when what it has still to go is this share of `rtol` of its scale: a slower
#: weight behind it is then seen unless it is slower by 10¹² and more.
LEFT = 1e-4

#: Curvatures below this share of the largest do not count as a way down.
FLAT = 1e-6

#: Size and number of the displacements of weights that are exactly zero.
ASIDE, DIRECTIONS = 1e-3, 32

#: For the logarithm of a descent that is below the floats.
_LEAST = 1e-320

#: State components up to which the Jacobian is taken whole.
DENSE = 128


class Verdict(enum.Enum):
    """What an examination found."""

    moving = "moving"
    resting = "resting"
    saddle = "saddle"


Leaves = dict[str, LeafRecord]


def verdict(flow: Flow, leaves: Leaves, t: float, elapsed: float, rtol: float) -> Verdict:
    """Whether a run of `flow` from its start rests at the recorded `leaves`, after `elapsed`.

    A weight rests when its speed is rounding, or dies out before the weight has gone another
    `LEFT`·rtol of its scale (rtol, if like a power of the time: what is slower is seen then).
    An explicit method at its stability limit leaves the fastest modes
    at the size of the tolerance and more; so before the last word they are left to die out. Under
    a velocity of the user's a weight may swing about its rest: there it rests as well when its
    speed would not take it that far in as much time again.
    """
    clock = jnp.asarray(t, flow.dtype)
    leaves = jax.tree.map(jnp.asarray, leaves)
    swings = not flow.gradient
    if _moves(motion(flow, leaves, clock), 1e3 * rtol, elapsed, swings):
        return Verdict.moving
    state, _ = settled(flow, leaves, clock)
    if _moves(motion(flow, leaves, clock, state), LEFT * rtol, elapsed, swings):
        return Verdict.moving
    down = curves_down(flow, leaves, clock, state)
    # a displacement that a flow without a gradient first lets grow tells nothing
    down = down or (flow.gradient and leaves_zero(flow, leaves, clock, state))
    return Verdict.saddle if down else Verdict.resting


def _moves(found: Any, left: float, elapsed: float, swings: bool) -> bool:
    speed, change, scale, rounding = (np.asarray(x, float) for x in found)
    real = ~(np.abs(speed) <= ROUNDINGS * rounding)  # where it is not a number as well
    with np.errstate(all="ignore"):
        lasts = -speed / change  # the time in which a speed dies out; negative where it grows
        share = np.where(lasts > 0.1 * elapsed, left / LEFT, left)
        arrives = (lasts > 0.0) & (np.abs(speed) * lasts <= share * scale)
        arrives |= swings & (np.abs(speed) * elapsed <= left * scale)
    return bool(np.any(real & ~arrives))


@eqx.filter_jit
def motion(
    flow: Flow, leaves: Leaves, t: Float[Array, ""], state: Array | None = None
) -> tuple[Array, Array, Array, Array]:
    """Speeds of all weights, how they change, their scales, and the rounding of the speeds.

    At `state`, or at the recorded `leaves` of a run of `flow` from its start.

    The rounding is measured: the second difference of a speed over displacements of √ε of every
    weight is ε of its terms, and so is √ε of the first. A sum of a thousand terms that cancel
    has the rounding of the terms. Displacements of 10⁻⁴√ε and 10⁻⁶√ε show the same, unless a
    force jumps or changes its sign nearby (√ε of a large bias is much); the smallest counts.
    """
    origin, flow = flow.start(), flow.at(leaves)
    state = flow.start() if state is None else state

    def drift(y):
        return flow.drift(t, y, origin)

    (speed, scale), (change, _) = jax.jvp(drift, (state,), (flow.velocity(t, state),))
    eps = jnp.finfo(state.dtype).eps
    _, relative = flow.tolerance(jnp.ones((), state.dtype))
    size = jnp.where(relative > 0.0, jnp.abs(state), 1.0)

    def spread(sample):
        key, share = sample
        step = share * size * jax.random.rademacher(key, state.shape, state.dtype)
        up, down = drift(state + step)[0], drift(state - step)[0]
        return jnp.maximum(jnp.abs(up + down - 2.0 * speed), eps / share * jnp.abs(up - down))

    keys = jax.random.split(jax.random.key(0), 15)
    shares = jnp.sqrt(eps) * jnp.repeat(jnp.array([1.0, 1e-4, 1e-6], state.dtype), 5)
    found = jax.lax.map(spread, (keys, shares))
    rounding = jnp.min(jnp.max(found.reshape(3, 5, -1), axis=1), axis=0)
    return speed, change, scale, rounding


@eqx.filter_jit
def settled(flow: Flow, leaves: Leaves, t: Float[Array, ""]) -> tuple[Array, Float[Array, ""]]:
    """The state once the fastest modes have died out, and the time that they are given.

    They take 40 Runge–Kutta steps of their time scale.
    """
    flow = flow.at(leaves)
    state, one = flow.start(), jnp.ones_like(t)

    def field(y):
        return flow.velocity(t, y)

    def iterate(_, carry):
        return spectral_reach(field, state, one, carry[1])

    rate, _ = jax.lax.fori_loop(0, 20, iterate, (0.0 * one, noise(state, t.dtype)))
    h = jnp.where((rate > 0.0) & jnp.isfinite(rate), 0.8 / rate, 0.0)

    def step(_, y):
        a = field(y)
        b = field(y + 0.5 * h * a)
        c = field(y + 0.5 * h * b)
        d = field(y + h * c)
        return y + h / 6.0 * (a + 2.0 * b + 2.0 * c + d)

    y = jax.lax.fori_loop(0, 40, step, state)
    return jnp.where(jnp.all(jnp.isfinite(y)), y, state), 40.0 * h


@eqx.filter_jit
def settled_record(
    flow: Flow, leaves: Leaves, t: Float[Array, ""], observables: dict
) -> tuple[dict[str, Any], Float[Array, ""]]:
    """The record of the settled state, and the time that it took."""
    state, lapse = settled(flow, leaves, t)
    return record_state(flow.at(leaves), observables, t + lapse, state), lapse


def curves_down(flow: Flow, leaves: Leaves, t: Float[Array, ""], state: Array) -> bool:
    """Whether a direction grows from here: an eigenvalue of the flow's Jacobian above zero.

    Of columns in a gauge what grows is in their speeds.
    """
    columns = [c.chart.turning for c in flow.coordinates]
    counts = np.concatenate(
        [np.full(c.size, not skip) for c, skip in zip(flow.coordinates, columns, strict=True)]
    )
    if not counts.any():
        return False
    if flow.size <= DENSE:
        whole = np.asarray(jacobian(flow, leaves, t, state), float)
        whole = whole[np.ix_(counts, counts)]
        if not np.all(np.isfinite(whole)):
            return True
        rates = np.linalg.eigvals(whole).real
        return bool(np.max(rates) > FLAT * np.max(np.abs(rates)))

    def image(x):
        direction = jnp.asarray(np.where(counts, x.ravel(), 0.0), state.dtype)
        return np.where(counts, np.asarray(along(flow, leaves, t, state, direction), float), 0.0)

    operator = LinearOperator((flow.size, flow.size), matvec=image, dtype=float)
    start = np.random.default_rng(0).normal(size=flow.size)
    try:
        options = {"k": 1, "v0": start, "tol": 1e-3, "return_eigenvectors": False}
        largest = abs(complex(eigs(operator, which="LM", **options)[0]))
        top = complex(eigs(operator, which="LR", maxiter=20, **options)[0]).real
    except ArpackError:
        return False
    return top > FLAT * largest


def leaves_zero(flow: Flow, leaves: Leaves, t: Float[Array, ""], state: Array) -> bool:
    """Whether plain weights that are exactly zero would grow together, were they not.

    Three factors at zero feel no force and no curvature, and the loss falls like their product.
    Displaced by `ASIDE` in random directions they move outwards; at a minimum they come back.
    """
    plain = [np.full(c.size, c.chart.plain) for c in flow.coordinates]
    zero = np.concatenate(plain) & (np.asarray(state) == 0.0)
    if not zero.any():
        return False
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (DIRECTIONS, flow.size)) * zero
    outwards, speed = map(np.asarray, outward(flow, leaves, t, state, jnp.asarray(ASIDE * signs)))
    return bool(np.max(outwards) > FLAT * ASIDE * np.max(speed))


@eqx.filter_jit
def outward(flow: Flow, leaves: Leaves, t: Float[Array, ""], state: Array, steps: Array):
    """Of displaced states the rate at which the displacement grows, and the largest speed."""
    here = flow.at(leaves)

    def rate(step):
        speed = here.velocity(t, state + step)
        return jnp.vdot(step, speed) / jnp.vdot(step, step), jnp.max(jnp.abs(speed)) / ASIDE

    return jax.lax.map(rate, steps)


@eqx.filter_jit
def jacobian(
    flow: Flow, leaves: Leaves, t: Float[Array, ""], state: Array
) -> Float[Array, "size size"]:
    here = flow.at(leaves)
    return jax.jacfwd(lambda y: here.velocity(t, y))(state)


@eqx.filter_jit
def along(flow: Flow, leaves: Leaves, t: Float[Array, ""], state: Array, direction: Array) -> Array:
    here = flow.at(leaves)
    return jax.jvp(lambda y: here.velocity(t, y), (state,), (direction,))[1]


def falls_for_ever(t: np.ndarray, descent: np.ndarray, fallen: float, rtol: float) -> bool:
    """Whether a run approaches an infimum of the loss as nothing does that comes to rest.

    Over the last three decades of time (counted from the start of the run) the descent falls
    like t^{−q}, q > 1, so that fallen·rtol is more than is left. A slow mode that dies out
    exponentially does not.
    """
    powers = -_by_decade(t, np.log(np.maximum(descent, _LEAST))) / np.log(10.0)
    if not (powers.size and np.all(powers > 1.0) and np.max(powers) < 1.5 * np.min(powers)):
        return False
    return bool(descent[-1] * t[-1] / (powers[-1] - 1.0) <= rtol * fallen)


def grows_for_ever(t: np.ndarray, size: np.ndarray) -> bool:
    """Whether weights (`size`, their norm) grow by as much in every of the last three decades.

    Like log t or a power of it. What comes to rest like a power of t grows by less and less.
    """
    growth = _by_decade(t, size)
    return bool(growth.size and np.all(growth > 0.0) and np.all(growth[1:] > 0.3 * growth[:-1]))


def _by_decade(t: np.ndarray, values: np.ndarray) -> np.ndarray:
    """By how much they change in each of the last three decades of t, if there are as many."""
    if len(t) < 2 or t[-1] <= 0.0 or t[1] > 1e-3 * t[-1]:
        return np.zeros(0)
    marks = np.log(t[-1]) + np.log(10.0) * np.arange(-3.0, 1.0)
    return np.diff(np.interp(marks, np.log(t[1:]), values[1:]))
