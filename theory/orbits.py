r"""Connecting orbits between saddles, for the limit α → 0.

On the support of a saddle and the weights that join it the flow of ψ = side·e^{2x}/4
is x' = side·g(ψ) − λ; every other weight is zero and only its force is integrated,
x' = g(ψ). All of them together are one autonomous system in p coordinates, stiff after
the transition, followed until the support rests or leaves for zero.
"""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from gflow.crossings import bracketed_root
from gflow.flow import Flow
from gflow.solvers import Rodas5P
from gflow.stepping import TERM, Field, Pace, march

_STEPS = 128
_ROUNDS = 100
#: Longest orbit, in units of 1/(largest initial force).
_PATIENCE = 1e8
#: A weight this many e-folds (of its square root) below the others counts as zero.
_VANISHED = 18.0
#: A rate this far below the largest initial force counts as rest.
_AT_REST = 1e-9
#: Newton from the end of an orbit moves log|θ|/2 by far less than this.
_DRIFT = 0.05


class Landscape(eqx.Module):
    """The objective as a function of the flat vector of all effective weights."""

    flow: Flow

    def unflatten(self, theta: Float[Array, " p"]) -> dict[str, Array]:
        shapes = [jax.eval_shape(c.value, c.start()).shape for c in self.flow.coordinates]
        cuts = np.cumsum([int(np.prod(s)) for s in shapes])[:-1].tolist()
        parts = jnp.split(theta, cuts)
        return {
            n: part.reshape(s) for n, part, s in zip(self.flow.names, parts, shapes, strict=True)
        }

    def loss(self, theta: Float[Array, " p"]) -> Float[Array, ""]:
        return self.flow.loss(self.unflatten(theta))

    def force(self, theta: Float[Array, " p"]) -> Float[Array, " p"]:
        """g = −∇L."""
        return -jax.grad(self.loss)(theta)


@eqx.filter_jit
def loss_and_force(landscape: Landscape, theta: Float[Array, " p"]) -> tuple[Array, Array]:
    loss, gradient = jax.value_and_grad(landscape.loss)(theta)
    return loss, -gradient


@eqx.filter_jit
def _losses(landscape: Landscape, thetas: Float[Array, "n p"]) -> Float[Array, " n"]:
    return jax.lax.map(landscape.loss, thetas, batch_size=64)


def losses(landscape: Landscape, thetas: np.ndarray) -> np.ndarray:
    """Loss at many points, compiled once for all numbers of points up to a power of two."""
    count = len(thetas)
    padded = np.resize(thetas, (max(1 << (count - 1).bit_length(), 256), thetas.shape[1]))
    return np.asarray(_losses(landscape, jnp.asarray(padded)))[:count]


@eqx.filter_jit
def force_jacobian(landscape: Landscape, theta: Float[Array, " p"]) -> Float[Array, "p p"]:
    """∂g/∂θ = −∇²L."""
    return jax.jacfwd(landscape.force)(theta)


class Fast(eqx.Module):
    """The fast system on a support: which weights live, on which side, with what decay."""

    landscape: Landscape
    support: Bool[Array, " p"]
    side: Float[Array, " p"]
    decay: Float[Array, " p"]

    def weights(self, x: Float[Array, " p"]) -> Float[Array, " p"]:
        alive = jnp.where(self.support, x, -jnp.inf)
        return self.side * 0.25 * jnp.exp(2.0 * alive)

    def velocity(self, x: Float[Array, " p"]) -> Float[Array, " p"]:
        g = self.landscape.force(self.weights(x))
        return jnp.where(self.support, self.side * g - self.decay, g)


class _Started(Field):
    """The fast system at a point, for `march`: autonomous, in one frame."""

    fast: Fast
    x: Float[Array, " p"]

    def start(self):
        return self.x

    def velocity(self, t, state):
        return self.fast.velocity(state)

    def horizon(self, t, state, atol):
        return jnp.full((), jnp.inf, state.dtype)

    def frame(self):
        return ()

    def framed(self, frame):
        return self

    def recentred(self, state):
        return (), state, jnp.array(False)


@eqx.filter_jit
def _advance(fast: Fast, x: Float[Array, " p"], pace: Pace, tolerance: Float[Array, ""]):
    """Times, states, velocities and which of them are steps; the pace to go on with."""
    zero = jnp.zeros_like(tolerance)
    steps = march(
        lambda x: _Started(fast, x), x, Rodas5P(), (tolerance, zero), zero,
        jnp.full_like(zero, 1e30), pace, attempts=_STEPS,
    )  # fmt: skip
    velocities = jax.vmap(fast.velocity)(steps.state)
    return steps.t, steps.state, velocities, steps.kept, steps.pace


@eqx.filter_jit
def _one_step(fast: Fast, x: Float[Array, " p"], step: Float[Array, ""]) -> Float[Array, " p"]:
    zero = jnp.zeros_like(step)
    args = (_Started(fast, x), zero)
    return Rodas5P().step(TERM, zero, step, x, args, None, made_jump=False)[0]


@dataclasses.dataclass(frozen=True, eq=False)
class Orbit:
    """A connecting orbit in its own time s, 0 where it crosses its level.

    `s`, `x`, `dx`: accepted steps, coordinates and velocities. `rest`: the support of
    the saddle it ends in; `theta`: that saddle; `tail`: what the coordinates still
    gain, beyond their final velocity, after the last step.
    """

    fast: Fast
    s: np.ndarray
    x: np.ndarray
    dx: np.ndarray
    rest: np.ndarray
    theta: np.ndarray
    force: np.ndarray
    tail: np.ndarray

    @property
    def support(self) -> np.ndarray:
        return np.asarray(self.fast.support)

    def shifted(self, crossing: float) -> "Orbit":
        return dataclasses.replace(self, s=self.s - crossing)

    def weights(self, s: np.ndarray) -> np.ndarray:
        """ψ(s) for any s, by cubic Hermite interpolation and its asymptotes."""
        i = np.clip(np.searchsorted(self.s, s) - 1, 0, len(self.s) - 2)
        h = (self.s[i + 1] - self.s[i])[:, None]
        u = np.clip((s - self.s[i])[:, None] / h, 0.0, 1.0)
        outside = (s - np.clip(s, self.s[0], self.s[-1]))[:, None]
        x = (
            (1 + 2 * u) * (1 - u) ** 2 * self.x[i]
            + u * (1 - u) ** 2 * h * self.dx[i]
            + u**2 * (3 - 2 * u) * self.x[i + 1]
            - u**2 * (1 - u) * h * self.dx[i + 1]
        )
        slope = np.where(outside < 0, self.dx[0], self.dx[-1])
        x = x + np.where(np.abs(outside) > 0, outside, 0.0) * slope
        side = np.asarray(self.fast.side)
        with np.errstate(over="ignore"):
            theta = np.where(self.support, side * 0.25 * np.exp(2.0 * x), 0.0)
        after = (s > self.s[-1])[:, None] & self.rest
        return np.where(after, self.theta, theta)

    def crossing(self, read: Callable[[np.ndarray], float], level: float) -> float:
        """First time at which read(x) rises through `level`, re-solved in its step."""
        values = np.array([read(x) for x in self.x])
        rises = np.flatnonzero((values[:-1] < level) & (values[1:] >= level))
        i = int(rises[0])
        start, width = jnp.asarray(self.x[i]), float(self.s[i + 1] - self.s[i])

        def gap(step: float) -> float:
            if step in (0.0, width):
                return float(values[i + (step > 0)]) - level
            return read(np.asarray(_one_step(self.fast, start, jnp.asarray(step)))) - level

        return float(self.s[i]) + bracketed_root(gap, width)

    def gain(self, before: np.ndarray) -> np.ndarray:
        """∫(x' − before) over s < 0 plus ∫(x' − after) over s > 0, for every coordinate."""
        total = self.x[-1] - self.x[0] + self.tail
        return total + before * self.s[0] - self._after() * self.s[-1]

    def _after(self) -> np.ndarray:
        side, decay = np.asarray(self.fast.side), np.asarray(self.fast.decay)
        along = np.where(self.support, side * self.force - decay, self.force)
        return np.where(self.rest, 0.0, along)


class Unbounded(ValueError):
    """An orbit along which the weights grow without bound."""


_NO_SADDLE = (
    "the weights grow without bound on a connecting orbit: the objective has no finite saddle "
    "there. It is unbounded below, or its minimum lies at infinity (a classification loss on "
    "separable data); add decay or targets that a finite weight can reach"
)


class Degenerate(ValueError):
    """An orbit that creeps: it does not end in a saddle with a definite support."""


def connect(
    landscape: Landscape,
    support: np.ndarray,
    side: np.ndarray,
    decay: np.ndarray,
    x: np.ndarray,
    force_scale: float,
    tolerance: float = 1e-11,
) -> Orbit:
    """Follow the fast system from `x` until its support rests or has gone to zero.

    `tolerance` is the local error in log|s|, absolute.

    **Raises:** Unbounded when the weights blow up (objective unbounded below, or a
    minimum at infinity); Degenerate when they creep without coming to rest.
    """
    fast = Fast(landscape, *(jnp.asarray(a) for a in (support, side, decay)))
    start = np.asarray(_velocity_of(fast, jnp.asarray(x)))
    s, xs, velocities = [0.0], [x], [start]
    pace = Pace.at(jnp.asarray(1e-3 / max(float(np.max(np.abs(start))), 1e-300)))
    top = np.max(x[support], initial=-np.inf)
    for _ in range(_ROUNDS):
        if s[-1] * force_scale > _PATIENCE:
            break
        *found, kept, pace = _advance(fast, jnp.asarray(xs[-1]), pace, jnp.asarray(tolerance))
        offset = s[-1]
        times, states, rates = (np.asarray(a)[np.asarray(kept)] for a in found)
        if not len(times) or not np.all(np.isfinite(states)) or np.max(states[-1][support]) > 12.0:
            raise Unbounded(_NO_SADDLE)
        for i in range(len(times)):
            s.append(offset + float(times[i]))
            xs.append(states[i])
            velocities.append(rates[i])
            top = max(top, np.max(xs[-1][support], initial=-np.inf))
            gone = _vanished(xs[-1], velocities[-1], support, top, force_scale)
            if _at_rest(velocities[-1], support & ~gone, force_scale) and len(s) > 8:
                return _finish(fast, s, xs, velocities, support & ~gone)
    index = int(np.argmax(np.where(support, np.abs(velocities[-1]), 0.0)))
    raise Degenerate(_creeping(s[-1], index, velocities[-1]))


def _creeping(s: float, index: int, velocity: np.ndarray) -> str:
    return (
        f"a connecting orbit did not come to rest within s = {s:.3g}: flat weight number "
        f"{index} still moves at rate {velocity[index]:.3g}. The saddle is degenerate "
        "(zero restricted curvature, or a weight that leaves the support at zero force)"
    )


def _vanished(x, rate, support, top: float, force_scale: float) -> np.ndarray:
    """Falling weights far below `top`, the largest log-size of the orbit so far."""
    return support & (x < top - _VANISHED) & (rate < -_AT_REST * force_scale)


def _at_rest(rate: np.ndarray, rest: np.ndarray, force_scale: float) -> bool:
    return bool(np.all(np.abs(rate[rest]) <= _AT_REST * force_scale))


def _finish(fast: Fast, s, xs, velocities, rest: np.ndarray) -> Orbit:
    gone = np.asarray(fast.support) & ~rest
    x, jacobian = _polished(fast, xs[-1], rest)
    # at a saddle Newton has little left to do; where the force only fades it runs away
    drift = np.where(rest, x - xs[-1], 0.0)
    if np.max(drift) > _DRIFT:
        raise Unbounded(_NO_SADDLE)
    if np.min(drift) < -_DRIFT:
        raise Degenerate(_creeping(s[-1], int(np.argmin(drift)), velocities[-1]))
    theta = np.where(rest, np.asarray(fast.side) * 0.25 * np.exp(2.0 * x), 0.0)
    _, force = loss_and_force(fast.landscape, jnp.asarray(theta))
    # what is left after the last step, from the linear flow around the saddle:
    # δx' = Jδx on the support, so ∫δx = −J⁻¹δx, and the others gain (∂x'/∂x)∫δx
    delta = xs[-1][rest] - x[rest]
    integral = np.linalg.lstsq(jacobian[np.ix_(rest, rest)], -delta, rcond=1e-9)[0]
    tail = jacobian[:, rest] @ integral
    tail = np.where(gone, np.asarray(fast.side) * tail, tail)
    tail[rest] = -delta
    return Orbit(
        fast,
        np.array(s),
        np.array(xs),
        np.array(velocities),
        rest,
        theta,
        np.asarray(force),
        tail,
    )


def _polished(fast: Fast, x: np.ndarray, rest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Newton on the support in log coordinates; minimum-norm along lines of saddles."""
    saddle = Fast(fast.landscape, jnp.asarray(rest), fast.side, fast.decay)
    best = np.where(rest, x, -1e3)

    def rate(x):
        return np.asarray(_velocity_of(saddle, jnp.asarray(x)))

    jacobian = np.asarray(_velocity_jacobian(saddle, jnp.asarray(best)))
    residual = rate(best)
    for _ in range(8):
        if not rest.any():
            break
        step = np.zeros_like(x)
        block = jacobian[np.ix_(rest, rest)]
        step[rest] = np.linalg.lstsq(block, -residual[rest], rcond=1e-9)[0]
        candidate = best + step
        new = rate(candidate)
        if not np.max(np.abs(new[rest])) < np.max(np.abs(residual[rest])):
            break
        best, residual = candidate, new
    return best, np.asarray(_velocity_jacobian(saddle, jnp.asarray(best)))


@eqx.filter_jit
def _velocity_of(fast: Fast, x: Float[Array, " p"]) -> Float[Array, " p"]:
    return fast.velocity(x)


@eqx.filter_jit
def _velocity_jacobian(fast: Fast, x: Float[Array, " p"]) -> Float[Array, "p p"]:
    return jax.jacfwd(fast.velocity)(x)
