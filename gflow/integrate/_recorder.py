"""What runs that advance together have recorded, and one of them taken out."""

from typing import Any

import jax
import numpy as np

from ..results._plateaus import thinned
from ..results._resolver import joined
from ._round import Round

#: Recorded steps that are kept whatever they need.
LEAST_ROWS = 512

#: Numbers that one run keeps of what it recorded, at most; then it is thinned.
KEPT = 2**25


class Recorder:
    """The rounds of one run, or of a batch (`batched`): what each kept, from `first` on.

    `doubled` where companions are recorded as well. A single run keeps a bounded number of steps.
    """

    def __init__(self, first: Any, start: np.ndarray, batched: bool, doubled: bool):
        self.first, self.start, self.batched, self.doubled = first, start, batched, doubled
        numbers = sum(x[0].size for x in jax.tree.leaves(first)) * (1 + doubled)
        self.most_rows = max(KEPT // numbers, LEAST_ROWS)
        self._rounds: list[tuple[np.ndarray, Any, Any, Any, Any]] = []

    def column(self, x: Any, count: int) -> np.ndarray:
        """Entries of a round on the host, members second, the filling left out."""
        return np.asarray(x)[:, :count] if self.batched else np.asarray(x)[:, None]

    def row(self, tree: Any, row: int, column: int) -> Any:
        """One row of what a round recorded of one member."""
        return self.rows(tree, row, column)

    def rows(self, tree: Any, rows: Any, column: int) -> Any:
        """Some rows of what a round recorded of one member."""
        pick = (rows, column) if self.batched else rows
        # by NumPy: to JAX every number of rows would be another program
        return jax.tree.map(lambda x: np.asarray(x)[pick], tree)

    def keep(self, members: np.ndarray, kept: np.ndarray, t: np.ndarray, done: Round) -> None:
        """What a round recorded of these members, where it was `kept`."""
        record, refined = done.record, done.refined
        if not self.batched:
            rows = kept[:, 0]
            record, refined = jax.tree.map(lambda x: np.asarray(x)[rows], (record, refined))
            kept, t = kept[rows], t[rows]
        elif jax.default_backend() != "cpu":  # where it would fill the memory of the device
            record, refined = jax.tree.map(np.asarray, (record, refined))
        self._rounds.append((members, kept, t, record, refined))

    def append(self, i: int, t: float, record: Any, refined: Any) -> None:
        """One more record of member i."""
        axes = (None, None) if self.batched else (None,)
        record, refined = jax.tree.map(lambda x: np.asarray(x)[axes], (record, refined))
        one = np.ones((1, 1), bool)
        self._rounds.append((np.array([i]), one, np.full((1, 1), t), record, refined))

    def thin(self, events: Any = ()) -> None:
        """Forget half of the steps of a single run that has too many, but none at `events`.

        Nor any at which something happens.
        """
        if self.batched or sum(len(entry[2]) for entry in self._rounds) <= self.most_rows:
            return
        _, kept, t, record, refined = zip(*self._rounds, strict=True)
        kept, t, record = np.concatenate(kept), np.concatenate(t), joined(list(record))
        refined = joined(list(refined)) if self.doubled else None
        rows = thinned(record["descent"])
        if len(events):
            rows = np.union1d(rows, np.flatnonzero(np.isin(t, events)))
        record, refined = jax.tree.map(lambda x: x[rows], (record, refined))
        self._rounds = [(np.zeros(1, int), kept[rows], t[rows], record, refined)]

    def member(self, i: int, failed: bool = False) -> tuple[np.ndarray, Any, Any]:
        """Times, stacked records and the companion's records of one member.

        Of steps below the rounding of the time one is left: of a `failed` run the last of them.
        """
        begin = jax.tree.map(lambda x: x[i : i + 1], self.first)
        times, records, refined = [self.start[i : i + 1]], [begin], [begin]
        for members, kept, t, record, second in self._rounds:
            column = int(np.searchsorted(members, i))
            if column == len(members) or members[column] != i:
                continue
            rows = kept[:, column]

            def pick(x, rows=rows, column=column):
                return np.asarray(x)[rows, column] if self.batched else x

            times.append(t[rows, column])
            records.append(jax.tree.map(pick, record))
            if second is not None:
                refined.append(jax.tree.map(pick, second))
        companion = joined(list(refined)) if self.doubled else None
        t, record = np.concatenate(times), joined(records)
        later = np.diff(t) > 0.0
        distinct = np.append(True, later) if failed else np.append(later, True)
        if not distinct.all():
            t = t[distinct]
            record, companion = jax.tree.map(lambda x: x[distinct], (record, companion))
        return t, record, companion
