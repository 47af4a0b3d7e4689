"""Plain weights so small that their products are zero, and nothing would move."""

import jax.numpy as jnp
import numpy as np

from ..integrate._run import Rounds

#: Below this scale a product of two weights is no normal number.
_LOST = 1e-154

#: The scale at which such weights are tried.
_FELT = 1e-60


def check_felt(run: Rounds) -> None:
    """**Raises:** ValueError where a plain leaf feels no force only because it underflows."""
    for name, leaf in run.first["leaves"].items():
        if not leaf.plain:
            continue
        value, force = (leaf[k].reshape(len(run.status), -1) for k in ("value", "force"))
        size = np.max(np.abs(value), axis=1, initial=0.0)
        lost = (size > 0.0) & (size < _LOST) & np.all(force == 0.0, axis=1)
        for i in np.flatnonzero(lost):
            if _feels(run, int(i), name):
                raise ValueError(
                    f"Leaf {name!r} starts at {size[i]:.1e}, where products of weights are zero in "
                    "float64: no force would reach it and the run would stand still. Use "
                    "gflow.Hadamard or gflow.Factored leaves, whose state is logarithmic, or, for "
                    "three and more factors, gflow.escape from a scale above 1e-150."
                )


def _feels(run: Rounds, i: int, name: str) -> bool:
    """Whether the leaf feels a force when all leaves as small as it are raised to `_FELT`."""
    weights = {}
    for n, leaf in run.first["leaves"].items():
        value = np.asarray(leaf["value"][i])
        size = np.max(np.abs(value), initial=0.0)
        raised = value * (_FELT / size) if 0.0 < size < _LOST else value
        weights[n] = jnp.asarray(raised)
    return bool(np.any(np.asarray(run.flow(i).forces(weights)[1][name]) != 0.0))
