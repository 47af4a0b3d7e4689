"""Connecting orbits: the fast system followed from one saddle to rest at the next."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from gflow.crossings import bracketed_root
from gflow.stepping import Pace

from .fast import (
    Fast,
    Piece,
    advance,
    evaluated,
    motion,
    one_step,
    velocity_and_loss,
    velocity_jacobian,
)

#: An orbit that takes more than so many explicit rounds is stiff; then implicit ones follow.
_EXPLICIT, _ROUNDS = 8, 60
#: Longest orbit, in units of 1/(largest initial force).
_PATIENCE = 1e8
#: A part this many e-folds (of the square root of its weight) below the largest counts as zero.
_VANISHED = 18.0
#: Log-size beyond which an orbit is taken to run away.
_RUNAWAY = 12.0
#: A rate this far below the largest initial force counts as rest.
_AT_REST = 1e-10
#: Newton from the end of an orbit moves log-sizes by far less than this.
_DRIFT = 0.05


class Unbounded(ValueError):
    """An orbit along which the weights grow without bound."""


class Degenerate(ValueError):
    """An orbit that creeps: it does not end in a saddle with a definite support."""


_NO_SADDLE = (
    "the weights grow without bound on a connecting orbit: the objective has no finite saddle "
    "there. It is unbounded below, or its minimum lies at infinity (a classification loss on "
    "separable data); add decay or targets that a finite weight can reach"
)


@dataclasses.dataclass(frozen=True, eq=False)
class Orbit:
    """A connecting orbit in its own time s, 0 where it crosses its level.

    `s`, `state`, `velocity`, `acceleration`, `loss`: accepted steps, explicit ones before number
    `stiff_from`. `saddle`: the fast system at the saddle
    it ends in, its active parts at rest and the others where they are once what these still
    have to gain is added; `saddle_loss`, `saddle_weights`: there.
    """

    fast: Fast
    s: np.ndarray
    state: np.ndarray
    velocity: np.ndarray
    acceleration: np.ndarray
    loss: np.ndarray
    stiff_from: int
    saddle: Fast
    saddle_loss: float
    saddle_weights: dict[str, np.ndarray]

    def shifted(self, crossing: float) -> "Orbit":
        return dataclasses.replace(self, s=self.s - crossing)

    def start_pieces(self) -> list[Piece]:
        return self.fast.unpack(self.state[0])

    def states(self, s: np.ndarray) -> np.ndarray:
        """States at any s: quintic Hermite, before the first step along its tail."""
        i = np.clip(np.searchsorted(self.s, s) - 1, 0, len(self.s) - 2)
        h = (self.s[i + 1] - self.s[i])[:, None]
        u = np.clip((s - self.s[i])[:, None] / h, 0.0, 1.0)
        value, slope, bend = self.state, self.velocity, self.acceleration
        step = value[i + 1] - value[i]
        state = (
            value[i]
            + u**3 * (10 + u * (-15 + 6 * u)) * step
            + h * u * (1 + u**2 * (-6 + u * (8 - 3 * u))) * slope[i]
            + h * u**3 * (-4 + u * (7 - 3 * u)) * slope[i + 1]
            + 0.5 * (h * u) ** 2 * (1 - u) ** 3 * bend[i]
            + 0.5 * (h * u) ** 2 * u * (1 - u) ** 2 * bend[i + 1]
        )
        before = np.minimum(s - self.s[0], 0.0)[:, None]
        return state + before * slope[0]

    def at(self, s: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Loss and weights at any s: from `states`, at the saddle beyond the last step."""
        loss, weights = evaluated(self.fast, self.states(s))
        after = s > self.s[-1]
        loss = np.where(after, self.saddle_loss, loss)
        for n, end in self.saddle_weights.items():
            where = after.reshape(-1, *(1 for _ in end.shape))
            weights[n] = np.where(where, end, weights[n])
        return loss, weights

    def crossing(self, component: int | None, level: float) -> float:
        """First time a component of the state rises, or (None) the loss falls, through `level`.

        Re-solved in its step.
        """
        values, sign = (-self.loss, -1.0) if component is None else (self.state[:, component], 1.0)
        level = sign * level
        i = int(np.flatnonzero((values[:-1] < level) & (values[1:] >= level))[0])
        start, width = jnp.asarray(self.state[i]), float(self.s[i + 1] - self.s[i])

        def gap(step: float) -> float:
            if step in (0.0, width):
                return float(values[i + (step > 0)]) - level
            state, loss = one_step(self.fast, start, jnp.asarray(step), i >= self.stiff_from)
            return (-float(loss) if component is None else float(state[component])) - level

        return float(self.s[i]) + bracketed_root(gap, width)


def connect(fast: Fast, force_scale: float, tolerance: float) -> Orbit:
    """Follow the fast system from its start until every active part rests or has gone to zero.

    `tolerance` is the local error in directions and logarithms of sizes, absolute.

    **Raises:** Unbounded when the weights blow up (objective unbounded below, or a minimum at
    infinity); Degenerate when they creep without coming to rest.
    """
    state = fast.start()
    rows: list[tuple] = [(np.zeros(1), *(np.asarray(x)[None] for x in motion(fast, state)))]
    fastest = float(np.max(np.abs(rows[0][2])))
    pace = Pace.at(jnp.asarray(1e-3 / max(fastest, 1e-300)))
    rest = _Rest(fast, _AT_REST * force_scale)
    rest.reached(rows[0][1][0], rows[0][2][0])
    # a Jacobian costs as many evaluations as the state has components
    explicit = _EXPLICIT * (1 + len(rest.active) // 13)
    for number in range(explicit + _ROUNDS):
        offset = float(rows[-1][0][-1])
        if offset * force_scale > _PATIENCE:
            break
        found, kept, pace = advance(fast, state, pace, jnp.asarray(tolerance), number >= explicit)
        t, states, velocity, *more = (np.asarray(x)[np.asarray(kept)] for x in found)
        if not len(t) or not np.all(np.isfinite(states)) or rest.runaway(states[-1]):
            raise Unbounded(_NO_SADDLE)
        new = offset + t, states, velocity, *more
        for i in range(len(t)):
            if rest.reached(states[i], velocity[i]):
                rows.append(tuple(x[: i + 1] for x in new))
                return _finish(fast, rows, explicit, rest.gone)
        rows.append(new)
        state = jnp.asarray(states[-1])
    s, velocity = rows[-1][0][-1], rows[-1][2][-1]
    raise Degenerate(_creeping(s, float(np.max(np.abs(velocity[fast.active])))))


def _creeping(s: float, rate: float) -> str:
    return (
        f"a connecting orbit did not come to rest within s = {s:.3g}: something still moves at "
        f"rate {rate:.3g}. The saddle is degenerate (zero restricted curvature, or a weight that "
        "leaves the support at zero force)"
    )


class _Rest:
    """Whether an orbit has come to rest, and which active parts have gone to zero on it."""

    def __init__(self, fast: Fast, slow: float):
        self.fast, self.slow = fast, slow
        self.active = fast.active
        self.sizes = fast.log_sizes & self.active
        self.top, self.steps = -np.inf, 0
        self.gone = np.zeros_like(self.active)

    def runaway(self, state: np.ndarray) -> bool:
        return bool(np.max(state[self.sizes], initial=-np.inf) > _RUNAWAY)

    def reached(self, state: np.ndarray, velocity: np.ndarray) -> bool:
        self.steps += 1
        self.top = max(self.top, float(np.max(state[self.sizes], initial=-np.inf)))
        gone = self.sizes & (state < self.top - _VANISHED) & (velocity < -self.slow)
        if np.any(gone != self.gone):
            self.gone, self.active = gone, self.fast.without(gone).active
        moving = np.max(np.abs(velocity[self.active]), initial=0.0)
        return self.steps > 8 and bool(moving <= self.slow)


def _finish(fast: Fast, rows: list[tuple], explicit: int, gone: np.ndarray) -> Orbit:
    s, state, velocity, *more = (np.concatenate(x) for x in zip(*rows, strict=True))
    saddle = fast.without(gone)
    rest, end = saddle.active, state[-1]
    best, jacobian = _polished(saddle, end, rest)
    # at a saddle Newton has little left to do; where the force only fades it runs away
    drift = np.where(rest & fast.log_sizes, best - end, 0.0)
    if np.max(drift) > _DRIFT:
        raise Unbounded(_NO_SADDLE)
    if np.min(drift) < -_DRIFT:
        raise Degenerate(_creeping(float(s[-1]), float(np.max(np.abs(velocity[-1][rest])))))
    if gone.any():
        jacobian = np.asarray(velocity_jacobian(fast, jnp.asarray(best)))
    # what is left after the last step, from the linear flow around the saddle: δ' = Jδ on the
    # active parts, so ∫δ = −J⁻¹δ, and the sizes of the others gain (∂v/∂active)∫δ
    integral = _solved(jacobian[np.ix_(rest, rest)], best[rest] - end[rest])
    tail = np.where(fast.log_sizes & ~rest, jacobian[:, rest] @ integral, 0.0)
    flat = jnp.asarray(best + tail)
    saddle = eqx.tree_at(lambda f: f.pieces, saddle, tuple(saddle.unpack(flat)))
    _, height = velocity_and_loss(saddle, flat)
    weights = jax.tree.map(np.asarray, saddle.weights(flat))
    stiff_from = sum(len(r[0]) for r in rows[: explicit + 1]) - 1
    return Orbit(fast, s, state, velocity, *more, stiff_from, saddle, float(height), weights)


def _polished(fast: Fast, state: np.ndarray, rest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Newton on the active parts; minimum-norm along lines of saddles."""

    def rate(state):
        return np.asarray(velocity_and_loss(fast, jnp.asarray(state))[0])

    jacobian = np.asarray(velocity_jacobian(fast, jnp.asarray(state)))
    block = jacobian[np.ix_(rest, rest)]
    best, residual = state, rate(state)
    for _ in range(8):
        if not rest.any():
            break
        candidate = best.copy()
        candidate[rest] += _solved(block, -residual[rest])
        new = rate(candidate)
        if not np.max(np.abs(new[rest])) < np.max(np.abs(residual[rest])):
            break
        best, residual = candidate, new
    return best, jacobian


def _solved(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.linalg.lstsq(matrix, right, rcond=1e-9)[0] if right.size else right
