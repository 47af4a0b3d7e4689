"""What of one piece an orbit leaves out: its dormant modes at their finite size.

On an orbit of the limit α → 0 dormant modes feel the force and make none. At finite α each of
them is a small weight besides, ε·D with a direction D of its own, and ε grows or decays
exponentially on plateaus. A `Modes` knows this of one piece on one orbit, and how deviations
of the state are read on the next.
"""

import abc
from typing import Generic, TypeVar

import numpy as np

from ..gradual_rank._fast_system import OrbitLeaf
from ..gradual_rank._hadamard import Factors, HadamardWeights
from ..gradual_rank._saddle_leaf import SaddleLeaf

OrbitLeafT = TypeVar("OrbitLeafT", bound=OrbitLeaf)
SaddleLeafT = TypeVar("SaddleLeafT", bound=SaddleLeaf)


class Modes(abc.ABC, Generic[OrbitLeafT, SaddleLeafT]):
    """The dormant modes of one piece on one orbit; `part`, `after`: the plateaus around it.

    `living`: modes that are on the orbit, and so no source; `column`, `sign`: which disturbance
    of the compiled velocity each makes. Sizes are e^{2ℓ}·`share` of the disturbance. `width`:
    components of the state.
    """

    share: float
    width: int
    living: np.ndarray
    column: np.ndarray
    sign: np.ndarray

    def __init__(
        self, piece: OrbitLeafT, saddle: OrbitLeafT, part: SaddleLeafT, after: SaddleLeafT
    ):
        self.piece, self.saddle, self.part, self.after = piece, saddle, part, after

    @abc.abstractmethod
    def log_sizes(self, scale: float, waited: float) -> np.ndarray:
        """ℓ of every mode `waited` flow time after the transition before."""

    @abc.abstractmethod
    def gained(self, state: np.ndarray, s: np.ndarray) -> np.ndarray:
        """∫ℓ' from the first point of the orbit to states at times s."""

    @abc.abstractmethod
    def rates(self, velocity: np.ndarray) -> np.ndarray:
        """ℓ' of every mode where the state of the piece moves at `velocity`."""

    @abc.abstractmethod
    def exponents(self, tau: float) -> np.ndarray:
        """e of every mode `tau` after the transition before; NaN where it does not matter."""

    def bends(self, scale: float, after: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """When ℓ' changes on the plateau before the orbit or `after` it, and by how much.

        In flow time since the transition, infinite for never; and by which share the speed of
        each component of the state then changes.
        """
        count = len(self.living)
        return np.full(count, np.inf), np.zeros(count), np.zeros(len(self.leading))

    @abc.abstractmethod
    def left(
        self, states: np.ndarray, lag: np.ndarray, end: np.ndarray, slope: np.ndarray
    ) -> np.ndarray:
        """How far the piece is from its saddle and straight tails at states, on the plateau.

        `lag` ≤ 0: time since its orbit ended at `end`, with velocity `slope`.
        """

    def turning(self, end: np.ndarray, span: float) -> np.ndarray:
        """What of it, `span` after its orbit ended at `end`, is modes still without direction.

        On their way to those of the plateau they may be far from them, so that this is not linear.
        """
        return np.zeros_like(end)

    def landed(self, state: np.ndarray) -> np.ndarray:
        """Deviations on the orbit, near its end at `state`, as deviations on the plateau."""
        return np.eye(len(state))

    @abc.abstractmethod
    def carried(self, after: "Modes", state: np.ndarray) -> np.ndarray:
        """Deviations on the plateau as deviations on the next orbit."""

    @abc.abstractmethod
    def successor(self) -> np.ndarray:
        """Which mode of the next orbit each mode of this one is."""

    def kept(self, state: np.ndarray) -> np.ndarray | None:
        """At states, a projector on the directions in which the piece can move, if not all."""
        return None

    def settled(self, piece: OrbitLeaf, state: np.ndarray) -> tuple[OrbitLeaf, np.ndarray]:
        """A piece and its state at the saddle, dormant modes as in the middle of the plateau."""
        return piece, state

    def aligning(self, waited: np.ndarray) -> np.ndarray:
        """How far modes without a direction of their own are from that of the plateau."""
        return np.zeros((len(waited), len(self.leading)))

    @property
    @abc.abstractmethod
    def leading(self) -> np.ndarray:
        """Components of the state that the orbit itself depends on, and all log-sizes."""

    @abc.abstractmethod
    def beyond(self, moved: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """Bounds on what weights change by beyond the first order, when the state does by `moved`.

        At the saddle. `moved` ≥ 0: by components. `sizes`: of the dormant modes. What is of first
        order in either alone is left out.
        """

    def squared(self, deviation: np.ndarray) -> np.ndarray:
        """For every log-size the deviations that enter it alone, squared."""
        return np.zeros_like(deviation)


class WeightModes(Modes[Factors, HadamardWeights]):
    """Factors s, then factors d, of every weight: ψ = s²/4 − d²/4."""

    share = 0.25

    def __init__(self, piece: Factors, saddle: Factors, part: HadamardWeights, after):
        super().__init__(piece, saddle, part, after)
        self.support, self.side = np.asarray(piece.support), np.asarray(piece.side)
        self.rest = np.asarray(saddle.support)
        self.living = np.concatenate(
            [self.support & (self.side > 0), self.support & (self.side < 0)]
        )
        count = self.width = len(self.support)
        self.column = np.tile(np.arange(count), 2)
        self.sign = np.repeat([1.0, -1.0], count)
        self.turn = np.where(self.support, self.side, 1.0)
        self.decay = float(piece.decay)

    def _both(self, force: np.ndarray, span: np.ndarray | float) -> np.ndarray:
        """Gains of s and of d from ∫g and from decay."""
        return np.concatenate([force, -force], axis=-1) - self.decay * span

    def log_sizes(self, scale, waited):
        return self.part.log_sizes(scale, waited).ravel()

    def gained(self, state, s):
        lost = np.where(self.support, self.decay, 0.0)
        force = self.turn * (state - state[:1] + lost * (s - s[0])[:, None])
        return self._both(force, (s - s[0])[:, None])

    def rates(self, velocity):
        lost = np.where(self.support, self.decay, 0.0)
        return self._both(self.turn * (velocity + lost), 1.0)

    def exponents(self, tau):
        left = self.part.after(tau).ravel()
        return np.where(self.living, np.nan, left)

    def bends(self, scale, after):
        course = (self.after if after else self.part).course
        change = course.after - course.force
        with np.errstate(invalid="ignore"):
            when = np.where(change != 0.0, course.at * scale + course.late, np.inf)
        share = np.abs(change) / np.where(change != 0.0, np.abs(course.force), 1.0)
        return np.tile(when, 2), np.concatenate([change, -change]), share

    def left(self, states, lag, end, slope):
        return states - end - np.where(self.rest, 0.0, slope) * lag[:, None]

    def carried(self, after, state):
        assert isinstance(after, WeightModes)
        return np.diag(self.turn * after.turn)

    def successor(self):
        return np.arange(len(self.living))

    @property
    def leading(self):
        return np.ones(len(self.support), bool)

    def beyond(self, moved, sizes):
        growth = np.expm1(2.0 * moved)
        weight = np.abs(self.part.weight).ravel()
        both = self.share * np.sum(sizes.reshape(2, -1), axis=0)
        return np.where(self.rest, weight * (growth - 2.0 * moved), 0.0) + both * growth
