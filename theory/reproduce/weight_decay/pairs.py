"""Two factors of a matrix, followed under many decays in one compiled call."""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import gflow

#: Runs must agree with closed forms to this multiple of rtol.
MARGIN = 100.0
RTOL = 1e-10


class Pair(eqx.Module):
    """Two factors of W = left @ rightᵀ as plain arrays."""

    left: Float[Array, "... m r"]
    right: Float[Array, "... n r"]


def normal_pair(seed: int, size: float, *shape: int) -> Pair:
    """Both factors with normal entries of one size."""
    rng = np.random.default_rng(seed)
    return Pair(*(jnp.asarray(size * rng.standard_normal(shape)) for _ in range(2)))


def singular_values(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Of left @ rightᵀ, over leading axes."""
    return np.linalg.svd(left @ right.swapaxes(-1, -2), compute_uv=False)


def factors(run: gflow.Trajectory) -> tuple[np.ndarray, np.ndarray]:
    """Left and right factor at every recorded time."""
    return run.observables["left"], run.observables["right"]


def flows(
    pair: Pair,
    objective: Callable,
    decays: Sequence[float] | np.ndarray,
    t1: float | Sequence[float] | np.ndarray,
    save: Sequence[float] | np.ndarray | None = None,
) -> list[gflow.Trajectory]:
    """One start under many decays."""
    many = len(decays)
    stacked = jax.tree.map(lambda x: jnp.broadcast_to(x, (many, *x.shape)), pair)
    batch = gflow.simulate_batch(
        stacked,
        objective,
        t1=t1,
        decay=np.asarray(decays),
        rtol=RTOL,
        save=save,
        error_bars=False,
    )
    return list(batch)
