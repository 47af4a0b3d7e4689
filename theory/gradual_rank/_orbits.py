"""Connecting orbits: the fast system followed from one saddle to rest at the next."""

import dataclasses
import math

import equinox as eqx
import numpy as np

from gflow.internal import bracketed_root, least_squares

from ._fast_system import FastSystem, OrbitLeaf
from ._methods import Method, Methods
from ._motion import evaluated, moving, velocity_jacobian, weights_at

#: Longest orbit, in units of 1/(largest speed of what still moves).
_PATIENCE = 1e8
#: A part that has fallen so many e-folds (of the square root of its weight) counts as zero.
_VANISHED = 18.0
#: Log-size beyond the natural one at which an orbit is taken to run away.
_RUNAWAY = 12.0
#: A speed this far below the largest of the same component on the orbit counts as rest.
_AT_REST = 1e-10
#: Newton from the end of an orbit moves log-sizes by far less than this.
_DRIFT = 0.05
#: Relaxation this much slower than the motion was: curvature or a creeping approach?
_SLOW = 1e-3
#: Below this what is left of the relaxation at the saddle is rounding: it has no curvature.
_FLAT = 1e-6
#: Steps of Newton's method with a Jacobian of their own; at a double root each halves the way.
_NEWTON = 40
#: An error of so many roundings of the speed is accepted in each step.
_ROUNDED = 10.0
#: Speeds of so many roundings, and rows of a Jacobian of so many, say something.
_FELT, _ROW = 20.0, 5e4


class Unbounded(ValueError):
    """An orbit along which the weights grow without bound."""


class Degenerate(ValueError):
    """An orbit that creeps: it does not end in a saddle with a definite support."""


_AT_INFINITY = (
    "the weights grow without bound on a connecting orbit while the force on them fades: the "
    "minimum lies at infinity, so there is no finite saddle (a logistic or exponential loss on "
    "separable data); add decay or targets that a finite weight can reach, or stop the path before "
    "by max_stages"
)
_BELOW = (
    "the weights grow without bound on a connecting orbit and the force on them does not fade: the "
    "objective is unbounded below there, so there is no finite saddle; add decay, or a loss that "
    "a finite weight minimises"
)


@dataclasses.dataclass(frozen=True, eq=False)
class Limits:
    """For every component of the fast system: what is small, and what is large.

    `noise`: one rounding of its speed. `rest`: a speed that counts as none. `reach`: the log-size
    to be expected.
    """

    noise: np.ndarray
    rest: np.ndarray
    reach: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Orbit:
    """A connecting orbit in its own time s, 0 where it crosses its level.

    `s`, `state`, `velocity`, `acceleration`, `loss`: accepted steps, `by`: the method of the step
    that ends there. `saddle`: the fast system at the saddle
    it ends in, its active parts at rest and the others where they are once what these still
    have to gain is added; `saddle_loss`, `saddle_weights`: there. `approach`: how fast what
    moves last dies out at the saddle, in units of the speed it had on the orbit. `slowest`: the
    smallest rate at which the saddle relaxes.
    """

    fast: FastSystem
    s: np.ndarray
    state: np.ndarray
    velocity: np.ndarray
    acceleration: np.ndarray
    loss: np.ndarray
    by: list[Method]
    saddle: FastSystem
    saddle_loss: float
    saddle_weights: dict[str, np.ndarray]
    approach: float
    limits: Limits
    slowest: float

    @property
    def degenerate(self) -> bool:
        """Whether it creeps into its saddle, as a power of time and not exponentially."""
        return self.approach < _FLAT

    def shifted(self, crossing: float) -> "Orbit":
        return dataclasses.replace(self, s=self.s - crossing)

    def start_pieces(self) -> list[OrbitLeaf]:
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

    def ahead(self, s: float) -> tuple[float, dict[str, np.ndarray]]:
        """How far loss and weights still are from the saddle at time s, in size."""
        loss, weights = self.at(np.array([s]))
        pairs = {n: np.abs(weights[n][0] - end) for n, end in self.saddle_weights.items()}
        return abs(float(loss[0]) - self.saddle_loss), pairs

    def crossing(self, component: int | None, level: float) -> float:
        """First time a component of the state rises, or (None) the loss falls, through `level`.

        Re-solved in its step.
        """
        values, sign = (-self.loss, -1.0) if component is None else (self.state[:, component], 1.0)
        level = sign * level
        i = int(np.flatnonzero((values[:-1] < level) & (values[1:] >= level))[0])
        width = float(self.s[i + 1] - self.s[i])

        def gap(step: float) -> float:
            if step in (0.0, width):
                return float(values[i + (step > 0)]) - level
            state = self.by[i + 1].one_step(self.fast, self.state[i], step)
            found = -moving(self.fast, state[None]).loss if component is None else state[component]
            return float(np.squeeze(found)) - level

        return float(self.s[i]) + bracketed_root(gap, width)


def connect(fast: FastSystem, limits: Limits, tolerance: float) -> Orbit:
    """Follow the fast system from its start until every active part rests or has gone to zero.

    `tolerance` is the local error in directions and logarithms of sizes, absolute; where the speed
    that sets the pace is itself hardly more than rounding it is wider.

    **Raises:** Unbounded when the weights blow up (objective unbounded below, or a minimum at
    infinity); Degenerate when they creep without coming to rest.
    """
    state = np.asarray(fast.start())
    rows: list[tuple] = [(np.zeros(1), state[None], *moving(fast, state[None]))]
    fastest = float(np.max(np.abs(rows[0][2])))
    rest = _Rest(fast, limits)
    rest.reached(rows[0][1][0], rows[0][2][0])
    tolerance = max(tolerance, _ROUNDED * rest.noisiness(rows[0][2][0]))
    methods = Methods.of(state.size, tolerance)
    pace = methods.start(1e-3 / max(fastest, 1e-300))
    by, overdue = [methods.first], False
    for number in range(methods.most):
        offset = float(rows[-1][0][-1])
        if overdue := rest.overdue(offset):
            break
        method = methods.at(number)
        t, states, pace = method.advance(fast, state, offset, 1.0 / max(fastest, 1e-300), pace)
        if not len(t) or not np.all(np.isfinite(states)) or rest.runaway(states[-1]):
            raise Unbounded(_AT_INFINITY if rest.faded else _BELOW)
        new = offset + t, states, *moving(fast, states)
        by += [method] * len(t)
        for i in range(len(t)):
            if rest.reached(states[i], new[2][i]):
                rows.append(tuple(x[: i + 1] for x in new))
                return _finish(rest, rows, by)
        rows.append(new)
        state = states[-1]
    s, end, velocity = rows[-1][0][-1], rows[-1][1][-1], rows[-1][2][-1]
    best, _ = _polished(rest, end, True)
    if np.max((best - end)[rest.active & rest.sizes], initial=0.0) > _DRIFT:
        raise Unbounded(_AT_INFINITY)
    rate = float(np.max(np.abs(velocity[fast.active])))
    raise Degenerate(_creeping(s, rate) if overdue else _unfinished(s, rate, len(by)))


def _creeping(s: float, rate: float) -> str:
    return (
        f"a connecting orbit did not come to rest within s = {s:.3g}: something still moves at "
        f"rate {rate:.3g}. The saddle is degenerate (zero restricted curvature, or a weight that "
        "leaves the support at zero force)"
    )


def _unfinished(s: float, rate: float, steps: int) -> str:
    return (
        f"a connecting orbit did not come to rest in {steps} steps, up to s = {s:.3g}: something "
        f"still moves at rate {rate:.3g}. It ends in a degenerate saddle (zero restricted "
        "curvature), or only takes long; a larger rtol follows slow orbits in fewer steps"
    )


class _Rest:
    """Whether an orbit has come to rest, and which active parts have gone to zero on it.

    Every component is measured with its own largest speed so far (`peak`), columns with that of
    their matrix, down to where speeds are rounding. `pace`: the largest speed so measured.
    """

    def __init__(self, fast: FastSystem, limits: Limits):
        self.fast, self.limits, self.saddle = fast, limits, fast
        self.active = self.parts = fast.active
        self.together = fast.together()
        self.sizes = fast.log_sizes & self.active
        start = np.asarray(fast.start())
        self.reach = np.maximum(limits.reach, start) + _RUNAWAY
        self.peak, self.top, self.steps = np.zeros(len(start)), start, 0
        self.gone = np.zeros_like(self.active)
        self.moving, self.faded, self.pace = self.active, False, math.inf

    def scales(self, speed: np.ndarray) -> np.ndarray:
        """The speeds of all components, each on the scale of its piece."""
        for part in self.together:
            speed[part] = np.max(speed[part], initial=0.0)
        return speed

    def runaway(self, state: np.ndarray) -> bool:
        return bool(np.any((state > self.reach)[self.sizes]))

    def noisiness(self, velocity: np.ndarray) -> float:
        """Relative rounding of the speed that is known best."""
        if not self.moving.any():
            return 0.0
        return float(np.min(self.limits.noise[self.moving] / np.abs(velocity[self.moving])))

    def overdue(self, s: float) -> bool:
        return bool(np.any(s * self.peak[self.moving] > _PATIENCE))

    def reached(self, state: np.ndarray, velocity: np.ndarray) -> bool:
        self.steps += 1
        speed = self.scales(np.where(self.parts, np.abs(velocity), 0.0))
        self.peak, self.top = np.maximum(self.peak, speed), np.maximum(self.top, state)
        slow = np.maximum(_AT_REST * self.peak, self.limits.rest)
        gone = self.sizes & (state < self.top - _VANISHED) & (velocity < -slow)
        if np.any(gone != self.gone):
            self.gone, self.saddle = gone, self.fast.without(gone)
            self.active = self.saddle.active
        self.moving = self.active & (np.abs(velocity) > slow)
        share = speed[self.moving] / np.maximum(self.peak[self.moving], 1e-300)
        self.pace = float(np.max(share, initial=0.0))
        self.faded = not np.any((velocity > 0.1 * self.peak)[self.sizes])
        return self.steps > 8 and not np.any(self.moving)

    def relaxation(self, velocity: np.ndarray, change: np.ndarray) -> float:
        """Rate at which motion at `velocity` changes, in units of the speed it had before."""
        felt = self.active & (np.abs(velocity) > _FELT * self.limits.noise)
        if not felt.any():
            return np.inf
        peak = self.peak[felt]
        relative = velocity[felt] / peak
        speed = np.sum(relative**2 * peak) / np.sum(relative**2)
        return float(np.linalg.norm(change[felt] / peak) / np.linalg.norm(relative) / speed)


def _finish(rest: _Rest, rows: list[tuple], by: list[Method]) -> Orbit:
    s, state, velocity, acceleration, loss = (np.concatenate(x) for x in zip(*rows, strict=True))
    fast, saddle, active, end = rest.fast, rest.saddle, rest.active, state[-1]
    approach = rest.relaxation(velocity[-1], acceleration[-1])
    slow = approach < _SLOW
    best, jacobian = _polished(rest, end, slow)
    # at a saddle Newton has little left to do; where the force only fades it runs away
    drift = np.where(active & fast.log_sizes, best - end, 0.0)
    if np.max(drift) > _DRIFT:
        raise Unbounded(_AT_INFINITY)
    if np.min(drift) < -_DRIFT:
        raise Degenerate(_creeping(float(s[-1]), float(np.max(np.abs(velocity[-1][active])))))
    if slow:
        last = np.where(active, velocity[-1], 0.0)
        approach = rest.relaxation(last, jacobian @ last[active])
    if rest.gone.any():
        jacobian = velocity_jacobian(fast, best, active)
    # what is left after the last step, from the linear flow around the saddle: δ' = Jδ on the
    # active parts, so ∫δ = −J⁻¹δ, and the sizes of the others gain (∂v/∂active)∫δ
    block = jacobian[active]
    integral = _solved(block, best[active] - end[active], _row_scales(rest, block))
    tail = np.where(fast.log_sizes & ~active, jacobian @ integral, 0.0)
    there = best + tail
    saddle = eqx.tree_at(lambda f: f.pieces, saddle, tuple(saddle.unpack(there)))
    height, weights = moving(saddle, there[None]).loss[0], weights_at(saddle, there)
    return Orbit(
        fast, s, state, velocity, acceleration, loss, by[: len(s)], saddle, float(height), weights,
        approach, rest.limits, _slowest(block),
    )  # fmt: skip


def _slowest(block: np.ndarray) -> float:
    """Of what is not a line of saddles or a turn of the gauge."""
    rates = -np.linalg.eigvals(block).real
    still = _FLAT * np.max(np.abs(rates), initial=0.0)
    return float(np.min(rates[rates > still], initial=np.inf))


def _polished(rest: _Rest, state: np.ndarray, renewed: bool) -> tuple[np.ndarray, np.ndarray]:
    """Newton on the active parts, minimum-norm along lines of saddles; the last Jacobian.

    Where it is not `renewed` that of the end of the orbit will do.
    """
    fast, active = rest.saddle, rest.active

    def rate(state):
        return moving(fast, state[None]).velocity[0]

    def derivative(state):
        whole = velocity_jacobian(fast, state, active)
        block = whole[active]
        return whole, block, _row_scales(rest, block)

    jacobian, block, rows = derivative(state)
    best, residual = state, rate(state)
    for _ in range(_NEWTON if renewed else 8):
        if not active.any():
            break
        candidate = best.copy()
        candidate[active] += _solved(block, -residual[active], rows)
        new = rate(candidate)
        if not np.max(np.abs(new[active] / rows)) < np.max(np.abs(residual[active] / rows)):
            break
        best, residual = candidate, new
        if renewed:
            jacobian, block, rows = derivative(best)
    return best, jacobian


def _row_scales(rest: _Rest, block: np.ndarray) -> np.ndarray:
    """Sizes of the rows of a Jacobian of the active parts; infinite where it is rounding."""
    norms = np.zeros(len(rest.active))
    norms[rest.active] = np.linalg.norm(block, axis=1)
    scales = rest.scales(norms)
    return np.where(scales > _ROW * rest.limits.noise, scales, np.inf)[rest.active]


def _solved(matrix: np.ndarray, right: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Least squares, each row in units of its own."""
    if not right.size:
        return right
    return least_squares(matrix / rows[:, None], right / rows, rcond=1e-9)
