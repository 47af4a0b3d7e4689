r"""Whether learned columns would sooner turn: saddles that are unstable in what has been learned.

A saddle W = ABᵀ of rank k is a critical point of the loss of its k columns. Where the force on
the complement has a mode that no dormant column is left to learn, the columns themselves may
turn to it: in second order the loss falls by σ·h·δuδv and rises by what its curvature costs.
The limit algorithm enters such a saddle by an orbit that never leaves its columns' span; the
flow has a part α along the mode, which grows.
"""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np

from gflow.internal import Flow, on_device

from ._columns import Columns
from ._fast_system import Layout, assembled
from ._joint_columns import JointColumns
from ._saddle_leaf import SaddleLeaf

#: Below this share of the largest curvature a direction is level: a family of equal saddles.
_LEVEL = 1e-7


def rate_of_turning(flow: Flow, parts: Sequence[SaddleLeaf], layout: Layout) -> float:
    """The rate at which learned columns leave the saddle, where force is left over; 0 if none."""
    columns = [_learned(p) for p in parts]
    if not any(p is not None and p.left_over for p in columns):
        return 0.0
    factors = [None if p is None else on_device(p.factors()) for p in columns]
    weights = [on_device(p.weight) for p in parts]
    makers = tuple(None if p is None else (p.product, p.split) for p in columns)
    decays = [on_device(p.decay) for p in parts]
    own = [p.learned_rows if isinstance(p, JointColumns) else None for p in parts]
    rows = [None if x is None else [on_device(r) for r in x] for x in own]
    curvature = np.asarray(_curvature(flow, factors, weights, rows, decays, makers, layout))
    values = np.linalg.eigvalsh(0.5 * (curvature + curvature.T))
    return float(-values[0]) if -values[0] > _LEVEL * np.max(np.abs(values)) else 0.0


def _learned(part: SaddleLeaf) -> Columns | None:
    columns = part.columns if isinstance(part, JointColumns) else part
    return columns if isinstance(columns, Columns) and columns.k else None


@eqx.filter_jit
def _curvature(flow, factors, weights, rows, decays, makers, layout):
    """∇² of the loss and its decay in the learned columns of all heads."""
    flat, unravel = jax.flatten_util.ravel_pytree(factors)

    def potential(flat):
        made, cost = [], jnp.zeros(())
        each = zip(unravel(flat), weights, rows, decays, makers, strict=True)
        for factor, weight, heads, decay, maker in each:
            if maker is None:
                made.append(weight)
                continue
            product, split = maker
            if heads is None:
                made.append(product(factor, split))
            else:
                made.append(jnp.stack([product(jnp.matmul(factor, r.T), split) for r in heads]))
            cost = cost + 0.5 * decay * jnp.sum(factor**2)
        return flow.loss(assembled(made, layout, flow.names)) + cost

    return jax.jacfwd(jax.grad(potential))(flat)
