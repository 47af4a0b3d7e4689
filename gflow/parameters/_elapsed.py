"""The flow time a plain array stands at: known for those that a run hands out, by identity.

Leaves that are objects carry their time themselves. An array cannot: what `Trajectory.final`
and `Trajectory.model` hand out is remembered here as long as it lives, and any array made of
it is another one, which knows no time.
"""

import functools
import math
import weakref
from typing import Any

import equinox as eqx
import jax
import jax.core
from jaxtyping import PyTree

_times: dict[int, tuple[weakref.ref, float]] = {}


def remember(tree: PyTree, time: float) -> PyTree:
    """`tree`, whose inexact arrays stand at flow time `time` from here on, unless it is NaN."""
    for x in jax.tree.leaves(tree):
        concrete = isinstance(x, jax.Array) and not isinstance(x, jax.core.Tracer)
        if concrete and eqx.is_inexact_array(x) and not math.isnan(time):
            key = id(x)
            _times[key] = weakref.ref(x, functools.partial(_forget, key)), time
    return tree


def _forget(key: int, reference: weakref.ref) -> None:
    # another array may have come to the address before this one's end is told
    if key in _times and _times[key][0] is reference:
        del _times[key]


def recall(tree: PyTree) -> set[float]:
    """The times that arrays of `tree` are known to stand at."""
    found = [(x, _times.get(id(x))) for x in jax.tree.leaves(tree) if isinstance(x, jax.Array)]
    return {entry[1] for x, entry in found if entry is not None and entry[0]() is x}


def anew(tree: PyTree) -> PyTree:
    """`tree` with arrays that know no time."""
    return jax.tree.map(lambda x: x.copy() if isinstance(x, jax.Array) and recall(x) else x, tree)


def agreed(times: set[Any], given: float | None) -> float:
    """The one time of `times`, or the one that is `given`."""
    if given is not None:
        return given
    if len(times) > 1:
        raise ValueError(
            f"The leaves have run for different times {sorted(times)}: they do not come from one "
            "trajectory. Pass t0= for the time that the run starts at, or let "
            "gflow.rescale(model, log_alpha) start all anew."
        )
    return times.pop() if times else 0.0
