r"""How a dormant weight changes its sign on a plateau where the loss may have a kink at zero.

ψ = s²/4 − d²/4 has the sign of x = ½ log(s/d), and x' = g for a force g that is constant on the
plateau but for the sign of x. Where g pushes towards x = 0 it comes there, once, and then goes
on with the force of the other side, or stays: with g₊ ≤ 0 ≤ g₋ the kink holds it, s = d.
Of a weight on its own that is all that can depend on a sign. For, near the saddle, L is
homogeneous of degree one in the dormant weights, continuous, and linear wherever their signs
are given: then what multiplies ψ_i is the same on both sides of ψ_j = 0.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int

#: A log-size ½ log(s/d) at most this share of Λ is of order one.
_ORDER_ONE = 1e-12


@dataclasses.dataclass(frozen=True, eq=False)
class Course:
    """Of all weights of a leaf: `sign` (0 where a kink holds it), and the force on that side.

    `at`, `late`: at·Λ + late after the transition x is zero, infinite for never; from then on
    the force is `after`.
    """

    sign: Int[np.ndarray, " n"]
    force: Float[np.ndarray, " n"]
    after: Float[np.ndarray, " n"]
    at: Float[np.ndarray, " n"]
    late: Float[np.ndarray, " n"]

    @classmethod
    def of(
        cls,
        sign: np.ndarray,
        distance: tuple[np.ndarray, np.ndarray],
        force: np.ndarray,
        beyond: np.ndarray,
    ) -> "Course":
        """`distance`: |x| as multiple of Λ and offset; `beyond`: the force on the other side."""
        toward = sign * force < 0.0
        speed = np.where(toward, np.abs(force), 1.0)
        at, late = (np.where(toward, x / speed, np.inf) for x in distance)
        after = np.where(toward, np.where(sign * beyond < 0.0, beyond, 0.0), force)
        return cls(sign, force, after, np.maximum(at, 0.0), late)

    @property
    def turns(self) -> Bool[np.ndarray, " n"]:
        return np.isfinite(self.at)

    def turned(self, tau: float, offset: float) -> Bool[np.ndarray, " n"]:
        """Which have come to zero by tau·Λ + offset, α → 0."""
        return (self.at < tau) | ((self.at == tau) & (self.late < offset))

    def gained(self, tau: float, offset: float) -> tuple[np.ndarray, np.ndarray]:
        """∫g up to tau·Λ + offset, as multiple of Λ and offset."""
        change = np.where(self.turned(tau, offset), self.after - self.force, 0.0)
        at, late = (np.where(change != 0.0, x, 0.0) for x in (self.at, self.late))
        return self.force * tau + change * (tau - at), self.force * offset + change * (
            offset - late
        )

    def gained_by(self, scale: float, waited: np.ndarray) -> np.ndarray:
        """∫g over a flow time `waited`, at Λ = scale; the last axis is that of the weights."""
        with np.errstate(invalid="ignore"):
            when = np.where(self.turns, self.at * scale + self.late, np.inf)
        over = np.where(waited > when, waited - when, 0.0)
        return self.force * waited + (self.after - self.force) * over

    def sign_after(self, tau: float, offset: float) -> np.ndarray:
        crossed = np.where(self.after != 0.0, -self.sign, 0)
        return np.where(self.turned(tau, offset), crossed, self.sign)


def distance(
    sign: np.ndarray, exponent: np.ndarray, size: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """|x| as multiple of Λ and offset, from tables of e and b with rows s and d."""
    return 0.5 * sign * (exponent[1] - exponent[0]), 0.5 * sign * (size[0] - size[1])


def side(exponent: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Signs as α → 0: that of the larger factor, or 1."""
    far, near = exponent[1] - exponent[0], size[0] - size[1]
    return np.where(np.where(np.abs(far) > _ORDER_ONE, far, near) < 0.0, -1, 1)


def of_order_one(exponent: np.ndarray) -> np.ndarray:
    """Whether x may change its sign within an orbit."""
    return np.abs(exponent[1] - exponent[0]) <= _ORDER_ONE
