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

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike

from gflow.factored import Factored
from gflow.gauge import orthogonal

from .column_piece import Block
from .orbits import Degenerate
from .part import Due, Part, Passage
from .prediction import Coordinate, coordinate_label
from .scales import DOUBT

#: A dormant column this much of which (a logarithm) does not grow is left with rounding.
_LOST = -25.0


class Columns(Part):
    """One head of a leaf: its saddle and where its dormant columns stand.

    `k`: active columns. `exponent`, `size`: e and b of the dormant ones, largest first. `branch`:
    −1 where the last one sits on the shrinking [u; −v]. `balance`: the exponent of AᵀA − BᵀB, so
    that of a column with exponent e the part on the other branch has `balance` − e. `free`:
    directions of the columns as long as no force has told them apart; their sizes then say
    nothing of volumes; `origin`: these directions and log-sizes where a plateau begins on
    which one does, before the columns have turned. Items are dormant columns.
    """

    directed, single = True, False
    roundings = 5e5
    #: Its piece of an orbit.
    block: type[Block] = Block

    def __init__(self, name: str, head: tuple[int, ...], columns, split: int, exponent, decay):
        rows, r = columns.shape
        self.name, self.head, self.split, self.decay = name, head, split, decay
        self.weight, self.k = np.zeros((split, rows - split)), 0
        self.exponent, self.balance, self.branch = exponent, 2.0 * float(exponent[0]), 1
        free, self.size = map(np.asarray, _orthogonal(columns, np.zeros(r)))
        self.free: np.ndarray | None = free
        self.origin: tuple[np.ndarray, np.ndarray] | None = None
        self.left, self.right = np.zeros((split, r)), np.zeros((rows - split, r))
        self.strength, self.faint, self.floor = np.zeros(r), np.zeros(r), 0.0
        self.force = np.zeros_like(self.weight)

    @property
    def rank(self) -> np.ndarray:
        return np.asarray(self.k)

    @property
    def active(self) -> list[Coordinate]:
        return [(self.name, (*self.head, k)) for k in range(self.k)]

    def coordinate(self, item: int) -> Coordinate:
        return self.name, (*self.head, self.k + item)

    def copies(self, item: int):
        return "column", self.name, item

    @property
    def full(self) -> bool:
        """Square and of full width: only then is there a shrinking branch."""
        m, n = self.weight.shape
        return m == n == self.k + len(self.exponent)

    def feel(self, force: np.ndarray, floor: ArrayLike) -> None:
        """Singular vectors and values of the force on the complement of the saddle."""
        self._face(force, floor)
        if self.free is not None and self.strength.any():
            self._align()

    def _face(self, force: np.ndarray, floor: ArrayLike) -> None:
        self.force = force
        u, _, vt = np.linalg.svd(self.weight)
        uc, vc = u[:, self.k :], vt[self.k :].T
        p, h, qt = np.linalg.svd(uc.T @ force @ vc)
        count = len(self.exponent)
        self.left, self.right = (uc @ p)[:, :count], (vc @ qt.T)[:, :count]
        self._grows(h[:count], floor)

    def _grows(self, h: np.ndarray, floor: ArrayLike) -> None:
        self.floor = float(np.max(floor))
        self.strength = np.where(np.abs(h) > self.floor, h, 0.0)
        self.faint = h

    def _align(self) -> None:
        """Columns that a force tells apart for the first time: sizes from volumes."""
        assert self.free is not None
        self.origin = self.free, self.size
        projected, count = self.directions.T @ self.free, len(self.exponent)
        volumes = [0.0]
        for j in range(1, count + 1):
            logs = np.asarray(_orthogonal(projected[:j], self.size)[1])
            volumes.append(float(np.sum(np.sort(logs)[::-1][:j])))
        self.size, self.free = np.diff(volumes), None

    @property
    def directions(self) -> np.ndarray:
        """[u_j; v_j]/√2 of the dormant columns, on their branches."""
        right = self.right.copy()
        if self.branch < 0:
            right[:, -1] *= -1
        return np.concatenate([self.left, right]) / math.sqrt(2.0)

    @property
    def rates(self) -> np.ndarray:
        growth = self.strength.copy()
        if self.branch < 0:
            growth[-1] *= -1
        return growth - self.decay

    def due(self, faint: bool = False) -> Due:
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
    def held_back(self) -> int:
        return int(np.sum((self.strength > 0) & (self.strength - self.decay <= self.floor)))

    def stands(self, item: int) -> tuple[float, float]:
        return float(self.exponent[item]), float(self.size[item]) + 0.5 * math.log(2.0)

    def wait(self, tau: float, offset: float) -> None:
        self.exponent = self.exponent - self.rates * tau
        self.size = self.size + self.rates * offset
        self.balance += 2.0 * self.decay * tau
        if self.branch < 0 and self.balance - self.exponent[-1] < self.exponent[-1]:
            other = self.balance - self.exponent[-1:]
            self.branch, self.exponent = 1, np.concatenate([self.exponent[:-1], other])
            self.size = np.concatenate([self.size[:-1], [math.nan]])

    def piece(self, entries: Mapping[int, float]) -> Block:
        u, s, vt = np.linalg.svd(self.weight)
        k = self.k
        active = np.concatenate([u[:, :k], vt[:k].T]) / math.sqrt(2.0)
        if self.free is None:
            dormant, log_dormant = self.directions, np.zeros(len(self.exponent))
        else:
            # of like size, so that what counts is how much larger one is than another
            dormant, log_dormant = self.free, self.size - self.size[0]
        log_size = np.concatenate([0.5 * np.log(2.0 * s[:k]), log_dormant])
        for item, entry in entries.items():
            log_size[k + item] = entry
        living = np.arange(len(log_size)) < k
        living[[k + item for item in entries]] = True
        return self.block(
            jnp.asarray(np.concatenate([active, dormant], axis=1)),
            jnp.asarray(log_size),
            jnp.asarray(living),
            jnp.asarray(self.free is None),
            jnp.asarray(self.decay),
            self.split,
        )

    def land(self, entries, passage: Passage, force, floor) -> None:
        after, self.origin = passage.after, None
        assert isinstance(after, Block)
        asleep = ~np.asarray(after.living)
        fallen = int(np.sum(asleep)) - (len(self.exponent) - len(entries))
        # columns that fell back to zero are dormant again, the largest of all
        zeros = np.zeros(fallen)
        before = np.concatenate([zeros, self.rates[len(entries) :]])
        self.exponent = np.concatenate([zeros, self.exponent[len(entries) :]])
        self.size = np.concatenate([zeros, self.size[len(entries) :]])
        self.weight, self.k = np.asarray(after.weight()), int(np.sum(~asleep))
        dormant, logs = (np.asarray(x)[..., asleep] for x in (after.direction, after.log_size))
        self._face(force, floor)
        if self.free is not None:
            self.free, self.size = dormant, self.size[0] + logs + before * passage.start
            if self.strength.any():
                self._align()
            self.size = self.size - self.rates * passage.end
            return
        if self.full and len(self.exponent):
            along = self.left[:, -1] @ dormant[: self.split, -1]
            along *= self.right[:, -1] @ dormant[self.split :, -1]
            self.branch = 1 if along > 0 else -1
        # of the j largest columns what will grow at h₁ + … + h_j is the part along u₁, …, u_j
        along = self.directions.T @ dormant
        minors = [np.linalg.slogdet(along[:j, :j])[1] for j in range(len(logs) + 1)]
        volumes = np.diff(minors)
        if not np.all(volumes >= _LOST):
            raise Degenerate(
                f"the dormant columns of {coordinate_label((self.name, self.head))} run parallel "
                "to what has been learned elsewhere (another head that feels the same force), "
                "and what sets them apart is lost in rounding"
            )
        gain = logs + volumes + before * passage.start - self.rates * passage.end
        self.size = self.size + gain

    def flat_directions(self) -> np.ndarray | None:
        return None if self.k else np.zeros((0, self.weight.size))

    def log_weights(self, scale: float, waited: np.ndarray) -> np.ndarray:
        waited = np.asarray(waited, float)[..., None]
        active = np.log(np.linalg.svd(self.weight, compute_uv=False)[: self.k])
        dormant = 2.0 * (self.size - self.exponent * scale + self.rates * waited) - math.log(2.0)
        active = np.broadcast_to(active, (*dormant.shape[:-1], self.k))
        return np.concatenate([active, dormant], axis=-1)


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
        out.append(kind(name, head, columns, m, exponent[head], decay))
    return out
