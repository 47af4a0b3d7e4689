"""A run between its recorded times: solved again from the record before, by its own method."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from ..flow._flow import Flow
from ..integrate._round import resolve

#: Numbers re-solved in one call.
_ROOM = 2**22

#: Times that one program has room for, were there fewer of them.
_FEW = 8


@dataclasses.dataclass(frozen=True)
class Team:
    """The flows of all members of a batch, which are re-solved side by side."""

    parts: Any
    fixed: Flow
    solver: Any
    rtol: float
    observables: dict[str, Callable[[Any], Any]]

    def __call__(self, member: np.ndarray, leaves: Any, t: np.ndarray, span: np.ndarray) -> Any:
        """The records at t + span, from the leaves that these members recorded at t."""
        rtol, t = np.asarray(self.rtol, span.dtype), np.asarray(t, span.dtype)
        numbers = sum(x[0].size for x in jax.tree.leaves(self.parts))

        def solved(rows: Any, count: np.ndarray) -> dict[str, Any]:
            member, leaves, t, span = rows
            return resolve(
                self.parts, self.fixed, member, leaves, self.solver, rtol, t, span,
                self.observables, count,
            )  # fmt: skip

        return _in_blocks(solved, (member, leaves, t, span), numbers)


@dataclasses.dataclass(frozen=True)
class Resolver:
    """Re-solves from a recorded time by the run's own solver and tolerance.

    From the time `rest` on nothing moves.
    """

    flow: Flow
    solver: Any
    rtol: float
    observables: dict[str, Callable[[Any], Any]]
    rest: float = math.inf
    #: From which time on a run was on which branches of its loss.
    segments: list[tuple[float, Any]] | None = None
    #: The batch that the run is of, and which of its members.
    team: Team | None = None
    member: int = 0

    def __call__(self, leaves: dict[str, Any], t: Any, span: Any) -> dict[str, Any]:
        """The record at flow time t + span, from the leaves recorded at t.

        With a leading axis on all three: at each of the times, in compiled calls of bounded size.
        """
        t = np.asarray(t, self._dtype)
        span = self.until_rest(t, span)
        if self.segments is None:
            return self._everywhere(leaves, t, span)
        starts = [time for time, _ in self.segments]
        segment = np.maximum(np.searchsorted(starts, t, side="right") - 1, 0)
        if not t.ndim:
            return self._on(int(segment))._everywhere(leaves, t, span)
        parts, rows = [], []
        for i in np.unique(segment):
            own = np.flatnonzero(segment == i)
            here = jax.tree.map(lambda x, own=own: x[own], leaves)
            parts.append(self._on(int(i))._everywhere(here, t[own], span[own]))
            rows.append(own)
        order = np.argsort(np.concatenate(rows), kind="stable")
        return jax.tree.map(lambda x: x[order], joined(parts))

    def until_rest(self, t: np.ndarray, span: Any) -> np.ndarray:
        """Of these spans what something moves in."""
        return np.asarray(np.minimum(span, np.maximum(self.rest - t, 0.0)), self._dtype)

    @functools.cached_property
    def _dtype(self) -> Any:
        return self.flow.dtype

    def _on(self, segment: int) -> "Resolver":
        assert self.segments is not None
        kinks = self.segments[segment][1].unwatched()
        return dataclasses.replace(self, flow=dataclasses.replace(self.flow, kinks=kinks))

    def _everywhere(self, leaves: dict[str, Any], t: np.ndarray, span: np.ndarray) -> Any:
        if not t.ndim:
            rows = jax.tree.map(lambda x: np.asarray(x)[None], (leaves, t, span))
            return jax.tree.map(lambda x: x[0], self._everywhere(*rows))
        rtol = np.asarray(self.rtol, self._dtype)

        def solved(rows: Any, count: np.ndarray) -> dict[str, Any]:
            return resolve(
                {}, self.flow, None, rows[0], self.solver, rtol, *rows[1:], self.observables, count
            )

        return _in_blocks(solved, (leaves, t, span))


def _in_blocks(solved: Callable[[Any, np.ndarray], Any], rows: Any, numbers: int = 0) -> Any:
    """Rows, the last of which are spans, solved in compiled calls of bounded size.

    A row needs room for so many `numbers` beside its own.
    """
    numbers += sum(x[0].size for x in jax.tree.leaves(rows))
    most = 1 << max(_ROOM // numbers, 1).bit_length() - 1
    parts, total = [], len(rows[-1])
    for first in range(0, total, most):
        count = min(total - first, most)
        # room for more costs little, and another program seconds
        room = _FEW
        while room < count:
            room *= 4
        room = min(room, most)

        def padded(x, first=first, count=count, room=room):
            x = x[first : first + count]
            return np.concatenate([x, np.repeat(x[-1:], room, axis=0)])[:room]

        block = jax.tree.map(padded, rows)
        block[-1][count:] = 0.0  # nothing to solve
        out = jax.tree.map(np.asarray, solved(block, np.array(count)))
        parts.append(jax.tree.map(lambda x, count=count: x[:count], out))
    return joined(parts)


def joined(records: Sequence[Any]) -> Any:
    """Stacked records one after the other."""
    if len(records) == 1:
        return records[0]
    return jax.tree.map(lambda *xs: np.concatenate(xs), *records)
