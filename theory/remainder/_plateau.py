"""A plateau at finite α: how far weights and loss are from their saddle."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from gflow.internal import on_device

from ..gradual_rank._curvature import force_and_jacobian
from ..gradual_rank._orbits import Orbit
from ..gradual_rank._saddle_leaf import SaddleLeaf
from ._modes import Modes
from ._orbit import Linear, modes_of, settled, split

#: Deviations beyond this are of order one many times over: no bound is left, and none overflows.
_LARGEST = 50.0


@dataclasses.dataclass(frozen=True, eq=False)
class Plateau:
    """The saddle at the end of an orbit: its dormant modes, and the loss to second order."""

    modes: list[Modes]
    here: Linear
    force: np.ndarray
    curvature: np.ndarray

    def log_sizes(self, scale: float, waited: float) -> np.ndarray:
        logs = np.concatenate([m.log_sizes(scale, waited) for m in self.modes])
        living = np.concatenate([m.living for m in self.modes])
        return np.where(living, -np.inf, logs)

    def bounds(self, columns: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, float]:
        r"""Bounds on |weight − saddle| and on |loss − saddle loss|.

        From deviations of the state, one column a cause, and from dormant modes of these sizes.
        Weights w: the first order cause by cause, and beyond it all that deviations Σ|δ| can
        make of e^{2ℓ} a bᵀ. The loss: g·δ cause by cause (zero but for decay, against which the
        force holds what has been learned), |g|·(what is beyond, and dormant) + ½ wᵀ|K|w.
        """
        count = len(columns)
        moved = np.minimum(np.sum(np.abs(columns), axis=1), _LARGEST)
        first = np.sum(np.abs(self.here.weights[:, :count] @ columns), axis=1)
        beyond = np.concatenate(self._beyond(moved, sizes))
        weights = first + np.abs(self.here.weights[:, count:]) @ sizes + beyond
        linear = float(np.sum(np.abs(self.here.loss[:count] @ columns)))
        linear += float(np.abs(self.here.loss[count:]) @ sizes + np.abs(self.force) @ beyond)
        return weights, linear + 0.5 * float(weights @ np.abs(self.curvature) @ weights)

    def _beyond(self, moved: np.ndarray, sizes: np.ndarray) -> list[np.ndarray]:
        cuts = np.cumsum([len(m.living) for m in self.modes])[:-1]
        parts = zip(self.modes, split(self.modes, moved), np.split(sizes, cuts), strict=True)
        return [m.beyond(x, size) for m, x, size in parts]


def plateau_of(orbit: Orbit, parts: Sequence[SaddleLeaf]) -> Plateau:
    """`parts`: after the orbit."""
    saddle = orbit.saddle
    modes = modes_of(saddle, saddle, parts, parts)
    here = settled(saddle, saddle, modes)
    weights = [on_device(p.weight) for p in parts]
    force, curvature = map(np.asarray, force_and_jacobian(saddle.flow, weights, saddle.layout))
    return Plateau(modes, here, force, curvature)
