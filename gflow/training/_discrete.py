"""A flow in coordinates in which a step of gradient descent is exact."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..coordinates._base import Coordinates
from ..coordinates._column_steps import ColumnSteps
from ..coordinates._raw import RawCoordinates
from ..coordinates._signed_logs import SignedLogs
from ..flow._flow import Flow
from ..parameters._base import is_parameter, trained_leaves


def discrete(flow: Flow, model: PyTree) -> Flow:
    """`flow` with coordinates that take steps of gradient descent on the factors.

    **Raises:** ValueError for a leaf whose own coordinates move otherwise.
    """
    leaves = trained_leaves(model)
    pairs = zip(flow.names, flow.coordinates, strict=True)
    made = tuple(_steps(name, leaves[name], c) for name, c in pairs)
    return eqx.tree_at(lambda f: f.coordinates, flow, made)


def _steps(name: str, leaf: Any, c: Coordinates) -> Coordinates:
    if is_parameter(leaf):
        c = leaf.steps(c)
    own = c.chart.descended is not Coordinates.descended or isinstance(c, ColumnSteps)
    if own or c.chart.plain or bool(_is_gradient(c)):
        return c
    raise ValueError(
        f"Leaf {name!r} is a {type(leaf).__name__}: its coordinates do not move along the gradient "
        "of the loss with respect to their state, so that a step along their velocity is no "
        "gradient descent. Define `descended` on them, which takes the step of the factors, or "
        "train gflow.to_factors(model)."
    )


@eqx.filter_jit
def _is_gradient(c: Coordinates) -> Array:
    """Whether the velocity is minus the gradient along the state, and decay shrinks the state."""
    start = c.start()
    wave = jnp.sin(1.0 + jnp.arange(start.size, dtype=start.dtype))
    state = start + 0.1 * wave * jnp.where(start != 0.0, jnp.abs(start), 1.0)
    value, pull = jax.vjp(c.value, state)
    force = jnp.cos(jnp.arange(value.size, dtype=start.dtype)).reshape(value.shape)
    zero, one = jnp.zeros((), start.dtype), jnp.ones((), start.dtype)
    pairs = (
        (c.velocity(state, force, zero), pull(force)[0]),
        (c.velocity(state, jnp.zeros_like(force), one), -state),
    )
    slack = jnp.sqrt(jnp.finfo(start.dtype).eps)
    close = [jnp.max(jnp.abs(a - b)) <= slack * jnp.max(jnp.abs(b)) for a, b in pairs]
    return jnp.all(jnp.stack(close))


def described(flow: Flow) -> str:
    """The kinds of coordinates that a flow is in."""
    kinds = {SignedLogs: "log", ColumnSteps: "column", RawCoordinates: "raw"}
    return " and ".join(sorted({kinds.get(type(c), "factor") for c in flow.coordinates}))
