"""Curvature of the loss at a saddle, along what is active there."""

import math
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np

from gflow.internal import (
    Coordinate,
    Flow,
    on_device,
)

from ._fast_system import Layout, assembled, by_piece
from ._saddle_leaf import SaddleLeaf


def curvature(
    flow: Flow, parts: Sequence[SaddleLeaf], layout: Layout, copies: Sequence[set[Coordinate]]
) -> float:
    """Smallest eigenvalue of ∇²L on the active part, exchange of copies taken out."""
    rows = [p.flat_directions() for p in parts]
    directions = [d for d in rows if d is not None]
    coordinates = [c for p in parts for c in p.active]
    if len(directions) < len(rows) or not coordinates:
        return math.nan
    weights = [on_device(p.weight) for p in parts]
    jacobian = np.asarray(force_and_jacobian(flow, weights, layout)[1])
    cuts = np.cumsum([d.shape[1] for d in directions])[:-1]
    sides = np.split(jacobian, cuts, axis=0)
    half = np.concatenate([d @ side for d, side in zip(directions, sides, strict=True)])
    columns = np.split(half, cuts, axis=1)
    hessian = -np.concatenate([p @ d.T for d, p in zip(directions, columns, strict=True)], axis=1)
    values, vectors = np.linalg.eigh(0.5 * (hessian + hessian.T))
    exchange = np.zeros_like(values)
    for group in copies:
        inside = np.array([c in group for c in coordinates])
        if inside.any():
            part = vectors[inside] - vectors[inside].mean(axis=0)
            exchange += np.sum(np.square(part), axis=0)
    flat = (np.abs(values) < 1e-9 * np.max(np.abs(values))) & (exchange > 0.99)
    return float(np.min(values[~flat])) if np.any(~flat) else math.nan


@eqx.filter_jit
def force_and_jacobian(flow: Flow, weights: list[Any], layout: Layout) -> tuple[Any, Any]:
    """g and ∂g/∂w of all parts, flattened one after the other: −∇L and −∇²L."""
    flat, unravel = jax.flatten_util.ravel_pytree(weights)

    def force(flat):
        _, forces = flow.forces(assembled(unravel(flat), layout, flow.names))
        out = jnp.concatenate([g.ravel() for g in by_piece(forces, layout)])
        return out, out

    jacobian, here = jax.jacfwd(force, has_aux=True)(flat)
    return here, jacobian
