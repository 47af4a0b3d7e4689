"""The assumptions of the gradual-rank theorem, as numbers.

Boix-Adsera et al. 2023 (2306.07042) assume at every stage a unique winner, a strict
local minimum on the support, and a fast transition whose end small perturbations do not
change (their perturb-and-restart experiment).
"""

import dataclasses
import math
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from ._prediction import Prediction
from .gradual_rank._orbits import Degenerate, Orbit, Unbounded, connect

__all__ = ["AssumptionRow", "Restarts", "check", "perturb_and_restart"]


def __dir__() -> list[str]:
    return __all__


@dataclasses.dataclass(frozen=True)
class AssumptionRow:
    """One stage: `margin` in τ to the next candidate, `curvature` of the saddle after it."""

    stage: int
    switches: str
    margin: float
    curvature: float

    @property
    def holds(self) -> bool:
        """Both numbers positive; how far from zero is for the reader to judge."""
        return self.margin > 0 and (math.isnan(self.curvature) or self.curvature > 0)


def check(prediction: Prediction) -> list[AssumptionRow]:
    """Uniqueness margin and smallest restricted Hessian eigenvalue of every stage."""
    return [
        AssumptionRow(k + 1, s.label, s.margin, s.curvature)
        for k, s in enumerate(prediction.stages)
    ]


@dataclasses.dataclass(frozen=True, eq=False)
class Restarts:
    """`distance[i, j]` = ‖θ' − θ‖/‖θ‖ of the saddle reached from size i, sample j."""

    stage: int
    sizes: np.ndarray
    distance: np.ndarray

    @property
    def same_saddle(self) -> np.ndarray:
        """Share of restarts, by size, that end within 10⁻⁶ of the predicted saddle."""
        return np.mean(self.distance < 1e-6, axis=1)


def perturb_and_restart(
    prediction: Prediction,
    stage: int,
    *,
    key: PRNGKeyArray,
    sizes: Sequence[float] = (1e-2, 1e-1, 1.0),
    samples: int = 8,
) -> Restarts:
    """Does a perturbed transition reach the same saddle? (2306.07042, Fig. 3)

    The weights of the saddle before stage `stage` (0-based) and the entering winner are
    multiplied by e^{size·ξ}, ξ standard normal, and the fast flow on the support is run
    to rest again. A restart that does not come to rest has infinite distance.
    """
    if prediction.orbits is None:
        raise ValueError(
            f"{prediction.source} has no connecting orbits to restart. Use "
            "theory.gradual_rank.predict."
        )
    orbits = prediction.orbits.orbits
    if not 0 <= stage < len(orbits):
        raise ValueError(f"stage = {stage}: this prediction has stages 0 to {len(orbits) - 1}.")
    orbit: Orbit = orbits[stage]
    sample = len(sizes), samples, orbit.state.shape[1]
    noise = np.asarray(jax.random.normal(key, sample, jnp.result_type(float)))
    distance = np.array(
        [[_restart(orbit, size * xi) for xi in row] for size, row in zip(sizes, noise, strict=True)]
    )
    return Restarts(stage, np.asarray(sizes, float), distance)


def _restart(orbit: Orbit, log_change: np.ndarray) -> float:
    fast = orbit.fast
    changed = fast.active & fast.log_sizes
    state = orbit.state[0] + np.where(changed, 0.5 * log_change, 0.0)
    fast = eqx.tree_at(lambda f: f.pieces, fast, tuple(fast.unpack(state)))
    try:
        again = connect(fast, orbit.limits, tolerance=1e-7)
    except (Degenerate, Unbounded):
        return math.inf
    ends = [_flat(o.saddle_weights) for o in (again, orbit)]
    return float(np.linalg.norm(ends[0] - ends[1]) / np.linalg.norm(ends[1]))


def _flat(weights: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([w.ravel() for w in weights.values()])
