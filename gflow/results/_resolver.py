"""A run between its recorded times: solved again from the record before, by its own method."""

import dataclasses
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

    def __call__(self, leaves: dict[str, Any], t: Any, span: Any) -> dict[str, Any]:
        """The record at flow time t + span, from the leaves recorded at t.

        With a leading axis on all three: at each of the times, in compiled calls of bounded size.
        """
        t = np.asarray(t, self.flow.dtype)
        span = np.asarray(np.minimum(span, np.maximum(self.rest - t, 0.0)), self.flow.dtype)
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

    def _on(self, segment: int) -> "Resolver":
        assert self.segments is not None
        kinks = self.segments[segment][1].unwatched()
        return dataclasses.replace(self, flow=dataclasses.replace(self.flow, kinks=kinks))

    def _everywhere(self, leaves: dict[str, Any], t: np.ndarray, span: np.ndarray) -> Any:
        if not t.ndim:
            rows = jax.tree.map(lambda x: np.asarray(x)[None], (leaves, t, span))
            return jax.tree.map(lambda x: x[0], self._everywhere(*rows))
        numbers = sum(x[0].size for x in jax.tree.leaves(leaves))
        most = 1 << max(_ROOM // numbers, 1).bit_length() - 1
        parts = []
        for first in range(0, t.size, most):
            cut = slice(first, first + most)
            count = len(t[cut])
            # room for more costs little, and another program seconds
            room = _FEW
            while room < count:
                room *= 4
            room = min(room, most)

            def padded(x, cut=cut, room=room):
                return np.concatenate([x[cut], np.repeat(x[-1:], room, axis=0)])[:room]

            rows, begin, length = jax.tree.map(padded, (leaves, t, span))
            length[count:] = 0.0  # nothing to solve
            out = self._solved(rows, begin, length, np.array(count))
            parts.append(jax.tree.map(lambda x, count=count: x[:count], out))
        return joined(parts)

    def _solved(
        self, leaves: Any, t: np.ndarray, span: np.ndarray, count: np.ndarray
    ) -> dict[str, Any]:
        rtol = np.asarray(self.rtol, self.flow.dtype)
        out = resolve(self.flow, leaves, self.solver, rtol, t, span, self.observables, count)
        return jax.tree.map(np.asarray, out)


def joined(records: Sequence[Any]) -> Any:
    """Stacked records one after the other."""
    return jax.tree.map(lambda *xs: np.concatenate(xs), *records)
