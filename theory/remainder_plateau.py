"""A plateau at finite α: how far weights and loss are from their saddle."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from .orbits import Orbit
from .part import Part
from .remainder_modes import Modes
from .remainder_orbit import Linear, modes_of, settled
from .saddle_path import force_jacobian


@dataclasses.dataclass(frozen=True, eq=False)
class Plateau:
    """The saddle at the end of an orbit: its dormant modes, and the loss to second order."""

    modes: list[Modes]
    here: Linear
    curvature: np.ndarray
    active: np.ndarray

    def log_sizes(self, scale: float, waited: float) -> np.ndarray:
        logs = np.concatenate([m.log_sizes(scale, waited) for m in self.modes])
        living = np.concatenate([m.living for m in self.modes])
        return np.where(living, -np.inf, logs)

    def bounds(self, columns: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, float]:
        r"""Bounds on |weight − saddle| and on |loss − saddle loss|.

        From deviations of the state, one column a cause, and from dormant modes of these sizes:
        linear in what is dormant, where there is a force, and quadratic in what is active.
        """
        count = len(columns)
        moved = np.sum(np.abs(self.here.weights[:, :count] @ columns), axis=1)
        most = 2.0 * np.max(np.sum(np.abs(columns[self.active]), axis=1), initial=0.0)
        exponential = np.expm1(min(most, 50.0)) / most if most > 0.0 else 1.0
        dormant = np.abs(self.here.weights[:, count:]) @ sizes
        weights = moved * exponential + dormant
        linear = float(np.abs(self.here.loss[count:]) @ sizes)
        return weights, linear + 0.5 * float(weights @ np.abs(self.curvature) @ weights)


def plateau_of(orbit: Orbit, parts: list[Part]) -> Plateau:
    """`parts`: after the orbit."""
    saddle = orbit.saddle
    modes = modes_of(saddle, saddle, parts, parts)
    here = settled(saddle, saddle, modes)
    weights = [jnp.asarray(p.weight) for p in parts]
    curvature = np.asarray(force_jacobian(saddle.flow, weights, saddle.layout))
    return Plateau(modes, here, curvature, saddle.active & saddle.log_sizes)
