"""The order of the saddle that plain weights start near, read off how their forces scale."""

import math

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ..parameters._base import trained_leaves
from ..parameters._scaled import units_of
from ._flow import Flow

#: Size of plain weights below which what follows a saddle of order three and more may stall.
SMALL = 1e-6

#: Forces that grow by more than this when the weights are doubled are products of two and more.
_CUBIC = 3.0

#: By how much the degree of forces at a start may differ from the one that they have at zero.
_OFF = 0.2


def high_order(flow: Flow) -> str | None:
    """What stalls a run of plain weights from near a saddle of order three and more, if it is one.

    They leave it after a time 1/ε; then live ones beside dormant ones hold explicit steps to a time
    of one, and implicit ones divide noise by noise. A single drop is no trouble.
    """
    if not all(c.chart.plain for c in flow.coordinates):
        return None
    sizes = [np.max(np.abs(np.asarray(c.value(c.start()))), initial=0.0) for c in flow.coordinates]
    if not 0.0 < max(sizes) < SMALL:
        return None
    once, twice = (float(x) for x in _forces(flow))
    if not (once > 0.0 and twice > _CUBIC * once):
        return None
    order = 1 + round(float(np.log2(twice / once)))
    return (
        f"the plain weights start at sizes up to {max(sizes):.1e}, near a saddle of order {order} "
        f"(doubled, they feel {twice / once:.3g} times the force), and what is dormant beside live "
        f"weights waits for a time like 1/size{'' if order == 3 else f'^{order - 2}'}. Make them "
        "gflow.Scaled(array, log_scale, units=...), the parts of each mode bound to one unit, or "
        "with interfaces=... where matrices follow one another (gflow.models.DeepLinear.small): "
        "all saddles are then followed from any size"
    )


def order_of(flow: Flow, model: PyTree) -> int:
    """The order D of the saddle that weights in units start near: forces there are of degree D − 1.

    Two for other weights, and where forces are of no degree in particular.
    """
    if not any(units_of(leaf) for leaf in trained_leaves(model).values()):
        return 2
    once, twice = (float(x) for x in _forces(flow))
    if not (once > 0.0 and math.isfinite(twice)):
        return 2
    degree = math.log2(twice / once)
    whole = round(degree)
    return 1 + whole if whole >= 2 and abs(degree - whole) < _OFF else 2


@eqx.filter_jit
def _forces(flow: Flow) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The largest force on a weight, at the start and where all weights are twice as large."""
    weights = flow.weights(flow.start())

    def largest(factor: float) -> Array:
        scaled = {name: factor * x for name, x in weights.items()}
        _, forces = flow.forces(scaled)
        return jnp.max(jnp.stack([jnp.max(jnp.abs(g)) for g in forces.values()]))

    return largest(1.0), largest(2.0)
