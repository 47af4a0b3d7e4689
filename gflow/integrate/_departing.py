"""The lookout of an escape: how far a round may go, and whether it gets anywhere."""

import math
from typing import Any

import numpy as np

from ._resting import Found
from ._round import Round
from ._status import Ended, Status

#: e-folds below its start at which a weight has fallen through zero.
_FALLEN = 35.0

#: A round that brings the clock no further than this gets nowhere.
_STILL = 1e-9

_LATE = (
    "the start leaves the saddle very late (it is near a stable manifold), or max_steps is too "
    "small"
)


class Departing:
    """Looks whether an escape to the norm e^`log_level` comes to rest below, or falls to zero."""

    #: An escape ends before its first one.
    plateaus = False

    #: Whether it looks at runs that a condition has stopped as well.
    afterwards = False

    def __init__(self, log_level: float):
        self.log_level = log_level

    def begin(self, run: Any) -> None:
        """Before the first step."""
        self.first = self.now = _log_norms(run.recorder.first, np.array([0]))[:, 0]
        self.rest = np.full(1, np.inf)

    def aim(self, run: Any) -> float:
        """Up to where the level is reached if all weights grow alike; in the clock, a little more.

        Each of the m norms that set the clock then grows by a power of e for √m of it.
        """
        left = self.log_level - float(np.max(self.now))
        return 1.05 * math.sqrt(len(self.first)) * max(left, 0.0) + 0.2

    def late(self, run: Any, i: int) -> Ended:
        """Why an escape needs so many steps."""
        return Ended(Status.max_steps, _LATE)

    def stay(self, run: Any, i: int, column: int, found: Found, done: Round) -> None:
        """Nothing stays where an escape has failed."""

    def look(
        self, run: Any, members: np.ndarray, going: np.ndarray, kept: np.ndarray, t: np.ndarray,
        done: Round,
    ) -> dict[int, Found]:  # fmt: skip
        """Whether the escape has failed, and how."""
        rows = np.flatnonzero(kept[:, 0])
        if not going[0] or not rows.size:
            return {}
        sizes = _log_norms(done.record, rows)
        self.now = sizes[:, -1]
        fallen = np.flatnonzero(np.any(sizes < self.first[:, None] - _FALLEN, axis=0))
        if fallen.size:
            return {0: Found(int(rows[fallen[0]]), Status.vanishing)}
        if t[rows[-1], 0] - run.time[0] < _STILL:
            return {0: Found(int(rows[-1]), Status.falls_back)}
        return {}


def _log_norms(record: dict[str, Any], rows: np.ndarray) -> np.ndarray:
    """log‖W‖ of the leaves that set the clock: (leaves, rows)."""
    found = [x.log_norm() for x in record["leaves"].values()]
    return np.stack([np.asarray(x, float)[rows] for x in found if x is not None])
