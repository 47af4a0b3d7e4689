"""Curves at finite α: drops placed at their times, plateaus and dormant units between them."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import ArrayLike, Float

from ..._stage import Stage
from ._forces import Units
from ._orbit import Drop
from ._race import after


class Plateau(NamedTuple):
    """Live weights, O(1) factors of the dormant ones at its start, and the loss."""

    live: Float[np.ndarray, " n"]
    dormant: Float[np.ndarray, " n"]
    loss: float


@dataclasses.dataclass(frozen=True, eq=False)
class UnitCurves:
    """The drops of a path, one a stage, and the plateaus before, between and after them.

    `limits`: C of the stages; `finite`: from log α to C there.
    """

    units: Units
    orbits: list[Drop]
    plateaus: list[Plateau]
    limits: tuple[float, ...]
    finite: Callable[[float], tuple[float, ...]]

    def offsets(self, stages: list[Stage], log_alpha: float) -> np.ndarray:
        """C at an α at which winners still have a share of other directions."""
        turned = np.array(self.finite(log_alpha)) - np.array(self.limits)
        return np.array([stage.offset for stage in stages]) + turned[: len(stages)]

    def composite(
        self, t: np.ndarray, times: np.ndarray
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Loss and weights at flow times `t` when stage k happens at `times[k]`."""
        loss = np.full(len(t), self.plateaus[0].loss)
        flat = np.broadcast_to(self.plateaus[0].live, (len(t), len(self.units.owner))).copy()
        # a stage holds from midway to the one before it on
        edges = np.concatenate([[-np.inf], 0.5 * (times[1:] + times[:-1])]) if len(times) else []
        for k, edge in enumerate(edges):
            here = t >= edge
            s = t[here] - times[k] + self.orbits[k].crossing
            early, late = s < self.orbits[k].t[0], s > self.orbits[k].t[-1]
            before, after_ = self.plateaus[k], self.plateaus[k + 1]
            found = np.interp(s, self.orbits[k].t, self.orbits[k].loss)
            loss[here] = np.where(early, before.loss, np.where(late, after_.loss, found))
            rows = np.stack(
                [np.interp(s, self.orbits[k].t, x) for x in self.orbits[k].weights.T], axis=-1
            )
            ends = np.where(early[:, None], before.live, after_.live)
            flat[here] = np.where((early | late)[:, None], ends, rows)
        shapes = {name: shape for name, _, shape in self.units.leaves}
        cuts = np.cumsum([np.prod(x, dtype=int) for x in shapes.values()])[:-1].tolist()
        parts = np.split(flat, cuts, axis=1)
        pairs = zip(shapes.items(), parts, strict=True)
        return loss, {name: x.reshape(len(t), *shape) for (name, shape), x in pairs}

    def log_weights(self, stage: int, scale: float, waited: ArrayLike) -> dict[str, np.ndarray]:
        """log|w| of every weight on the plateau after `stage` stages, `waited` into it."""
        plateau, degree = self.plateaus[stage], self.units.order - 2
        x, _ = after(
            self.units, plateau.live, plateau.dormant, 0.0 * plateau.dormant,
            float(np.asarray(waited)) / scale,
        )  # fmt: skip
        with np.errstate(divide="ignore"):
            small = np.log(np.abs(x)) - np.log(scale) / degree
            large = np.log(np.abs(plateau.live))
        found = self.units.shaped(np.where(plateau.live != 0.0, large, small))
        return {name: np.asarray(value) for name, value in found.items()}
