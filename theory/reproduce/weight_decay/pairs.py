"""Two factors of a matrix, followed under many decays in one compiled call."""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

import gflow
from gflow.models import DeepLinear

RTOL = 1e-10


def pair(left: np.ndarray, right: np.ndarray) -> DeepLinear:
    """W = left @ rightᵀ, two layers: right is (n, r), the first of them its transpose."""
    return DeepLinear((jnp.asarray(right.T), jnp.asarray(left)))


def normal_pair(seed: int, size: float, *shape: int) -> DeepLinear:
    """Both factors with normal entries of one size."""
    rng = np.random.default_rng(seed)
    return pair(*(size * rng.standard_normal(shape) for _ in range(2)))


def singular_values(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Of left @ rightᵀ, over leading axes."""
    return np.linalg.svdvals(left @ right.swapaxes(-1, -2))


def factors(run: gflow.Trajectory) -> tuple[np.ndarray, np.ndarray]:
    """Left and right factor at every recorded time."""
    return run.observables["weights.1"], run.observables["weights.0"].swapaxes(-1, -2)


def product(weights: Mapping[str, np.ndarray]) -> np.ndarray:
    """left @ rightᵀ from weights by their names, for `theory.from_weights`."""
    return weights["weights.1"] @ weights["weights.0"]


def flows(
    start: DeepLinear,
    objective: Callable,
    decays: Sequence[float] | np.ndarray,
    t1: float | Sequence[float] | np.ndarray,
    save: Sequence[float] | np.ndarray | None = None,
) -> list[gflow.Trajectory]:
    """One start under many decays."""
    many = len(decays)
    stacked = jax.tree.map(lambda x: jnp.broadcast_to(x, (many, *x.shape)), start)
    batch = gflow.simulate_batch(
        stacked, objective, t1=t1, decay=np.asarray(decays), rtol=RTOL, save=save
    )
    return list(batch)
