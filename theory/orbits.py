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
    one_step,
    velocity_and_loss,
    velocity_jacobian,
)

_ROUNDS = 100
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

    `s`, `state`, `velocity`, `loss`: accepted steps. `saddle`: the fast system at the saddle
    it ends in, its active parts at rest and the others where they are once what these still
    have to gain is added; `saddle_loss`, `saddle_weights`: there.
    """

    fast: Fast
    s: np.ndarray
    state: np.ndarray
    velocity: np.ndarray
    loss: np.ndarray
    saddle: Fast
    saddle_loss: float
    saddle_weights: dict[str, np.ndarray]

    def shifted(self, crossing: float) -> "Orbit":
        return dataclasses.replace(self, s=self.s - crossing)

    def start_pieces(self) -> list[Piece]:
        return self.fast.unpack(self.state[0])

    def at(self, s: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Loss and weights at any s: cubic Hermite in the state, its asymptotes beyond."""
        i = np.clip(np.searchsorted(self.s, s) - 1, 0, len(self.s) - 2)
        h = (self.s[i + 1] - self.s[i])[:, None]
        u = np.clip((s - self.s[i])[:, None] / h, 0.0, 1.0)
        state = (
            (1 + 2 * u) * (1 - u) ** 2 * self.state[i]
            + u * (1 - u) ** 2 * h * self.velocity[i]
            + u**2 * (3 - 2 * u) * self.state[i + 1]
            - u**2 * (1 - u) * h * self.velocity[i + 1]
        )
        before = np.minimum(s - self.s[0], 0.0)[:, None]
        loss, weights = evaluated(self.fast, state + before * self.velocity[0])
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
            state, loss = one_step(self.fast, start, jnp.asarray(step))
            return (-float(loss) if component is None else float(state[component])) - level

        return float(self.s[i]) + bracketed_root(gap, width)


def connect(fast: Fast, force_scale: float, tolerance: float) -> Orbit:
    """Follow the fast system from its start until every active part rests or has gone to zero.

    `tolerance` is the local error in directions and logarithms of sizes, absolute.

    **Raises:** Unbounded when the weights blow up (objective unbounded below, or a minimum at
    infinity); Degenerate when they creep without coming to rest.
    """
    state = fast.start()
    first = tuple(np.asarray(x)[None] for x in velocity_and_loss(fast, state))
    rows: list[tuple] = [(np.zeros(1), np.asarray(state)[None], *first)]
    pace = Pace.at(jnp.asarray(1e-3 / max(float(np.max(np.abs(first[0]))), 1e-300)))
    rest = _Rest(fast, _AT_REST * force_scale)
    rest.reached(rows[0][1][0], first[0][0])
    for _ in range(_ROUNDS):
        offset = float(rows[-1][0][-1])
        if offset * force_scale > _PATIENCE:
            break
        found, kept, pace = advance(fast, state, pace, jnp.asarray(tolerance))
        t, states, velocity, loss = (np.asarray(x)[np.asarray(kept)] for x in found)
        if not len(t) or not np.all(np.isfinite(states)) or rest.runaway(states[-1]):
            raise Unbounded(_NO_SADDLE)
        new = offset + t, states, velocity, loss
        for i in range(len(t)):
            if rest.reached(states[i], velocity[i]):
                rows.append(tuple(x[: i + 1] for x in new))
                return _finish(fast, rows, rest.gone)
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


def _finish(fast: Fast, rows: list[tuple], gone: np.ndarray) -> Orbit:
    s, state, velocity, loss = (np.concatenate(x) for x in zip(*rows, strict=True))
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
    return Orbit(fast, s, state, velocity, loss, saddle, float(height), weights)


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
