r"""Hadamard weights in the limit algorithm.

Write |s| = α^e·e^b at the time of the last transition, one pair (e, b) for each factor s = u + v
and d = u − v of each weight. On a plateau of force g the factor of side σ = ±1 grows at rate
σg − λ, so it is O(1) after e/(σg − λ); on an orbit ψ = σe^{2x}/4 moves by x' = σg(ψ) − λ, and
the weights that are not on it gain ∫g.
"""

import math
from collections.abc import Mapping

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float

from gflow import Hadamard
from gflow.internal import (
    Coordinate,
    coordinate_label,
)

from ._course import Course, distance, of_order_one, side
from ._fast import Piece
from ._orbits import Degenerate
from ._part import Due, Part, Passage, log_abs
from ._scales import DOUBT

#: A weight of a continued run this far below where it is going has not begun to switch.
_ON_ITS_WAY = 1e-8
#: Times that agree to this relative accuracy are tied.
_TIE = 1e-9
#: Rows of the tables: factor s, factor d.
_SIDE = np.array([1.0, -1.0])[:, None]


class Factors(Piece):
    """x = log of the living factor of weights on the orbit, and ∫g of the others.

    `held`: the sign of weights that a kink holds at zero until the force has that sign, else 0.
    """

    x: Float[Array, " p"]
    support: Bool[Array, " p"]
    side: Float[Array, " p"]
    decay: Float[Array, ""]
    held: Float[Array, " p"]
    shape: tuple[int, ...] = eqx.field(static=True)

    def flat(self):
        return self.x

    def at(self, flat):
        return eqx.tree_at(lambda p: p.x, self, flat)

    def weight(self):
        alive = jnp.where(self.support, self.x, -jnp.inf)
        return (self.side * 0.25 * jnp.exp(2.0 * alive)).reshape(self.shape)

    def velocity(self, force):
        g = force.ravel()
        g = jnp.where(self.held == 0.0, g, self.held * jnp.maximum(self.held * g, 0.0))
        return jnp.where(self.support, self.side * g - self.decay, g)

    @property
    def modes(self):
        return self.x.size

    def disturbed(self, amount):
        return self.weight() + amount.reshape(self.shape)

    def pushed(self, force, amount):
        return self.velocity(force)

    def loose(self):
        return eqx.tree_at(lambda p: p.held, self, jnp.zeros_like(self.held))

    @property
    def active(self):
        return self.support

    @property
    def log_sizes(self):
        return jnp.ones_like(self.support)

    def without(self, gone):
        return eqx.tree_at(lambda p: p.support, self, self.support & ~gone)


class HadamardWeights(Part):
    """All weights of one leaf. `alive`: the side a weight is on, 0 for a dormant one.

    Items are factors: first s of every weight, then d of every weight.
    """

    directed, single = False, True
    roundings = 1e3

    def __init__(self, name: str, leaf: Hadamard, log_alpha: float, decay: float):
        self.name, self.head, self.shape = name, (), leaf.shape
        self.decay = decay
        self.exponent, self.size = _scales(leaf, log_alpha)
        self.count = self.exponent.shape[1]
        self.force = self.beyond = np.zeros(self.count)
        self.floor = np.zeros(self.count)
        growing = np.any(self.exponent < -1e-12, axis=0)
        if growing.any():
            raise ValueError(
                f"{self._label(growing)} has a negative exponent: it grows as α → 0. Exponents "
                "are ≥ 0, with 0 for the large factor of an active weight."
            )
        active = np.abs(self.exponent) <= 1e-12
        both = active[0] & active[1]
        if both.any():
            raise ValueError(
                f"{self._label(both)} has exponents (0, 0), so u² − v² does not go "
                "to zero with α. An active start has exponents (0, 2), or (2, 0) for a negative "
                "weight."
            )
        self.alive = np.where(active[0], 1, np.where(active[1], -1, 0))
        self.sign = np.where(self.alive != 0, self.alive, side(self.exponent, self.size))
        self.lean = np.ones(self.count, int)
        start = self.alive * 0.25 * np.exp(2.0 * self._living(self.size))
        self.weight = np.where(self.alive != 0, start, 0.0).reshape(self.shape)

    def _label(self, where: np.ndarray) -> str:
        return coordinate_label(self.coordinate(int(np.flatnonzero(where)[0])))

    def _living(self, table: np.ndarray) -> np.ndarray:
        """Row of the active side, for every weight (row s for dormant ones)."""
        return np.where(self.alive < 0, table[1], table[0])

    @property
    def theta(self) -> np.ndarray:
        return self.weight.ravel()

    @property
    def rank(self) -> np.ndarray:
        return np.asarray(np.sum(self.weight != 0, axis=-1))

    @property
    def active(self) -> list[Coordinate]:
        return [self.coordinate(int(i)) for i in np.flatnonzero(self.alive)]

    def coordinate(self, item: int) -> Coordinate:
        return self.name, tuple(int(i) for i in np.unravel_index(item % self.count, self.shape))

    def copies(self, item: int):
        return "weight", item // self.count, self.coordinate(item)[1][-1:]

    def feel(self, force: np.ndarray, floor: ArrayLike) -> None:
        self.force = self.beyond = np.ravel(force)
        self.floor = np.broadcast_to(np.ravel(floor), self.force.shape)

    @property
    def held(self) -> np.ndarray:
        """Weights that a kink keeps at exactly zero."""
        return (self.alive == 0) & (self.sign == 0)

    @property
    def at_kink(self) -> np.ndarray:
        return self.held.reshape(self.shape)

    def leaned(self, over: np.ndarray) -> None:
        self.lean = np.where(np.ravel(over), -self.lean, self.lean)

    @property
    def turning(self) -> np.ndarray:
        toward = (self.sign * self._felt(self.force) < 0.0) & (self.alive == 0)
        return (toward | self.held | self._at_zero).reshape(self.shape)

    @property
    def _at_zero(self) -> np.ndarray:
        same = np.all((self.exponent[0] == self.exponent[1], self.size[0] == self.size[1]), axis=0)
        return same & (self.alive == 0) & ~self.held

    def meet(self, beyond: np.ndarray) -> None:
        away = self._at_zero & (self.sign * self._felt(self.force) > 0.0)
        torn = away & (self.sign * self._felt(np.ravel(beyond)) < 0.0)
        if torn.any():
            raise Degenerate(
                f"{self._label(torn)} starts exactly at a kink of the loss that both sides lead "
                "away from, so that the flow is not unique. Start off zero"
            )
        self.beyond = np.where(self.turning.ravel(), np.ravel(beyond), self.force)

    def _felt(self, force: np.ndarray) -> np.ndarray:
        return np.where(np.abs(force) > self.floor, force, 0.0)

    @property
    def course(self) -> Course:
        """Of the dormant weights on this plateau."""
        dormant = np.where(self.alive == 0, self.sign, 0)
        force = np.where(self.held, 0.0, self._felt(self.force))
        far = distance(dormant, self.exponent, self.size)
        return Course.of(dormant, far, force, self._felt(self.beyond))

    @property
    def rates(self) -> np.ndarray:
        """Growth rate of both factors of every weight; 0 for those at rest."""
        return self._grown(np.where(self.held, 0.0, self._felt(self.force)))

    def _grown(self, force: np.ndarray, span: np.ndarray | float = 1.0) -> np.ndarray:
        """Gains of both factors from ∫g over a span; 0 for those at rest."""
        gains = _SIDE * force[..., None, :] - self.decay * np.asarray(span)
        return np.where(np.stack([self.alive > 0, self.alive < 0]), 0.0, gains)

    def due(self, faint: bool = False) -> Due:
        course, first = self.course, self.rates
        last = _SIDE * self.force - self.decay if faint else self._grown(course.after)
        growing = last > (DOUBT * self.floor if faint else self.floor)
        growing = growing & ((self.alive == 0) & ~(faint & self.held))[None]
        growing = growing & ~(faint & (first > self.floor))
        at, late = (np.where(course.turns & (not faint), x, 0.0) for x in (course.at, course.late))
        with np.errstate(divide="ignore", invalid="ignore"):
            wait = np.where(growing, (self.exponent + (last - first) * at) / last, np.inf)
        size = self.size + (first - last) * late
        return Due(wait.ravel(), last.ravel(), size.ravel())

    @property
    def held_back(self) -> int:
        drawn = (np.abs(self.force) > self.floor) & (self.alive == 0) & ~self.held
        return int(np.sum(drawn & (np.abs(self.force) - self.decay <= self.floor)))

    def stands(self, item: int) -> tuple[float, float]:
        return float(self.exponent.ravel()[item]), float(self.size.ravel()[item])

    def wait(self, tau: float, offset: float) -> None:
        course = self.course
        tied = (course.after != course.force) & (np.abs(course.at - tau) <= _TIE * tau)
        if tau > 0.0 and tied.any():
            raise Degenerate(
                f"An accidental tie: {self._label(tied)} would change its sign, at a kink of the "
                "loss, just when the next weight switches. Perturb the data"
            )
        far, near = course.gained(tau, offset)
        turned = course.turned(tau, offset)
        self.sign = np.where(turned, course.sign_after(tau, offset), self.sign)
        self.force = np.where(turned, np.where(self.held, 0.0, self.beyond), self.force)
        self.exponent = self.exponent - self._grown(far, tau)
        self.size = self.size + self._grown(near, offset)
        self.exponent, self.size = (
            np.where(turned & self.held, np.mean(x, axis=0), x) for x in (self.exponent, self.size)
        )

    def after(self, tau: float) -> np.ndarray:
        """e of all factors `tau` after the transition."""
        return self.exponent - self._grown(self.course.gained(tau, 0.0)[0], tau)

    def log_sizes(self, scale: float, waited: np.ndarray | float) -> np.ndarray:
        """log|s| and log|d| at Λ = scale, `waited` flow time after the transition."""
        waited = np.asarray(waited, float)[..., None]
        gain = self.course.gained_by(scale, waited)
        return self.size - self.exponent * scale + self._grown(gain, waited[..., None])

    def _sides(self, entries: Mapping[int, float]) -> np.ndarray:
        sides = self.alive.copy()
        for item in entries:
            sides[item % self.count] = 1 if item < self.count else -1
        return sides

    def piece(self, entries: Mapping[int, float]) -> Factors:
        sides = self._sides(entries)
        x = np.where(self.alive != 0, 0.5 * log_abs(self.theta, 4.0), 0.0)
        for item, entry in entries.items():
            x[item % self.count] = entry
        return Factors(
            jnp.asarray(x),
            jnp.asarray(sides != 0),
            jnp.asarray(np.where(sides < 0, -1.0, 1.0)),
            jnp.asarray(self.decay),
            jnp.asarray(np.where(self.held & (sides == 0), self.lean, 0).astype(float)),
            self.shape,
        )

    def land(self, entries, passage: Passage, force, floor) -> None:
        before, after = passage.before, passage.after
        assert isinstance(before, Factors)
        assert isinstance(after, Factors)
        sides, rest = self._sides(entries), np.asarray(after.support)
        was = np.where((self.alive != 0) | self.held, 0.0, self.force)
        for item in entries:
            was[item % self.count] = self.rates.ravel()[item]
        self.feel(force, floor)
        now = np.where(sides != 0, sides * self.force - self.decay, self.force)
        now = np.where(rest, 0.0, now)
        released = self.lean * self._felt(now) > 0.0
        still = self.held & ~released & (sides == 0)
        now = np.where(still, 0.0, now)
        # ∫(x' − was) over s < 0 and ∫(x' − now) over s > 0
        gain = np.asarray(after.x) - np.asarray(before.x) + was * passage.start - now * passage.end
        # on the orbit it is side·∫g − ∫λ, elsewhere ∫g
        force_gain = np.where(still, 0.0, np.where(sides < 0, -gain, gain))
        self.size = self.size + _SIDE * force_gain
        own = np.stack([sides > 0, sides < 0])
        self.exponent = np.where(own, 0.0, self.exponent)
        self.weight = np.asarray(after.weight())
        self.alive = np.where(rest, sides, 0)
        resting = np.stack([self.alive > 0, self.alive < 0])
        self.size = np.where(resting, 0.5 * log_abs(self.theta, 4.0), self.size)
        at_end = side(self.exponent, self.size + _SIDE * now * passage.end)
        at_end = np.where(self.held & released, self.lean, at_end)
        self.sign = np.where(still, 0, np.where(sides != 0, sides, at_end))

    def crossed(self, states: np.ndarray, s: np.ndarray) -> np.ndarray:
        near = of_order_one(self.exponent) & ~self.held & (self.alive == 0)
        x = 0.5 * (self.size[0] - self.size[1]) + states - states[:1] + self.force * s[0]
        return (near & np.any(self.sign * x < 0.0, axis=0)).reshape(self.shape)

    def threshold(self, item: int, weight: np.ndarray) -> tuple[int, float, float] | None:
        index = item % self.count
        half = 0.5 * float(weight.ravel()[index])
        return (index, 0.5 * math.log(4.0 * abs(half)), half) if half else None

    def rising(self, passage: Passage) -> list[int]:
        x, end = (np.asarray(p.flat()) for p in (passage.before, passage.after))
        below = np.asarray(passage.after.active) & (x < end - 0.5 * math.log(2.0))
        return [int(i) for i in np.flatnonzero(below)]

    def defer(self, passage: Passage, log_alpha: float) -> bool:
        x, end = (np.asarray(p.flat()) for p in (passage.before, passage.after))
        rest = np.asarray(passage.after.active)
        away = rest & (x < end + 0.5 * math.log(_ON_ITS_WAY))
        row = np.stack([away & (self.alive > 0), away & (self.alive < 0)])
        self.exponent = np.where(row, self.size / log_alpha, self.exponent)
        self.size = np.where(row, 0.0, self.size)
        self.alive = np.where(away, 0, self.alive)
        self.weight = np.where(away, 0.0, self.theta).reshape(self.shape)
        return bool(away.any())

    def signs(self) -> np.ndarray:
        return np.where(self.sign != 0, self.sign, self.lean).reshape(self.shape)

    def flat_directions(self) -> np.ndarray:
        return np.eye(self.count)[self.alive != 0]

    def log_weights(self, scale: float, waited: np.ndarray) -> np.ndarray:
        logs = 2.0 * self.log_sizes(scale, waited)
        dormant = np.max(logs, axis=-2) - math.log(4.0)
        out = np.where(self.theta != 0, log_abs(self.theta), dormant)
        return out.reshape(*out.shape[:-1], *self.shape)


def _scales(leaf: Hadamard, log_alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """Exponents and log-factors, rows s and d, with respect to the model's α."""
    own = float(leaf.log_alpha)
    exponent = np.stack([np.ravel(leaf.exponent_s), np.ravel(leaf.exponent_d)])
    size = np.stack([np.ravel(leaf.log_factor_s), np.ravel(leaf.log_factor_d)])
    if math.isfinite(own):
        return exponent * (own / log_alpha), size
    return exponent, size - exponent * log_alpha
