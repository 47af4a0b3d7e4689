r"""Hadamard weights in the limit algorithm.

Write |s| = α^e·e^b at the time of the last transition, one pair (e, b) for each factor s = u + v
and d = u − v of each weight. On a plateau of force g the factor of side σ = ±1 grows at rate
σg − λ, so it is O(1) after e/(σg − λ); on an orbit ψ = σe^{2x}/4 moves by x' = σg(ψ) − λ, and
the weights that are not on it gain ∫g.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float

from gflow import Hadamard
from gflow.internal import (
    Coordinate,
    coordinate_label,
    eager,
    on_device,
)

from ._course import Course, distance, of_order_one, side
from ._fast_system import OrbitLeaf
from ._orbits import Degenerate
from ._saddle_leaf import Due, Passage, SaddleLeaf, log_abs
from ._scales import DOUBT

#: A weight of a continued run this far below where it is going has not begun to switch.
_ON_ITS_WAY = 1e-8
#: Times that agree to this relative accuracy are tied.
_TIE = 1e-9
#: Rows of the tables: factor s, factor d.
_SIDE = np.array([1.0, -1.0])[:, None]


class Factors(OrbitLeaf):
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
        return _weight(self.x, self.support, self.side).reshape(self.shape)

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
        return np.ones(self.support.shape, bool)

    def without(self, gone):
        return eqx.tree_at(lambda p: p.support, self, self.support & ~gone)


@eager
def _weight(xp: Any, x: Any, support: Any, side: Any) -> Any:
    return side * 0.25 * xp.exp(2.0 * xp.where(support, x, -math.inf))


@dataclasses.dataclass(frozen=True, eq=False)
class HadamardWeights(SaddleLeaf):
    """All weights of one leaf. `alive`: the side a weight is on, 0 for a dormant one.

    Items are factors: first s of every weight, then d of every weight; `exponent` and `size` have
    their e and b in two rows. `force` is that of the plateau, `beyond` that on the other side of a
    kink at zero; `sign` is the side of the dormant weight, 0 for one that a kink holds, and `lean`
    the side that it is held from.
    """

    name: str
    shape: tuple[int, ...]
    decay: float
    exponent: np.ndarray
    size: np.ndarray
    weight: np.ndarray
    alive: np.ndarray
    sign: np.ndarray
    lean: np.ndarray
    force: np.ndarray
    beyond: np.ndarray
    floor: np.ndarray
    head: tuple[int, ...] = ()

    directed: ClassVar[bool] = False
    single: ClassVar[bool] = True
    roundings: ClassVar[float] = 1e3

    @classmethod
    def of(cls, name: str, leaf: Hadamard, log_alpha: float, decay: float) -> "HadamardWeights":
        """At the start of a leaf. **Raises:** ValueError for exponents that are no start."""
        exponent, size = _scales(leaf, log_alpha)
        none = np.zeros(exponent.shape[1])

        def label(where: np.ndarray) -> str:
            index = np.unravel_index(int(np.flatnonzero(where)[0]), leaf.shape)
            return coordinate_label((name, tuple(map(int, index))))

        growing = np.any(exponent < -1e-12, axis=0)
        if growing.any():
            raise ValueError(
                f"{label(growing)} has a negative exponent: it grows as α → 0. Exponents "
                "are ≥ 0, with 0 for the large factor of an active weight."
            )
        active = np.abs(exponent) <= 1e-12
        both = active[0] & active[1]
        if both.any():
            raise ValueError(
                f"{label(both)} has exponents (0, 0), so u² − v² does not go "
                "to zero with α. An active start has exponents (0, 2), or (2, 0) for a negative "
                "weight."
            )
        alive = np.where(active[0], 1, np.where(active[1], -1, 0))
        sign = np.where(alive != 0, alive, side(exponent, size))
        start = alive * 0.25 * np.exp(2.0 * np.where(alive < 0, size[1], size[0]))
        weight = np.where(alive != 0, start, 0.0).reshape(leaf.shape)
        lean = np.ones(len(none), int)
        return cls(
            name, leaf.shape, decay, exponent, size, weight, alive, sign, lean, none, none, none
        )

    @property
    def count(self) -> int:
        """Of the weights."""
        return self.exponent.shape[1]

    def _label(self, where: np.ndarray) -> str:
        return coordinate_label(self.coordinate(int(np.flatnonzero(where)[0])))

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

    def kind(self, item: int):
        return "weight", item // self.count, self.coordinate(item)[1][-1:]

    def with_force(self, force: np.ndarray, floor: ArrayLike) -> "HadamardWeights":
        force = np.ravel(force)
        floor = np.broadcast_to(np.ravel(floor), force.shape)
        return dataclasses.replace(self, force=force, beyond=force, floor=floor)

    @property
    def held(self) -> np.ndarray:
        """Weights that a kink keeps at exactly zero."""
        return (self.alive == 0) & (self.sign == 0)

    @property
    def at_kink(self) -> np.ndarray:
        return self.held.reshape(self.shape)

    def leaning(self, over: np.ndarray) -> "HadamardWeights":
        return dataclasses.replace(self, lean=np.where(np.ravel(over), -self.lean, self.lean))

    @property
    def turning(self) -> np.ndarray:
        toward = (self.sign * self._felt(self.force) < 0.0) & (self.alive == 0)
        return (toward | self.held | self._at_zero).reshape(self.shape)

    @property
    def _at_zero(self) -> np.ndarray:
        same = np.all((self.exponent[0] == self.exponent[1], self.size[0] == self.size[1]), axis=0)
        return same & (self.alive == 0) & ~self.held

    def with_force_beyond(self, beyond: np.ndarray) -> "HadamardWeights":
        away = self._at_zero & (self.sign * self._felt(self.force) > 0.0)
        torn = away & (self.sign * self._felt(np.ravel(beyond)) < 0.0)
        if torn.any():
            raise Degenerate(
                f"{self._label(torn)} starts exactly at a kink of the loss that both sides lead "
                "away from, so that the flow is not unique. Start off zero"
            )
        beyond = np.where(self.turning.ravel(), np.ravel(beyond), self.force)
        return dataclasses.replace(self, beyond=beyond)

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

    def candidates(self, faint: bool = False) -> Due:
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

    def exponent_and_size(self, item: int) -> tuple[float, float]:
        return float(self.exponent.ravel()[item]), float(self.size.ravel()[item])

    def after_plateau(self, tau: float, offset: float) -> "HadamardWeights":
        course = self.course
        tied = (course.after != course.force) & (np.abs(course.at - tau) <= _TIE * tau)
        if tau > 0.0 and tied.any():
            raise Degenerate(
                f"An accidental tie: {self._label(tied)} would change its sign, at a kink of the "
                "loss, just when the next weight switches. Perturb the data"
            )
        far, near = course.gained(tau, offset)
        turned = course.turned(tau, offset)
        sign = np.where(turned, course.sign_after(tau, offset), self.sign)
        held = (self.alive == 0) & (sign == 0)
        force = np.where(turned, np.where(held, 0.0, self.beyond), self.force)
        tables = self.exponent - self._grown(far, tau), self.size + self._grown(near, offset)
        exponent, size = (np.where(turned & held, np.mean(x, axis=0), x) for x in tables)
        return dataclasses.replace(self, sign=sign, force=force, exponent=exponent, size=size)

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
            on_device(x),
            on_device(sides != 0),
            on_device(np.where(sides < 0, -1.0, 1.0)),
            on_device(self.decay),
            on_device(np.where(self.held & (sides == 0), self.lean, 0).astype(float)),
            self.shape,
        )

    def at_saddle(self, entries, passage: Passage, force, floor) -> "HadamardWeights":
        before, after = passage.before, passage.after
        assert isinstance(before, Factors)
        assert isinstance(after, Factors)
        sides, rest = self._sides(entries), np.asarray(after.support)
        was = np.where((self.alive != 0) | self.held, 0.0, self.force)
        for item in entries:
            was[item % self.count] = self.rates.ravel()[item]
        there = self.with_force(force, floor)
        now = np.where(sides != 0, sides * there.force - self.decay, there.force)
        now = np.where(rest, 0.0, now)
        released = self.lean * there._felt(now) > 0.0
        still = self.held & ~released & (sides == 0)
        now = np.where(still, 0.0, now)
        # ∫(x' − was) over s < 0 and ∫(x' − now) over s > 0
        gain = np.asarray(after.x) - np.asarray(before.x) + was * passage.start - now * passage.end
        # on the orbit it is side·∫g − ∫λ, elsewhere ∫g
        force_gain = np.where(still, 0.0, np.where(sides < 0, -gain, gain))
        weight, alive = np.asarray(after.weight()), np.where(rest, sides, 0)
        exponent = np.where(np.stack([sides > 0, sides < 0]), 0.0, self.exponent)
        resting = np.stack([alive > 0, alive < 0])
        own = 0.5 * log_abs(weight.ravel(), 4.0)
        size = np.where(resting, own, self.size + _SIDE * force_gain)
        at_end = side(exponent, size + _SIDE * now * passage.end)
        at_end = np.where(self.held & released, self.lean, at_end)
        sign = np.where(still, 0, np.where(sides != 0, sides, at_end))
        return dataclasses.replace(
            there, exponent=exponent, size=size, weight=weight, alive=alive, sign=sign
        )

    def forgetful(self) -> "HadamardWeights":
        return dataclasses.replace(self, size=np.full_like(self.size, math.nan))

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

    def deferred(self, passage: Passage, log_alpha: float) -> "HadamardWeights":
        x, end = (np.asarray(p.flat()) for p in (passage.before, passage.after))
        rest = np.asarray(passage.after.active)
        away = rest & (x < end + 0.5 * math.log(_ON_ITS_WAY))
        if not away.any():
            return self
        row = np.stack([away & (self.alive > 0), away & (self.alive < 0)])
        return dataclasses.replace(
            self,
            exponent=np.where(row, self.size / log_alpha, self.exponent),
            size=np.where(row, 0.0, self.size),
            alive=np.where(away, 0, self.alive),
            weight=np.where(away, 0.0, self.theta).reshape(self.shape),
        )

    def signs(self) -> np.ndarray:
        return np.where(self.sign != 0, self.sign, self.lean).reshape(self.shape)

    def flat_directions(self) -> np.ndarray:
        return np.eye(self.count)[self.alive != 0]

    def log_weights(self, scale: float, waited: np.ndarray) -> list[np.ndarray]:
        logs = 2.0 * self.log_sizes(scale, waited)
        dormant = np.max(logs, axis=-2) - math.log(4.0)
        out = np.where(self.theta != 0, log_abs(self.theta), dormant)
        return [out.reshape(*out.shape[:-1], *self.shape)]


def _scales(leaf: Hadamard, log_alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """Exponents and log-factors, rows s and d, with respect to the model's α."""
    own = float(leaf.log_alpha)
    exponent = np.stack([np.ravel(leaf.exponent_s), np.ravel(leaf.exponent_d)])
    size = np.stack([np.ravel(leaf.log_factor_s), np.ravel(leaf.log_factor_d)])
    if math.isfinite(own):
        return exponent * (own / log_alpha), size
    return exponent, size - exponent * log_alpha
