"""Heads that feel one force, found in the loss, and put into one frame."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.interpreters import partial_eval
from jaxtyping import Array, PyTree

from ..coordinates._frame import FrameCoordinates
from ..coordinates._gauge import GaugeCoordinates
from ..flow._callables import LossOf, Skeleton, arrays_of, row_of
from ..flow._flow import Flow, Objective
from ..parameters._base import heads_summed, trained_leaves
from ..parameters._factored import Factored
from ..programs._closure import Traced, traced
from ._round import divide, united

#: Columns that start smaller than this (a logarithm, of some 1e-208) may come to have components
#: below the floats, and stay in a gauge of each head.
LOWEST = -480.0


def with_common_frames(
    flow: Flow, model: PyTree, objective: Objective, members: int | None = None, shared: bool = True
) -> Flow:
    """The flow with the heads of every leaf whose `.total` the loss reads in one frame.

    The force on the total is that on all heads alike, and the force on `.value` at fixed total
    what every head feels besides: two gradients of one reverse pass. Other leaves stay as they
    are. `members`, `shared`: as in `build_flow`.
    """
    leaves = trained_leaves(model)
    many = [
        name
        for name, c in zip(flow.names, flow.coordinates, strict=True)
        if type(c) is GaugeCoordinates
        and c.log_size.ndim > (2 if members else 1)
        and float(jnp.min(jnp.where(jnp.isfinite(c.log_size), c.log_size, 0.0))) > LOWEST
    ]
    if not many:
        return flow
    weights, totals = _shapes(flow, many, members)
    apart = _program(flow, model, objective, weights, totals, members, shared)
    many = _used(apart, flow, weights, totals)
    if not many:
        return flow
    _, totals = _shapes(flow, many, members)
    apart = _program(flow, model, objective, weights, totals, members, shared)
    flow = dataclasses.replace(flow, apart=apart, together=tuple(many))
    batched = members is not None
    common = _common(*divide(flow, batched, shared), batched)
    moved = tuple(
        c if name not in many else _kept(leaves[name]) or _framed(c, common[name], batched)
        for name, c in zip(flow.names, flow.coordinates, strict=True)
    )
    return dataclasses.replace(flow, coordinates=moved)


def _kept(leaf: Any) -> FrameCoordinates | None:
    """The frame of a leaf that a run has handed out, as long as its columns are those."""
    return leaf.in_frame() if isinstance(leaf, Factored) else None


def _shapes(flow: Flow, names: list[str], members: int | None) -> tuple[Any, Any]:
    def of(coordinates):
        pairs = zip(flow.names, coordinates, strict=True)
        weights = {n: c.value(c.start()) for n, c in pairs}
        return weights, {n: heads_summed(weights[n]) for n in names}

    of = of if members is None else eqx.filter_vmap(of)
    found = eqx.filter_eval_shape(of, flow.coordinates)
    return found if members is None else row_of(found)


def _program(
    flow: Flow, model: PyTree, objective: Any, weights: Any, totals: Any, members: Any, shared: bool
) -> Traced:
    skeleton, _ = Skeleton.of(model)
    _, empty = arrays_of(objective)
    data = flow.data if shared or members is None else row_of(flow.data)
    others = flow.others if members is None else row_of(flow.others)
    function = LossOf(skeleton, empty, jnp.float32)
    return traced(function, data, others, weights, totals, what="The objective")


def _used(apart: Traced, flow: Flow, weights: Any, totals: Any) -> list[str]:
    """The totals that the loss depends on."""
    jaxpr = apart.program.jaxpr
    _, used = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return [name for name, x in zip(sorted(totals), used[-len(totals) :], strict=True) if x]


@eqx.filter_jit
def _common(parts: Any, fixed: Flow, batched: bool) -> dict[str, Array]:
    """At the start, the force that all heads of a leaf feel."""

    def one(parts):
        flow = united(parts, fixed)
        force = flow.pulls(flow.weights(flow.start()))[1]
        return {name: force[name].common for name in flow.together}

    return jax.vmap(one)(parts) if batched else one(parts)


@eqx.filter_jit
def _framed(columns: GaugeCoordinates, common: Array, batched: bool) -> FrameCoordinates:
    return (jax.vmap if batched else _alone)(FrameCoordinates.along)(columns, common)


def _alone(function: Any) -> Any:
    return function
