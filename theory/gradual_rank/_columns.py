r"""The limit algorithm for factored matrices W = A Bᵀ: when and where the rank jumps.

Write column j of Z = [A; B], in the gauge in which the columns are orthogonal, as α^{e_j} e^{b_j}
at a reference time. At a saddle of rank k the force G vanishes on the column and row space of
W; on the complement it has singular values h₁ ≥ h₂ ≥ …, and j dormant columns span a volume
that grows at h₁ + … + h_j. So the j-th grows at h_j − λ, the first one that becomes O(1) jumps,

    T ← T + e₁/h₁,   C ← C + (x_m − b₁)/h₁,

with x_m + h₁s its log-size on the orbit that connects the two saddles, s = 0 where the loss is
midway, and the others gain what their volumes gain. Exponents are remembered, directions are
not: on every plateau the columns turn to the singular vectors of G.

Checked numerically, not proven; the diagonal case is 2306.07042, directions without times are
those of 2012.09839.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike

from gflow import Factored
from gflow.internal import (
    Coordinate,
    coordinate_label,
    on_device,
    orthogonal,
    svd,
)

from ._column_orbit import Block
from ._orbits import Degenerate
from ._saddle_leaf import Due, Passage, SaddleLeaf
from ._scales import DOUBT
from ._turning import Mode, alike, complement, turned

#: A dormant column this much of which (a logarithm) does not grow is left with rounding.
_LOST = -25.0
#: Modes whose rates agree to this share of the largest grow as one.
_ALIKE = 1e-8


@dataclasses.dataclass(frozen=True, eq=False)
class Columns(SaddleLeaf):
    """One head of a leaf: its saddle and where its dormant columns stand.

    `k`: active columns. `exponent`, `size`: e and b of the dormant ones, largest first, and
    `directions` their unit vectors on this plateau. `level`: equal for columns of sizes whose
    ratio stays, such as those that no force has told apart; else one is infinitely larger than
    the next. `told`: columns that have turned to a mode that grows. `branch`: −1 where the last
    one sits on the shrinking [u; −v]. `balance`: the exponent of AᵀA − BᵀB, so that of a column
    with exponent e the part on the other branch has `balance` − e. `origin`: directions and
    log-sizes where a plateau begins on which columns are first told apart, before they have
    turned. `modes`: what the force makes grow, rest and shrink, fastest first. `mixing`: the
    dormant columns as combinations of those before this plateau. Items are dormant columns.
    """

    name: str
    head: tuple[int, ...]
    split: int
    decay: float
    weight: np.ndarray
    k: int
    exponent: np.ndarray
    balance: float
    directions: np.ndarray
    size: np.ndarray
    level: np.ndarray
    told: np.ndarray
    strength: np.ndarray
    faint: np.ndarray
    force: np.ndarray
    modes: tuple[Mode, ...] = ()
    floor: float = 0.0
    branch: int = 1
    origin: tuple[np.ndarray, np.ndarray] | None = None
    mixing: np.ndarray | None = None

    directed: ClassVar[bool] = True
    single: ClassVar[bool] = False
    roundings: ClassVar[float] = 5e5
    #: Its piece of an orbit.
    block: ClassVar[type[Block]] = Block

    @classmethod
    def of(cls, name: str, head: tuple[int, ...], columns, split: int, exponent, decay) -> Self:
        """At the start, from O(1) columns [A; B] of exponents e."""
        rows, r = columns.shape
        weight = np.zeros((split, rows - split))
        directions, size = map(np.asarray, _orthogonal(columns, np.zeros(r)))
        return cls(
            name, head, split, decay, weight, 0, exponent, 2.0 * float(exponent[0]), directions,
            size, np.zeros(r, int), np.zeros(r, bool), np.zeros(r), np.zeros(r),
            np.zeros_like(weight),
        )  # fmt: skip

    @property
    def rank(self) -> np.ndarray:
        return np.asarray(self.k)

    @property
    def active(self) -> list[Coordinate]:
        return [(self.name, (*self.head, k)) for k in range(self.k)]

    def coordinate(self, item: int) -> Coordinate:
        return self.name, (*self.head, self.k + item)

    def kind(self, item: int):
        return "column", item

    @property
    def full(self) -> bool:
        """Square and of full width: only then is there a shrinking branch."""
        m, n = self.weight.shape
        return m == n == self.k + len(self.exponent)

    @property
    def untold(self) -> bool:
        """Whether no force has told its columns apart yet."""
        return not self.told.any()

    @property
    def left_over(self) -> bool:
        """Whether a mode of the force grows that no dormant column is left to learn."""
        grows = sum(mode.basis.shape[1] for mode in self.modes if mode.rate > self.decay)
        return grows > len(self.exponent)

    def factors(self) -> np.ndarray:
        """The learned columns, balanced: what `product` makes the weight of."""
        u, s, vt = svd(self.weight)
        columns = np.concatenate([u[:, : self.k], vt[: self.k].T])
        return columns * np.sqrt(s[: self.k])

    @staticmethod
    def product(factors: Array, split: int) -> Array:
        return jnp.matmul(factors[:split], factors[split:].T)

    def with_force(self, force: np.ndarray, floor: ArrayLike) -> Self:
        return self._facing(force, float(np.max(floor)))._turned(self.directions, self.size)

    def _facing(self, force: np.ndarray, floor: float) -> Self:
        """With singular vectors and values of the force on the complement of the saddle."""
        u, _, vt = svd(self.weight)
        uc, vc = u[:, self.k :], vt[self.k :].T
        p, h, qt = svd(uc.T @ force @ vc)
        grows = h > floor
        left, right = (uc @ p)[:, : len(h)], (vc @ qt.T)[:, : len(h)]
        both, other = (np.concatenate([left, s * right])[:, grows] for s in (1.0, -1.0))
        active = np.concatenate([u[:, : self.k], vt[: self.k].T])
        rests = complement(np.concatenate([both, other, active], axis=1) / math.sqrt(2.0))
        modes = *self._alike(h[grows], both / math.sqrt(2.0)), Mode(0.0, rests)
        return self._felt(force, floor, h, modes)

    def _felt(
        self, force: np.ndarray, floor: float, h: np.ndarray, modes: tuple[Mode, ...]
    ) -> Self:
        faint = np.zeros(len(self.exponent))
        faint[: len(h)] = h[: len(faint)]
        return dataclasses.replace(self, force=force, floor=floor, faint=faint, modes=modes)

    def _alike(self, rates: np.ndarray, basis: np.ndarray) -> list[Mode]:
        return alike(rates, basis, _ALIKE * np.max(np.abs(rates), initial=0.0))

    def _turned(self, content: np.ndarray, size: np.ndarray) -> Self:
        """With columns of these directions and log-sizes as the plateau's force turns them."""
        branch, modes, origin = self._branch_of(content), self.modes, self.origin
        if branch < 0:
            # the last of the growing ones, and the last column with it
            last = modes[-2]
            flipped = np.concatenate([last.basis[: self.split], -last.basis[self.split :]])
            modes = (*modes[:-2], Mode(-last.rate, flipped), modes[-1])
        after = turned(content, size, self.level, modes)
        moved = np.abs(after.rate) > self.floor
        if self.untold and moved.any():
            origin = content, size
        strength, count = after.rate.copy(), len(after.rate)
        if branch < 0:
            strength[-1] *= -1
        return dataclasses.replace(
            self, branch=branch, origin=origin, directions=after.direction, size=after.size,
            level=after.level, strength=strength, told=self.told[:count] | moved,
            exponent=self.exponent[:count], faint=self.faint[:count], mixing=after.mixing,
        )  # fmt: skip

    def _branch_of(self, content: np.ndarray) -> int:
        """−1 where the last column of a square of full width has its halves opposed.

        Both determinants keep their signs; where columns are told apart they are along the modes.
        """
        count = len(self.exponent)
        grows = sum(mode.basis.shape[1] for mode in self.modes[:-1])
        if not (self.full and count and self.told[-1] and grows >= count):
            return 1
        basis = self.modes[-2].basis
        width = basis.shape[1]
        halves = slice(None, self.split), slice(self.split, None)
        minors = [basis[half].T @ content[half, count - width :] for half in halves]
        signs = [np.linalg.slogdet(minor)[0] for minor in minors]
        if signs[0] * signs[1] >= 0.0:
            return 1
        if width > 1:
            raise Degenerate(
                f"several columns of {coordinate_label((self.name, self.head))} feel one force, "
                "and the determinants that a square of full width keeps hold one of them back: "
                "which one is not followed"
            )
        return -1

    @property
    def rates(self) -> np.ndarray:
        growth = self.strength.copy()
        if self.branch < 0:
            growth[-1] *= -1
        return growth - self.decay

    def candidates(self, faint: bool = False) -> Due:
        exponent, rates, size = self.exponent, self.rates, self.size
        if faint:
            rates = np.where(rates > self.floor, 0.0, self.faint - self.decay)
            growing = rates > DOUBT * self.floor
            with np.errstate(divide="ignore", invalid="ignore"):
                return Due(np.where(growing, exponent / rates, math.inf), rates, size)
        if self.branch < 0 and len(exponent) == 1:
            # its growing part is what the conserved balance leaves of it
            exponent, size = self.balance - exponent, np.full(1, math.nan)
            rates = self.strength - self.decay
        growing = rates > self.floor
        with np.errstate(divide="ignore", invalid="ignore"):
            return Due(np.where(growing, exponent / rates, math.inf), rates, size)

    @property
    def gaps(self) -> np.ndarray:
        gaps = -np.diff(self.rates)
        return gaps[gaps > self.floor]

    @property
    def held_back(self) -> int:
        return int(np.sum((self.strength > 0) & (self.strength - self.decay <= self.floor)))

    def exponent_and_size(self, item: int) -> tuple[float, float]:
        return float(self.exponent[item]), float(self.size[item]) + 0.5 * math.log(2.0)

    def after_plateau(self, tau: float, offset: float) -> Self:
        exponent, size = self.exponent - self.rates * tau, self.size + self.rates * offset
        balance = self.balance + 2.0 * self.decay * tau
        branch, directions = self.branch, self.directions
        if branch < 0 and balance - exponent[-1] < exponent[-1]:
            branch, exponent = 1, np.append(exponent[:-1], balance - exponent[-1])
            flip = np.ones_like(directions)
            flip[self.split :, -1] = -1.0
            directions, size = directions * flip, np.append(size[:-1], math.nan)
        return dataclasses.replace(
            self, exponent=exponent, size=size, balance=balance, branch=branch,
            directions=directions,
        )  # fmt: skip

    def piece(self, entries: Mapping[int, float]) -> Block:
        u, s, vt = svd(self.weight)
        k = self.k
        active = np.concatenate([u[:, :k], vt[:k].T]) / math.sqrt(2.0)
        log_size = np.concatenate([0.5 * np.log(2.0 * s[:k]), self._relative()])
        for item, entry in entries.items():
            log_size[k + item] = entry
        living = np.arange(len(log_size)) < k
        living[[k + item for item in entries]] = True
        return self.block(
            on_device(np.concatenate([active, self.directions], axis=1)),
            on_device(log_size),
            on_device(living),
            on_device(np.concatenate([np.full(k, -1), self.level])),
            on_device(bool(self.told[-1:].all())),
            on_device(self.decay),
            self.split,
        )

    def _relative(self) -> np.ndarray:
        """Log-sizes less that of the first column of the level."""
        first = [int(np.argmax(self.level == one)) for one in self.level]
        return np.nan_to_num(self.size - self.size[first])

    def at_saddle(self, entries, passage: Passage, force, floor) -> Self:
        after = passage.after
        assert isinstance(after, Block)
        asleep, count = ~np.asarray(after.living), len(entries)
        fallen = int(np.sum(asleep)) - (len(self.exponent) - count)
        # columns that fell back to zero are dormant again, the largest of all
        zeros = np.zeros(fallen)
        before = np.concatenate([zeros, self.rates[count:]])
        size = np.concatenate([zeros, (self.size - self._relative())[count:]])
        there = dataclasses.replace(
            self,
            exponent=np.concatenate([zeros, self.exponent[count:]]),
            level=np.concatenate([np.arange(-fallen, 0), self.level[count:]]),
            told=np.concatenate([np.ones(fallen, bool), self.told[count:]]),
            weight=np.asarray(after.weight()),
            k=int(np.sum(~asleep)),
            origin=None,
        )
        content, logs = (np.asarray(x)[..., asleep] for x in (after.direction, after.log_size))
        size, fresh = size + logs + before * passage.start, there.untold
        there = there._facing(force, float(np.max(floor)))._turned(content, size)
        if np.any(np.isfinite(size[: len(there.size)]) & ~np.isfinite(there.size)):
            raise Degenerate(
                f"the dormant columns of {coordinate_label((self.name, self.head))} have come to "
                "differ by more than floats hold, on an orbit that takes long to come to rest"
            )
        # of the j largest columns what will grow at h₁ + … + h_j is the part along u₁, …, u_j
        if not fresh and np.any(there.size - size < _LOST):
            raise Degenerate(
                f"the dormant columns of {coordinate_label((self.name, self.head))} run parallel "
                "to what has been learned elsewhere (another head that feels the same force), "
                "and what sets them apart is lost in rounding"
            )
        return dataclasses.replace(there, size=there.size - there.rates * passage.end)

    def forgetful(self) -> Self:
        return dataclasses.replace(self, size=np.full_like(self.size, math.nan))

    def flat_directions(self) -> np.ndarray | None:
        return None if self.k else np.zeros((0, self.weight.size))

    def log_weights(self, scale: float, waited: np.ndarray) -> list[np.ndarray]:
        waited = np.asarray(waited, float)[..., None]
        active = np.log(np.linalg.svdvals(self.weight)[: self.k])
        dormant = 2.0 * (self.size - self.exponent * scale + self.rates * waited) - math.log(2.0)
        active = np.broadcast_to(active, (*dormant.shape[:-1], self.k))
        return [np.concatenate([active, dormant], axis=-1)]


_orthogonal = jax.jit(orthogonal)


def columns_of(
    kind: type[Columns], name: str, leaf: Factored, log_alpha: float, decay: float
) -> list[Columns]:
    """The heads of a leaf at its start, with O(1) columns.

    **Raises:** ValueError for a leaf that is not at its initial scale, or with r > min(m, n).
    """
    m, n, r = leaf.left.shape[-2], leaf.right.shape[-2], leaf.rank
    if r > min(m, n):
        raise ValueError(
            f"Leaf {name!r} has {r} columns for a {m}×{n} matrix; the limit algorithm covers "
            f"r ≤ {min(m, n)}."
        )
    exponent = np.asarray(leaf.exponent) * (float(leaf.log_alpha) / log_alpha)
    if leaf.elapsed != 0.0 or np.any(np.ptp(exponent, axis=-1) > 0) or np.any(exponent <= 0):
        raise ValueError(
            f"Leaf {name!r} comes from a run: its columns have left the initial scale. The limit "
            "algorithm starts from gflow.rescale(model, log_alpha) of the initial model."
        )
    scale = np.exp(np.asarray(leaf.log_scale) - exponent * log_alpha)[..., None, :]
    left, right = (np.asarray(x) * scale for x in (leaf.left, leaf.right))
    out = []
    for head in np.ndindex(left.shape[:-2]):
        columns = np.concatenate([left[head], right[head]])
        out.append(kind.of(name, head, columns, m, exponent[head], decay))
    return out
