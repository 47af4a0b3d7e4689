r"""Heads that feel one force: one matrix as long as they do, which each has its part of.

While attention is uniform, f = Σ_h P₀X·VO_h, the loss sees the sum of value–output matrices
alone. All columns [Z_1 … Z_H] then follow one Z' = HZ, and are those of one matrix in the limit
algorithm: with CRᵀ for them, C in its gauge and R of orthonormal columns, head h has

    VO_h = A M_h Bᵀ,   M_h = R_hᵀR_h,

A and B the active columns and R_h the rows of the head. The first plateau fixes R: C_j is what
the first j modes take of the start. It stays on plateaus; on an orbit the gauge turns active
columns into each other, and R with them.

Heads S whose forces are about to part are a matrix of their own, with the columns C R_Sᵀ of the
rows in S. Of j of these the volume is that of j joint columns times the root of a minor of M_S,
so that the j-th has the exponent of the joint one and

    b_j^S = b_j + ½ log(det M_S[1:j, 1:j]/det M_S[1:j−1, 1:j−1]).

What sets the active columns of two heads apart is dormant in the joint matrix, and active as
soon as these are told apart. Found for this project; checked numerically, not proven.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

import numpy as np
from jaxtyping import ArrayLike

from gflow.internal import Coordinate, least_squares, on_device, svd

from ._columns import Columns
from ._fast_system import Head
from ._joint_orbit import JointBlock
from ._saddle_leaf import Due, Passage, SaddleLeaf


@dataclasses.dataclass(frozen=True, eq=False)
class JointColumns(SaddleLeaf):
    """Heads of one force: the columns of their sum, and how each head is made of them.

    `rows`: R, one row a column of the heads, one after the other; `widths`: how many each has.
    Its columns are the active ones, as `Columns.factors` has them, and the dormant ones.
    """

    members: tuple[Head, ...]
    columns: Columns
    rows: np.ndarray
    widths: tuple[int, ...]

    directed: ClassVar[bool] = True
    single: ClassVar[bool] = False
    roundings: ClassVar[float] = Columns.roundings

    @classmethod
    def of(cls, parts: Sequence[Columns]) -> Self:
        """Of heads at the start, which no force has turned yet."""
        content = np.concatenate([p.directions * np.exp(p.size) for p in parts], axis=1)
        u, s, vt = svd(content, full_matrices=False)
        first, count = parts[0], len(s)
        exponent = np.full(count, first.exponent[0])
        columns = dataclasses.replace(
            first, exponent=exponent, directions=u, size=np.log(s), level=np.zeros(count, int),
            told=np.zeros(count, bool), strength=np.zeros(count), faint=np.zeros(count),
        )  # fmt: skip
        heads = tuple(head for p in parts for head in p.heads)
        return cls(heads, columns, vt.T, tuple(len(p.exponent) for p in parts))

    @property
    def heads(self) -> tuple[Head, ...]:
        return self.members

    @property
    def name(self) -> str:
        return self.columns.name

    @property
    def head(self) -> tuple[int, ...]:
        return self.columns.head

    @property
    def size(self) -> np.ndarray:
        return self.columns.size

    @property
    def decay(self) -> float:
        return self.columns.decay

    @property
    def shares(self) -> np.ndarray:
        """M_h of the active columns, head by head."""
        return np.stack([r.T @ r for r in self.learned_rows])

    @property
    def learned_rows(self) -> list[np.ndarray]:
        """R_h of the active columns."""
        return [r[:, : self.columns.k] for r in self._by_head()]

    def _by_head(self) -> list[np.ndarray]:
        return np.split(self.rows, np.cumsum(self.widths)[:-1])

    @functools.cached_property
    def weight(self) -> np.ndarray:
        return np.stack([self._made_by(r) for r in self.learned_rows])

    def _made_by(self, rows: np.ndarray) -> np.ndarray:
        """What active columns with these rows of R make."""
        columns = self.columns
        return np.asarray(columns.product(on_device(columns.factors() @ rows.T), columns.split))

    @property
    def rank(self) -> np.ndarray:
        return np.array([min(self.columns.k, width) for width in self.widths])

    @property
    def active(self) -> list[Coordinate]:
        ranks = zip(self.heads, self.rank, strict=True)
        return [(name, (*head, j)) for (name, head), rank in ranks for j in range(rank)]

    def coordinate(self, item: int) -> Coordinate:
        """The joint column, in the head that has most of it: it may have fewer of its own."""
        column = self.columns.k + item
        most = int(np.argmax([np.sum(r[:, column] ** 2) for r in self._by_head()]))
        name, head = self.heads[most]
        return name, (*head, column)

    def entry(self, index):
        name, head = self.heads[index[0]]
        return name, (*head, *index[1:])

    def kind(self, item: int):
        return self.columns.kind(item)

    def size_of(self, force: np.ndarray) -> np.ndarray:
        return self.columns.size_of(np.mean(force, axis=0))

    def _with(self, columns: Columns, active: np.ndarray, dormant: np.ndarray) -> Self:
        """With columns that a force has turned, and the rows of R for those before."""
        assert columns.mixing is not None
        rows = np.concatenate([active, dormant @ columns.mixing], axis=1)
        return type(self)(self.members, columns, rows, self.widths)

    def with_force(self, force: np.ndarray, floor: ArrayLike) -> Self:
        k = self.columns.k
        columns = self.columns.with_force(np.mean(force, axis=0), floor)
        return self._with(columns, self.rows[:, :k], self.rows[:, k:])

    def candidates(self, faint: bool = False) -> Due:
        return self.columns.candidates(faint)

    @property
    def gaps(self) -> np.ndarray:
        return self.columns.gaps

    @property
    def held_back(self) -> int:
        return self.columns.held_back

    def exponent_and_size(self, item: int) -> tuple[float, float]:
        return self.columns.exponent_and_size(item)

    def after_plateau(self, tau: float, offset: float) -> Self:
        return dataclasses.replace(self, columns=self.columns.after_plateau(tau, offset))

    def piece(self, entries: Mapping[int, float]) -> JointBlock:
        rows = [on_device(r.T @ r) for r in self._by_head()]
        return JointBlock.of(self.columns.piece(entries), rows)

    def at_saddle(
        self, entries: Mapping[int, float], passage: Passage, force: np.ndarray, floor: ArrayLike
    ) -> Self:
        before, after = passage.before, passage.after
        assert isinstance(before, JointBlock)
        assert isinstance(after, JointBlock)
        inner = dataclasses.replace(passage, before=before.columns, after=after.columns)
        columns = self.columns.at_saddle(entries, inner, np.mean(force, axis=0), floor)
        rows = self.rows @ _nearest_rotation(np.asarray(after.turn))
        awake = np.asarray(after.columns.living)
        size = np.exp(np.where(awake, np.asarray(after.columns.log_size), 0.0))
        frame = columns.factors()
        learned = (np.asarray(after.columns.direction) * size)[: len(frame), awake]
        turn = _nearest_rotation(least_squares(frame, learned))
        return self._with(columns, rows[:, awake] @ turn.T, rows[:, ~awake])

    def forgetful(self) -> Self:
        return dataclasses.replace(self, columns=self.columns.forgetful())

    def flat_directions(self) -> np.ndarray | None:
        return None if self.columns.k else np.zeros((0, self.weight.size))

    def log_weights(self, scale: float, waited: np.ndarray) -> list[np.ndarray]:
        apart = (self._alone(place) for place in range(len(self.heads)))
        return [logs for one in apart for logs in one.log_weights(scale, waited)]

    def split(self, groups: Sequence[Sequence[int]]) -> list[SaddleLeaf]:
        """One part for each group of heads, given by their places here."""
        return [self._alone(g[0]) if len(g) == 1 else self._group(g) for g in groups]

    def _alone(self, place: int) -> Columns:
        return self._own([place])[0]

    def _group(self, places: Sequence[int]) -> Self:
        heads = tuple(self.heads[i] for i in places)
        return type(self)(heads, *self._own(places), tuple(self.widths[i] for i in places))

    def _own(self, places: Sequence[int]) -> tuple[Columns, np.ndarray]:
        """The columns C R_Sᵀ of some heads, and R for them."""
        whole, k = self.columns, self.columns.k
        mine = np.concatenate([self._by_head()[i] for i in places])
        q, t = np.linalg.qr(mine)
        count = t.shape[0]
        learned = min(k, count)
        name, head = self.heads[places[0]]
        own = dataclasses.replace(
            whole, name=name, head=head, k=learned, weight=self._made_by(mine[:, :k]), origin=None
        )
        frame = own.factors()
        active = whole.factors() @ t[:learned, :k].T
        rows = [q[:, :learned] @ least_squares(frame, active).T]
        directions, sizes = [whole.directions[:, :0]], [np.zeros(0)]
        for level in dict.fromkeys(whole.level.tolist()):
            at = np.flatnonzero(whole.level == level)
            place = k + at[k + at < count]
            top = np.nan_to_num(np.max(whole.size[at]))
            size = np.exp(np.nan_to_num(whole.size[at] - top))
            content = (whole.directions[:, at] * size) @ t[np.ix_(place, k + at)].T
            u, s, vt = svd(content, full_matrices=False)
            directions.append(u[:, : len(place)])
            sizes.append(np.log(s[: len(place)]) + np.max(whole.size[at]))
            rows.append(q[:, place] @ vt.T)
        kept = slice(None, count - learned)
        own = dataclasses.replace(
            own, directions=np.concatenate(directions, axis=1), size=np.concatenate(sizes),
            exponent=whole.exponent[kept], level=whole.level[kept], told=whole.told[kept],
            strength=whole.strength[kept], faint=whole.faint[kept], mixing=None,
            branch=whole.branch if count == k + len(whole.exponent) else 1,
        )  # fmt: skip
        return own._facing(whole.force, whole.floor), np.concatenate(rows, axis=1)


def _nearest_rotation(matrix: np.ndarray) -> np.ndarray:
    u, _, vt = svd(matrix)
    return u @ vt
