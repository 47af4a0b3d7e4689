"""Deviations followed along one orbit, with what the orbit leaves out as sources."""

import dataclasses
import math

import numpy as np
from scipy.linalg import expm

from gflow.internal import least_squares

from ._orbit import Linear, Path

#: Largest log-size of a source: beyond it nothing here means anything, and nothing overflows.
_LARGEST = 30.0


def limited(logs: np.ndarray) -> np.ndarray:
    """Sizes e^{2ℓ} of modes."""
    return np.exp(2.0 * np.minimum(logs, _LARGEST))


@dataclasses.dataclass(frozen=True, eq=False)
class Sources:
    """Modes that an orbit leaves out, at one α: source j feeds column `target[j]` of deviations.

    `entry`: log-sizes at the first node, `sizes` e^{2ℓ} at all nodes. `wait`: length of the
    plateau before.
    """

    path: Path
    target: np.ndarray
    entry: np.ndarray
    sizes: np.ndarray
    scale: float
    wait: float

    @classmethod
    def of(
        cls, path: Path, place: np.ndarray, columns: int, scale: float, wait: float
    ) -> "Sources":
        target = np.zeros((len(place), columns))
        target[np.arange(len(place)), place] = 1.0
        entry = path.log_sizes(scale, wait + float(path.s[0]))
        sizes = limited(entry[None] + path.gained)
        sizes[:, path.living] = 0.0
        return cls(path, target, entry, sizes, scale, wait)

    def followed(self, columns: np.ndarray, a: float, b: float) -> tuple[np.ndarray, np.ndarray]:
        """Deviations from s = a to b, or to the last node; how late each makes the crossing."""
        path, s = self.path, self.path.s
        if a < s[0]:
            rates = path.rates(path.begin.velocity)
            logs = path.log_sizes(self.scale, self.wait + a)
            when, change = path.bends(self.scale, False)
            now = self.wait + a
            bends = when - now, np.where((when > now) & (when < self.wait), change, 0.0)
            rates, span = rates - bends[1], min(float(s[0]), b) - a
            columns = self._rested(columns, path.begin, rates, logs, span, bends)
            a = float(s[0])
        stop = min(b, float(s[-1]))
        late = np.zeros(columns.shape[1])
        i = max(int(np.searchsorted(s, a, side="right")) - 1, 0)
        while i < len(s) - 1 and a < stop:
            if a <= 0.0 and abs(a) < 1e-14:
                late = self._late(columns, i)
            over, into, amount = path.over[i], path.into[i], self.sizes[i]
            if a > s[i] or s[i + 1] > stop:
                over, into = path.partial(i, min(float(s[i + 1]), stop) - a)
                rates = path.rates(path.between.velocity[i])
                amount = self.sizes[i] * np.exp(2.0 * rates * (a - s[i]))
            columns = over @ columns + (into * amount) @ self.target
            a = min(float(s[i + 1]), stop)
            i += 1
        return columns, late

    def on_plateau(self, columns: np.ndarray, b: float) -> np.ndarray:
        """Deviations on the orbit at s = b, or at its last node, as those on the plateau at b."""
        path, last = self.path, float(self.path.s[-1])
        columns = path.landed(min(b, last)) @ columns
        if b > last:
            rates = path.rates(path.end.velocity)
            when, change = path.bends(self.scale, True)
            logs, bends = self.entry + path.gained[-1], (when - last, change)
            columns = self._rested(columns, path.end, rates, logs, b - last, bends)
        return columns

    def _rested(
        self,
        columns: np.ndarray,
        here: Linear,
        rates: np.ndarray,
        logs: np.ndarray,
        span: float,
        bends: tuple[np.ndarray, np.ndarray],
    ) -> np.ndarray:
        """Columns after a plateau, from bend to bend of the log-sizes."""
        (when, change), t = bends, 0.0
        past = np.where(when <= 0.0, change, 0.0)
        logs, rates = logs - past * np.where(past != 0.0, when, 0.0), rates + past
        for end in [*np.unique(when[(when > 0.0) & (when < span)]), span]:
            over, into = _at_rest(here, rates, logs, float(end) - t)
            columns = over @ columns + into @ self.target
            logs, t = logs + rates * (float(end) - t), float(end)
            rates = rates + np.where(when == end, change, 0.0)
        return columns

    def _late(self, columns: np.ndarray, i: int) -> np.ndarray:
        count, level = len(columns), self.path.level
        return -(level[:count] @ columns + (level[count:] * self.sizes[i]) @ self.target)


def _at_rest(
    here: Linear, rates: np.ndarray, logs: np.ndarray, span: float
) -> tuple[np.ndarray, np.ndarray]:
    """Propagators over a plateau, of deviations and of sources of sizes e^{2·logs} at first.

    ∫e^{J(h−u)} b e^{ρu} du = (J − ρ)⁻¹(e^{Jh} − e^{ρh}) b is taken from the end where the source
    is larger, so that nothing overflows on a plateau of any length.
    """
    jacobian, push = here.by_state, here.by_size
    size = len(push)
    into = np.zeros_like(push)
    growth = 2.0 * rates
    there = np.isfinite(logs)
    growing = there & (growth * span > 1e-3)
    still = np.flatnonzero(there & ~growing)
    both = np.zeros((size + len(still), size + len(still)))
    both[:size, :size], both[:size, size:] = jacobian, push[:, still]
    both[np.arange(size, len(both)), np.arange(size, len(both))] = growth[still]
    whole = expm(span * both)
    over, into[:, still] = whole[:size, :size], whole[:size, size:] * limited(logs[still])
    if not np.isfinite(over).all():
        return over, np.full_like(into, math.nan)
    for j in np.flatnonzero(growing):
        b = push[:, j]
        right = math.exp(-growth[j] * span) * (over @ b) - b
        into[:, j] = least_squares(jacobian - growth[j] * np.eye(size), right)
    into[:, growing] *= limited(logs + rates * span)[growing]
    return over, into
