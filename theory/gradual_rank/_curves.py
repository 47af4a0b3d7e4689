"""Curves at finite α: connecting orbits at their times, and the plateaus between them."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import ArrayLike

from .._stage import Stage, Start, by_leaf
from ._orbits import Orbit
from ._saddle_leaf import SaddleLeaf


@dataclasses.dataclass(frozen=True, eq=False)
class Curves:
    """`orbits[k]` leads to stage k + 1; `plateaus[k]`: the parts after k stages."""

    start: Start
    orbits: list[Orbit]
    plateaus: list[tuple[SaddleLeaf, ...]]
    names: Sequence[str]

    def offsets(self, stages: list[Stage], log_alpha: float) -> np.ndarray:
        """C of every stage, which α does not change."""
        return np.array([stage.offset for stage in stages])

    def composite(self, t: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, dict]:
        """Each orbit at its own time, added up, the saddles between them subtracted."""
        loss_before, before = self.start.loss, by_leaf(self.start.value)
        loss = np.full(len(t), loss_before)
        values = {n: np.repeat(w[None], len(t), axis=0) for n, w in before.items()}
        for orbit, time in zip(self.orbits, times, strict=True):
            height, weights = orbit.at(t - time)
            loss = loss + height - loss_before
            values = {n: v + weights[n] - before[n] for n, v in values.items()}
            loss_before, before = orbit.saddle_loss, orbit.saddle_weights
        return loss, values

    def log_weights(self, stage: int, scale: float, waited: ArrayLike) -> dict[str, np.ndarray]:
        """log of every mode at Λ = scale, `waited` flow time after stage `stage` (0: the start)."""
        waited = np.asarray(waited, float)
        out: dict[str, Any] = {n: {} for n in self.names}
        for part in self.plateaus[stage]:
            for (name, head), logs in zip(part.heads, part.log_weights(scale, waited), strict=True):
                out[name][head] = logs
        return {n: _stacked(heads, waited.ndim) for n, heads in out.items()}


def _stacked(heads: dict[tuple[int, ...], np.ndarray], lead: int) -> np.ndarray:
    """Heads of a leaf on axes behind the first `lead` ones; a leaf without heads as it is."""
    if () in heads:
        return heads[()]
    shape = tuple(1 + max(head[i] for head in heads) for i in range(len(next(iter(heads)))))
    stacked = np.stack(list(heads.values()), axis=lead)
    return stacked.reshape(*stacked.shape[:lead], *shape, *stacked.shape[lead + 1 :])
