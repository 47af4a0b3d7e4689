"""Plain weights that sink below their tolerance and grow again, which a run cannot follow.

A plain array is held to rtol times its initial scale. Where decay has brought all of it below
that, its size is whatever the method makes of it: an explicit one leaves noise, an implicit
one damps what should grow. When a force makes it grow once more, the time at which it returns is
meaningless, and no error bar shows it, since the companion has sunk as well.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..flow._decay import decay_rate
from ..flow._flow import Flow

#: e-folds that a weight may have grown by while it is below its tolerance.
_GROWTH = 2.0

#: Tolerances below which the size of a leaf is noise: the errors of many steps add up.
_FLOOR = 100.0

#: Recorded steps that are looked at, at most.
_ROWS = 64


def first_lost(flow: Flow, t: np.ndarray, leaves: dict[str, Any], rtol: float) -> int | None:
    """The recorded step from which a sunk plain leaf grows by more than two e-folds."""
    scale = {}
    for name in flow.names:
        leaf = leaves[name]
        size = np.max(np.abs(leaf["value"].reshape(len(t), -1)), axis=1, initial=0.0)
        floor = _FLOOR * rtol * size[0]
        sunk = (size < floor) & leaf.plain
        if np.sum(sunk[:-1]) > 2:  # a weight that crosses zero is that small once
            small = np.maximum(size, np.finfo(size.dtype).tiny)
            scale[name] = np.where(sunk, floor / small, 1.0)
    if not scale:
        return None
    # by one factor for all of them, so that products keep their balance
    common = np.min([np.where(x > 1.0, x, np.inf) for x in scale.values()], axis=0)
    rows = np.flatnonzero(np.isfinite(common[:-1]))
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, _ROWS).astype(int))]
    weights = {n: jnp.asarray(x["value"][rows]) for n, x in leaves.items()}
    scales = {n: jnp.asarray(np.where(x > 1.0, common, 1.0)[rows]) for n, x in scale.items()}
    rates, total = _growth(flow, jnp.asarray(t[rows]), weights, scales)
    waited = np.append(t[rows[1:]], t[rows[-1] + 1]) - t[rows]
    found = []
    for name, rate in rates.items():
        grows = (scale[name][rows] > 1.0) & (np.asarray(total) > 0.0)
        grown = np.cumsum(np.where(grows, np.maximum(rate, 0.0), 0.0) * waited)
        if grown[-1] > _GROWTH:
            found.append(int(rows[np.argmax(grown > 0.0)]))
    return min(found, default=None)


@eqx.filter_jit
def _growth(
    flow: Flow, t: Float[Array, " n"], weights: dict[str, Array], scales: dict[str, Array]
) -> tuple[dict[str, Float[Array, " n"]], Float[Array, " n"]]:
    """Growth rates of the leaves of `scales`, and of all together, where they would count.

    A force that pulls a weight to zero is then no noise, and products of sunk leaves grow as
    they would. One of two factors may grow while it takes over from the other; together they do
    not where decay is faster.
    """

    def one(row):
        t, weights, scales = row
        raised = weights | {n: x * weights[n] for n, x in scales.items()}
        force = flow.forces(raised)[1]
        rates = dict(zip(flow.names, flow.decay, strict=True))
        square = {n: jnp.sum(raised[n] ** 2) for n in scales}
        power = {
            n: jnp.sum(raised[n] * force[n]) - decay_rate(rates[n], t, x.dtype) * x
            for n, x in square.items()
        }
        total = sum(power.values()) / sum(square.values())
        return {n: power[n] / square[n] for n in scales}, total

    return jax.lax.map(one, (t, weights, scales))
