"""Whether a loss is a squared distance of a product of two factors to a target, and to which."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from gflow import Parameter
from gflow.internal import Flow, Objective, build_flow, leaf_name, probe_weights
from gflow.models import DeepLinear

from ._factor_pairs import FactorPair

#: How far the curvature may be from a multiple of the identity, relative to it.
WHITENESS = 1e-11


@dataclasses.dataclass(frozen=True, eq=False)
class Quadratic:
    """L(W) = (c/2)‖W − D‖² + `floor`, with c the `curvature` and D the `target`.

    `deviation`: how far the force is from c(D − W), relative to its size.
    """

    curvature: float
    target: Float[np.ndarray, "m n"]
    floor: float
    deviation: float


def quadratic(model: PyTree, pair: FactorPair, objective: Objective) -> Quadratic:
    """The loss as a function of W = A Bᵀ, looked at where it is 0 and at fixed other places.

    **Raises:** ValueError where it is not of this form: inputs that are not white, or a loss
    that is not squared.
    """
    flow, name = _of_product(model, pair, objective)
    shape = pair.left.shape[0], pair.right.shape[0]
    probes = probe_weights({name: shape})[name]
    places = np.stack([np.zeros(shape), probes[-1], -probes[-1], 2.0 * probes[1]])
    _, force = _answers(flow, name, jnp.asarray(places, flow.dtype))
    moved = force[1:] - force[0]
    curvature = -float(np.sum(moved[0] * places[1]) / np.sum(places[1] ** 2))
    size = abs(curvature) * np.max(np.abs(places)) + np.max(np.abs(force))
    off = float(np.max(np.abs(moved + curvature * places[1:])) / size) if size else np.inf
    if not (curvature > 0.0 and off <= WHITENESS):
        raise ValueError(_why(moved, places[1:], off, size))
    target = force[0] / curvature
    floor, _ = _answers(flow, name, jnp.asarray(target[None], flow.dtype))
    return Quadratic(curvature, target, float(floor[0]), off)


def _why(moved: np.ndarray, places: np.ndarray, off: float, size: float) -> str:
    odd = np.max(np.abs(moved[0] + moved[1]))
    linear = np.max(np.abs(moved[2] * np.linalg.norm(places[0]) - moved[0] * np.linalg.norm(
        places[2]))) / np.linalg.norm(places[0])  # fmt: skip
    if max(odd, linear) <= 1e-9 * size:
        return (
            f"The loss is quadratic in W = A Bᵀ, but its curvature is no multiple of the identity "
            f"(off by {off:.2g} of the force): the inputs are not white. The closed forms need "
            "XᵀX/n = σ²I for inputs X (rows are examples), such as jnp.eye or a matrix with "
            "orthogonal columns of one length; for others use gflow.simulate."
        )
    return (
        f"The loss is no squared distance of W = A Bᵀ to a target: the force at fixed weights is "
        f"{off:.2g} off c(D − W). Closed forms of the way are known for gflow.objectives."
        "SquaredLoss of a linear map with white inputs; for other losses use gflow.simulate."
    )


def _of_product(model: PyTree, pair: FactorPair, objective: Objective) -> tuple[Flow, str]:
    """The flow of a model whose one trained leaf is the product, with its name."""
    if len(pair.leaves) == 1:
        flow = build_flow(model, objective)
        return flow, pair.leaves[0]
    product = jnp.asarray(pair.left @ pair.right.T)

    def merged(node: Any) -> Any:
        return DeepLinear((product,)) if isinstance(node, DeepLinear) else node

    def stops(node: Any) -> bool:
        return isinstance(node, DeepLinear | Parameter)

    whole = jax.tree.map(merged, model, is_leaf=stops)
    paths = jax.tree_util.tree_flatten_with_path(whole, is_leaf=stops)[0]
    (name,) = (leaf_name(path) for path, node in paths if isinstance(node, DeepLinear))
    return build_flow(whole, objective), f"{name}.weights.0".lstrip(".")


@eqx.filter_jit
def _traced(flow: Flow, name: str, places: Array) -> tuple[Array, Array]:
    def one(w: Array) -> tuple[Array, Array]:
        loss, force = flow.forces({name: w})
        return loss, force[name]

    return jax.lax.map(one, places)


def _answers(flow: Flow, name: str, places: Array) -> tuple[np.ndarray, np.ndarray]:
    loss, force = _traced(flow, name, places)
    return np.asarray(loss, float), np.asarray(force, float)
