"""What runs that advance together have recorded, and one of them taken out."""

import dataclasses
from typing import Any

import jax
import numpy as np

from ..results._plateaus import thinned
from ..results._resolver import joined
from ..save import CHECKPOINTS
from ._round import Round

#: Recorded steps that are kept whatever they need.
LEAST_ROWS = 512

#: Numbers that one run keeps of what it recorded, at most; then it is thinned.
KEPT = 2**25


@dataclasses.dataclass
class Entry:
    """One round of some `members`: its rows (members second) that were `kept`, and at which times.

    `held`: those of them whose weights are kept, in `weights`, along rows of its own in a single
    run; `numbers` has all else. Both are of the run and of its companion.
    """

    members: np.ndarray
    kept: np.ndarray
    t: np.ndarray
    numbers: tuple[Any, Any]
    held: np.ndarray
    weights: tuple[Any, Any]

    def at(self, where: np.ndarray, only: int | None) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of those that are marked, of all members or of one."""
        if only is None:
            rows, columns = np.nonzero(where)
            return rows, columns
        column = int(np.searchsorted(self.members, only))
        rows = np.flatnonzero(where[:, column])
        return rows, np.full(len(rows), column)


@dataclasses.dataclass(frozen=True)
class Recorded:
    """Of one member: times, stacked records, and the companion's if there is one.

    Where weights were kept at some of the times only, `checkpoints` are their rows.
    """

    t: np.ndarray
    records: dict[str, Any]
    refined: dict[str, Any] | None
    checkpoints: np.ndarray | None

    @property
    def rows(self) -> Any:
        """Those with weights."""
        return slice(None) if self.checkpoints is None else self.checkpoints

    def cut(self, count: int) -> "Recorded":
        """Up to the row that is number `count` of those with weights."""
        at = self.checkpoints
        rows = count if at is None else int(at[count - 1]) + 1

        def part(record: dict[str, Any]) -> dict[str, Any]:
            numbers, leaves = _parted(record)
            numbers = jax.tree.map(lambda x: x[:rows], numbers)
            return numbers | jax.tree.map(lambda x: x[:count], leaves)

        refined = None if self.refined is None else part(self.refined)
        at = None if at is None else at[:count]
        return Recorded(self.t[:rows], part(self.records), refined, at)


class Recorder:
    """The rounds of one run, or of a batch (`batched`): what each kept, from `first` on.

    `doubled` where companions are recorded as well; without `weights` these are kept at a few
    steps. A single run keeps a bounded number of steps.
    """

    def __init__(
        self, first: Any, start: np.ndarray, batched: bool, doubled: bool, weights: bool = True
    ):
        self.first, self.start, self.batched, self.doubled = first, start, batched, doubled
        self.weights = weights
        numbers = sum(x[0].size for x in jax.tree.leaves(first)) * (1 + doubled)
        self.most_rows = max(KEPT // numbers, LEAST_ROWS) if weights else CHECKPOINTS
        self._rounds: list[Entry] = []
        self._settled: Gathered | None = None

    def column(self, x: Any, count: int) -> np.ndarray:
        """Entries of a round on the host, members second, the filling left out."""
        return np.asarray(x)[:, :count] if self.batched else np.asarray(x)[:, None]

    def rows(self, tree: Any, rows: Any, column: int) -> Any:
        """One row or some of what a round recorded of one member."""
        pick = (rows, column) if self.batched else rows
        # by NumPy: to JAX every number of rows would be another program
        return jax.tree.map(lambda x: np.asarray(x)[pick], tree)

    def keep(self, members: np.ndarray, kept: np.ndarray, t: np.ndarray, done: Round) -> None:
        """What a round recorded of these members, where it was `kept`."""
        numbers, weights = zip(_parted(done.record), _parted(done.refined), strict=True)
        held = kept
        if not self.batched:
            rows = kept[:, 0]
            numbers, weights = jax.tree.map(lambda x: np.asarray(x)[rows], (numbers, weights))
            kept, t = kept[rows], t[rows]
            held = kept
        else:
            if not self.weights:
                last = np.max(np.where(kept, np.arange(len(kept))[:, None], -1), axis=0)
                held = (np.arange(len(kept))[:, None] == last) & kept
                every = np.arange(kept.shape[1])
                weights = jax.tree.map(
                    lambda x: np.asarray(x)[np.maximum(last, 0), every][None], weights
                )
            if jax.default_backend() != "cpu":  # where it would fill the memory of the device
                numbers, weights = jax.tree.map(np.asarray, (numbers, weights))
        self._rounds.append(Entry(members, kept, t, numbers, held, weights))

    def append(self, i: int, t: float, record: Any, refined: Any) -> None:
        """One more record of member i."""
        axes = (None, None) if self.batched else (None,)
        record, refined = jax.tree.map(lambda x: np.asarray(x)[axes], (record, refined))
        numbers, weights = zip(_parted(record), _parted(refined), strict=True)
        one = np.ones((1, 1), bool)
        here = np.array([i]), one, np.full((1, 1), t)
        self._rounds.append(Entry(*here, numbers, one, weights))

    def thin(self, events: Any = ()) -> None:
        """Forget half of the steps of a single run that holds too many.

        None at `events`, nor any at which something happens; of a run that keeps observables their
        weights alone; none of a run whose steps have clocks of their own.
        """
        count = sum(int(np.sum(entry.held)) for entry in self._rounds)
        if self.batched or count <= self.most_rows or "lapse" in self.first:
            return
        kept, t, held = (
            np.concatenate([getattr(entry, name)[:, 0] for entry in self._rounds])
            for name in ("kept", "t", "held")
        )
        numbers = joined([entry.numbers for entry in self._rounds])
        weights = joined([entry.weights for entry in self._rounds])
        rows, descent = np.arange(count), numbers[0]["descent"][held]
        while len(rows) > self.most_rows:
            fewer = rows[thinned(descent[rows])]
            if len(events):
                fewer = np.union1d(fewer, np.flatnonzero(np.isin(t[held], events)))
            if self.weights or len(fewer) == len(rows):
                rows = fewer
                break
            rows = fewer
        weights = jax.tree.map(lambda x: x[rows], weights)
        still = np.flatnonzero(held)[rows]
        if self.weights:
            numbers = jax.tree.map(lambda x: x[still], numbers)
            kept, t = kept[still], t[still]
            held = np.ones(len(t), bool)
        else:
            held = np.isin(np.arange(len(t)), still)
        member, column = np.zeros(1, int), (kept[:, None], t[:, None])
        self._rounds = [Entry(member, *column, numbers, held[:, None], weights)]

    def settle(self) -> None:
        """Put what an ended batch recorded in the order of its members, from which each is cut."""
        if self.batched and self._settled is None:
            self._settled, self._rounds = self._gathered(self._rounds), []

    def member(self, i: int, failed: bool = False) -> Recorded:
        """What was recorded of one member.

        Of steps below the rounding of the time one is left: of a `failed` run the last of them.
        """
        if self._settled is None:
            found = self._gathered([entry for entry in self._rounds if i in entry.members], i)
        else:
            found = self._settled.of(i)
        t, held = found.t, found.held
        (main, second), (leaves, other) = found.numbers, found.weights
        later = np.diff(t) > 0.0
        distinct = np.append(True, later) if failed else np.append(later, True)
        if not distinct.all():
            t = t[distinct]
            main, second = jax.tree.map(lambda x: x[distinct], (main, second))
            leaves, other = jax.tree.map(lambda x: x[distinct[held]], (leaves, other))
            held = held[distinct]
        checkpoints = None if self.weights else np.flatnonzero(held)
        refined = second | other if self.doubled else None
        return Recorded(t, main | leaves, refined, checkpoints)

    def _gathered(self, entries: list[Entry], only: int | None = None) -> "Gathered":
        """The first records and what the rounds kept of all members, or of one, in their order."""
        members = np.arange(len(self.start)) if only is None else np.array([only])
        axes = (None, members) if self.batched else members
        begin = _parted(jax.tree.map(lambda x: x[axes], self.first))
        numbers, weights = ((part, part if self.doubled else None) for part in begin)
        one = np.ones((1, len(members)), bool)
        first = Entry(members, one, self.start[None, members], numbers, one, weights)
        entries = [first, *entries]

        def ordered(where: list[tuple[Any, np.ndarray]], parts: list[Any]) -> Any:
            found = joined(parts)
            if only is not None:
                return found
            owner = [e.members[columns] for e, (_, columns) in zip(entries, where, strict=True)]
            order = np.argsort(np.concatenate(owner), kind="stable")
            return jax.tree.map(lambda x: x[order], found)

        def picked(name: str, where: list[tuple[Any, np.ndarray]]) -> Any:
            parts = [getattr(entry, name) for entry in entries]
            if self.batched:
                parts = [_rows(*part) for part in zip(parts, where, strict=True)]
            return ordered(where, parts)

        kept = [entry.at(entry.kept, only) for entry in entries]
        held = [entry.at(entry.held, only) for entry in entries]
        along = [
            (e.members[at[1]], e.t[at], e.held[at]) for e, at in zip(entries, kept, strict=True)
        ]
        return Gathered(*ordered(kept, along), picked("numbers", kept), picked("weights", held))


@dataclasses.dataclass(frozen=True)
class Gathered:
    """Rows of members one after the other: whose, when, and which of them have `weights`."""

    owner: np.ndarray
    t: np.ndarray
    held: np.ndarray
    numbers: Any
    weights: Any

    def of(self, i: int) -> "Gathered":
        """Those of one member, not copied."""
        rows = slice(*np.searchsorted(self.owner, [i, i + 1]))
        before = np.append(0, np.cumsum(self.held))
        own = slice(before[rows.start], before[rows.stop])
        return Gathered(
            self.owner[rows], self.t[rows], self.held[rows],
            jax.tree.map(lambda x: x[rows], self.numbers),
            jax.tree.map(lambda x: x[own], self.weights),
        )  # fmt: skip


def _rows(tree: Any, at: tuple[np.ndarray, np.ndarray]) -> Any:
    """Rows and columns of a round, of which there may be the last row of every member alone."""
    rows, columns = at
    rows = rows if len(jax.tree.leaves(tree)[0]) > 1 else 0
    return jax.tree.map(lambda x: np.asarray(x)[rows, columns], tree)


def _parted(record: dict[str, Any] | None) -> tuple[Any, Any]:
    """The numbers of a record, and its leaves."""
    if record is None:
        return None, None
    numbers = {name: x for name, x in record.items() if name != "leaves"}
    return numbers, {"leaves": record["leaves"]}
