"""How the kinks of a loss are dealt with: located one by one, rounded off, or refused."""

import dataclasses
import warnings
from typing import Any

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ..flow._flow import Flow
from ..integrate._round import divide, united
from ..parameters._base import Small, is_parameter
from ._located import MOST_KINKS, with_sides
from ._switches import Natural, Switches, find_switches, read
from ._treatments import Rounded, Sides

#: Width of a kink that is rounded off, as a share of the size of its switching function.
WIDTH = 4e-6
#: Below this a weight is lost in float64, with the sign that a kink at zero would need.
_LOST = 1e-290
#: What was read of the latest programs, by their structure; a walk takes milliseconds.
_READ: dict[Any, Switches] = {}
_PROGRAMS = 256


def kinks_of(flow: Flow) -> Switches:
    """The switching functions of the loss of a flow, from its program alone.

    **Raises:** ValueError for a loss that jumps.
    """
    leaves, structure = jax.tree.flatten(flow)
    key = structure, tuple((np.shape(x), jnp.result_type(x)) for x in leaves)
    if key not in _READ:
        weights = eqx.filter_eval_shape(lambda flow: flow.weights(flow.start()), flow)
        if len(_READ) >= _PROGRAMS:
            _READ.pop(next(iter(_READ)))
        _READ[key] = find_switches(flow.as_written, weights)
    found = _READ[key]
    if found.jumps:
        raise ValueError(
            f"The loss itself jumps ({', '.join(found.jumps)} of weights): there is no gradient "
            "flow. Take a continuous loss, or put jax.lax.stop_gradient around the jump."
        )
    return found


def with_kinks(
    flow: Flow, leaves: dict[str, Any], kinks: str | None, rtol: float
) -> tuple[Flow, Flow | None, str]:
    """The flow that follows its kinks, and the one to fall back on, with them rounded off.

    **Raises:** ValueError for a loss that jumps, a kink at weights that are zero in float64, or
    another word than "smooth".
    """
    if kinks not in (None, "smooth"):
        raise ValueError(f'kinks = {kinks!r}: None locates kinks, "smooth" rounds them off.')
    found = kinks_of(flow)
    if found.opaque:
        warnings.warn(
            f"gflow.simulate: kinks inside {', '.join(found.opaque)} cannot be located; the error "
            "bars are not reliable where one is crossed.",
            stacklevel=3,
        )
    if not found.count:
        return flow, None, ""
    refuse_lost_signs(flow, leaves, found)
    smooth = rounded(flow, found, rtol)
    if kinks == "smooth":
        return smooth, smooth, ""
    if found.count > MOST_KINKS:
        return smooth, smooth, f" ({found.count} kinks, at most {MOST_KINKS} are located)"
    sided = located(flow, found)
    return (flow, None, "") if sided is None else (sided, smooth, "")


def located(flow: Flow, found: Switches) -> Flow | None:
    """The flow that stops at each of its kinks; None where they cannot be told apart.

    They cannot where there are too many, or where a derivative of one's own is not that of the
    program (straight-through estimators).
    """
    if not 0 < found.count <= MOST_KINKS:
        return None
    sided = with_sides(flow, found.count)
    return sided if _derivative_agrees(sided) else None


def rounded(flow: Flow, found: Switches, rtol: float) -> Flow:
    """The flow with its kinks rounded off over `WIDTH` of the size of their functions."""
    width = max(WIDTH, 100.0 * rtol)
    return dataclasses.replace(flow, kinks=Rounded(0.5 * width * _sizes(flow, found)))


@eqx.filter_jit
def _sizes(flow: Flow, found: Switches) -> Float[Array, " k"]:
    """Of each switching function: its own at the start, but no more than is usual at its site.

    A weight of 1e-30 with a kink at zero is felt by its sign, beside others of order one.
    """
    h = jnp.abs(read(flow.as_written, flow.weights(flow.start()), Natural())[1])
    cuts = np.cumsum([site.size for site in found.sites])[:-1].tolist()
    sizes = []
    for own in jnp.split(h, cuts):
        usual = jnp.median(own)
        usual = jnp.where(usual > 0.0, usual, 1.0)
        sizes.append(jnp.where(own > 0.0, jnp.minimum(own, usual), usual))
    return jnp.concatenate(sizes)


def rounded_batch(flow: Flow, shared: bool, rtol: float) -> Flow:
    """A batch of flows with the kinks of their loss, if it has any, rounded off in each."""
    parts, fixed = divide(flow, True, shared)

    def first(parts):
        return united(jax.tree.map(lambda x: x[0], parts), fixed)

    one = eqx.filter_eval_shape(first, parts)
    found = kinks_of(one)
    if not found.count:
        return flow
    width = 0.5 * max(WIDTH, 100.0 * rtol)
    return dataclasses.replace(flow, kinks=Rounded(width * _batched(parts, fixed, found)))


@eqx.filter_jit
def _batched(parts: Any, fixed: Flow, found: Switches) -> Float[Array, "members k"]:
    return jax.vmap(lambda own: _sizes(united(own, fixed), found))(parts)


def refuse_lost_signs(flow: Flow, leaves: dict[str, Any], found: Switches) -> None:
    """**Raises:** ValueError where a kink sits at weights that are zero in float64."""
    small = {n: x for n, x in leaves.items() if isinstance(x, Small)}
    if not small or not found.count:
        return
    rng = np.random.default_rng(0)
    moves, lost = {}, []
    for name, leaf in leaves.items():
        value = np.asarray(leaf.value if is_parameter(leaf) else leaf)
        gone = (np.abs(value) < _LOST) & (name in small)
        moves[name] = np.where(gone, rng.normal(size=value.shape), 0.0)
        if gone.any():
            lost.append(name)
    if not lost:
        return
    sided = dataclasses.replace(flow, kinks=Sides.of(found.count, flow.dtype))
    at_zero, felt = _at_zero(sided, jax.tree.map(jnp.asarray, moves))
    if felt:
        first = int(np.argmax(np.asarray(at_zero)))
        alpha = min(float(np.asarray(small[n].log_alpha)) for n in lost)
        raise ValueError(
            f"The loss has a kink at zero weights ({found.describe(first)}), and at α = 10^"
            f"{alpha / np.log(10):.0f} the weights of {lost} are zero in float64, so that their "
            "signs and their order are lost. Take α ≥ 1e-150 for products of two."
        )


@eqx.filter_jit
def _at_zero(flow: Flow, moves: dict[str, Array]) -> tuple[Bool[Array, " k"], Bool[Array, ""]]:
    """Which functions vanish with the lost weights, and whether that makes kinks there."""
    sides = flow.kinks
    assert isinstance(sides, Sides)
    weights = flow.weights(flow.start())

    def functions(w):
        return read(flow.as_written, w, Natural())[1]

    h, moved = jax.jvp(functions, (weights,), (moves,))
    at_zero = (jnp.abs(h) < _LOST) & (moved != 0.0)
    there = jax.tree.map(lambda w, m: w + 1e-3 * m, weights, moves)
    side = functions(there) > 0

    def force(side):
        here = dataclasses.replace(flow, kinks=dataclasses.replace(sides, side=side))
        return jax.flatten_util.ravel_pytree(here.forces(there)[1])[0]

    one, other = force(side), force(side ^ at_zero)
    felt = jnp.max(jnp.abs(one - other)) > 1e-13 * jnp.max(jnp.abs(one))
    return at_zero, felt & jnp.any(at_zero)


@eqx.filter_jit
def _derivative_agrees(flow: Flow) -> Bool[Array, ""]:
    """Whether JAX's derivative at the start, off the kinks, is that of the branches held."""
    sides = flow.kinks
    assert isinstance(sides, Sides)
    weights = flow.weights(flow.start())
    held = jax.flatten_util.ravel_pytree(flow.forces(weights)[1])[0]
    plain = jax.flatten_util.ravel_pytree(jax.grad(flow.as_written)(weights))[0]
    on_kink = jnp.any(sides.heights(flow, flow.start()) == 0.0)
    miss = jnp.max(jnp.abs(held + plain))
    return on_kink | (miss <= 1e-9 * jnp.max(jnp.abs(plain)))
