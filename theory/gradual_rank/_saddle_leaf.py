"""What the limit algorithm knows of one leaf, or of heads of it, at a saddle."""

import abc
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from jaxtyping import ArrayLike

from gflow.internal import (
    Coordinate,
)

from ._fast_system import Head, Layout, OrbitLeaf


@dataclasses.dataclass(frozen=True, eq=False)
class Due:
    """Dormant modes that grow: in how much τ each is O(1), at which rate, and b of its e^{b−eΛ}.

    Entry i belongs to item i of the part; `wait` is infinite for those that do not grow.
    """

    wait: np.ndarray
    rate: np.ndarray
    size: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Passage:
    """A piece through an orbit: at its first point, at the saddle, and the times of both."""

    before: OrbitLeaf
    after: OrbitLeaf
    start: float
    end: float


class SaddleLeaf(abc.ABC):
    """One leaf, head or several: the weight at the saddle, and where its dormant modes stand.

    A mode has size e^{b − eΛ} at the time of the last transition. A part is a value: what happens
    to it (a force, a plateau, an orbit to the next saddle) makes another one.
    """

    name: str
    head: tuple[int, ...]
    weight: np.ndarray
    #: b of every item.
    size: np.ndarray
    #: A force counts as zero up to so many roundings of the terms it is made of.
    roundings: float
    #: Whether each entry of the weight has units of its own.
    single: bool
    decay: float
    #: Whether its modes have directions: columns of a matrix.
    directed: bool

    @property
    def gaps(self) -> np.ndarray:
        """Differences of rates at which dormant modes turn to their directions."""
        return np.zeros(0)

    @property
    def heads(self) -> tuple[Head, ...]:
        """Leaf and head of all that it stands for; of several the weight has them along axis 0."""
        return ((self.name, self.head),)

    def entry(self, index: tuple[int, ...]) -> Coordinate:
        """Leaf and index in it of an entry of the weight."""
        return self.name, (*self.head, *index)

    @property
    @abc.abstractmethod
    def rank(self) -> np.ndarray: ...

    @property
    @abc.abstractmethod
    def active(self) -> list[Coordinate]:
        """The modes that are not dormant."""

    def size_of(self, force: np.ndarray) -> np.ndarray:
        """How large a force is: entry by entry, or one number where entries mix."""
        return np.abs(force) if self.single else np.asarray(np.linalg.norm(force, 2))

    @abc.abstractmethod
    def with_force(self, force: np.ndarray, floor: ArrayLike) -> Self:
        """On a plateau of this force; what is below `floor` is zero."""

    @abc.abstractmethod
    def candidates(self, faint: bool = False) -> Due:
        """What grows or, if `faint`, what would if forces that count as zero were real."""

    @property
    @abc.abstractmethod
    def held_back(self) -> int:
        """Dormant modes that would grow but for decay."""

    @abc.abstractmethod
    def exponent_and_size(self, item: int) -> tuple[float, float]:
        """e and b of a dormant mode whose weight is e^{2(b − eΛ)}/4."""

    @abc.abstractmethod
    def coordinate(self, item: int) -> Coordinate: ...

    @abc.abstractmethod
    def kind(self, item: int) -> Any:
        """Equal for modes that may be due together without accident."""

    @abc.abstractmethod
    def after_plateau(self, tau: float, offset: float) -> Self:
        """Once a plateau of length tau·Λ + offset has passed."""

    @abc.abstractmethod
    def piece(self, entries: Mapping[int, float]) -> OrbitLeaf:
        """At the start of an orbit on which these items are active as well, at these log-sizes."""

    @abc.abstractmethod
    def at_saddle(
        self, entries: Mapping[int, float], passage: Passage, force: np.ndarray, floor: ArrayLike
    ) -> Self:
        """At the next saddle, with what the dormant modes gained on the orbit."""

    def threshold(self, item: int, weight: np.ndarray) -> tuple[int, float, float] | None:
        """Half of what a winner becomes: component of its piece, log-size, signed weight.

        None where no weight of its own tells when it has switched; then the loss does.
        """
        return None

    @abc.abstractmethod
    def forgetful(self) -> Self:
        """At a saddle that is never quite reached: sizes of dormant modes are not known."""

    def rising(self, passage: Passage) -> list[int]:
        """Items that are active and below half of what they become."""
        return []

    def deferred(self, passage: Passage, log_alpha: float) -> Self:
        """With modes dormant that are still on their way to another saddle; itself without any."""
        return self

    def signs(self) -> np.ndarray:
        """Signs of the weights, of a part whose modes are weights; at a kink a side of it."""
        return np.ones(self.weight.shape)

    @property
    def turning(self) -> np.ndarray:
        """Dormant weights that come to zero on this plateau or are held there."""
        return np.zeros(self.weight.shape, bool)

    def with_force_beyond(self, beyond: np.ndarray) -> Self:
        """With this force, beyond kinks at zero, on weights that are `turning`."""
        assert not np.any(self.turning)
        return self

    @property
    def at_kink(self) -> np.ndarray:
        """Weights that a kink of the loss keeps at zero."""
        return np.zeros(self.weight.shape, bool)

    def leaning(self, over: np.ndarray) -> Self:
        """On the other side of these weights at a kink."""
        assert not np.any(over)
        return self

    def crossed(self, states: np.ndarray, s: np.ndarray) -> np.ndarray:
        """Dormant weights whose sign an orbit changes, from the states of the piece at times s."""
        return np.zeros(self.weight.shape, bool)

    def flat_directions(self) -> np.ndarray | None:
        """Unit weights along which the active part may move, or None where it is curved."""
        return None

    @abc.abstractmethod
    def log_weights(self, scale: float, waited: np.ndarray) -> list[np.ndarray]:
        """log of every mode of each of its `heads` at Λ = scale, `waited` after the transition."""


def layout_of(parts: Sequence[SaddleLeaf]) -> Layout:
    return tuple(p.heads for p in parts)


def log_abs(weight: np.ndarray, factor: float = 1.0) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(np.abs(weight)) + math.log(factor)
