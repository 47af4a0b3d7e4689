"""The Hessian of a loss in plain factors: its largest eigenvalues, and how they change."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.sparse.linalg import LinearOperator, eigsh

from ..flow._flow import Flow

#: Weights up to which the Hessian is taken whole.
DENSE = 128

State = Float[Array, " size"]


def top(
    flow: Flow, state: Any, count: int, guess: np.ndarray | None = None
) -> tuple[Float[np.ndarray, " count"], Float[np.ndarray, "size count"]]:
    """The `count` largest eigenvalues of the Hessian of the loss, descending, with their vectors.

    `guess` starts the search in the span of nearby eigenvectors.
    """
    size = flow.size
    if size <= DENSE or count >= size - 1:
        values, vectors = np.linalg.eigh(np.asarray(_whole(flow, state), float))
        return values[::-1][:count], vectors[:, ::-1][:, :count]

    def image(x: np.ndarray) -> np.ndarray:
        return np.asarray(_along(flow, state, jnp.asarray(x.ravel(), state.dtype)), float)

    start = np.random.default_rng(0).normal(size=size) if guess is None else guess.sum(axis=1)
    operator = LinearOperator((size, size), matvec=image, dtype=float)
    options: Any = {"which": "LA", "v0": start, "tol": 1e-8}
    values, vectors = eigsh(operator, k=count, **options)
    order = np.argsort(values)[::-1]
    return values[order], vectors[:, order]


@eqx.filter_jit
def _whole(flow: Flow, state: State) -> Float[Array, "size size"]:
    whole = -jax.jacfwd(lambda y: downhill(flow, y))(state)
    return 0.5 * (whole + whole.T)


@eqx.filter_jit
def _along(flow: Flow, state: State, direction: State) -> State:
    return -jax.jvp(lambda y: downhill(flow, y), (state,), (direction,))[1]


def downhill(flow: Flow, state: State) -> State:
    """−∇L in the factors."""
    return flow.velocity(jnp.zeros((), state.dtype), state)


@eqx.filter_jit
def _derivatives(flow: Flow, state: State) -> tuple[Float[Array, ""], State, State]:
    """The loss, −∇L, and its Hessian along a fixed direction."""
    wave = jnp.sin(1.0 + jnp.arange(state.size, dtype=state.dtype))
    down, along = jax.jvp(lambda y: downhill(flow, y), (state,), (wave,))
    return flow.loss(flow.weights(state)), down, along


def finite(flow: Flow, state: State) -> bool:
    """Whether the loss and its derivatives are in the floats."""
    return all(bool(np.all(np.isfinite(x))) for x in _derivatives(flow, state))


@eqx.filter_jit
def bends(
    flow: Flow, state: State, vectors: Float[Array, "size count"]
) -> tuple[Float[Array, "count count"], Float[Array, "count count size"]]:
    """UᵀHU, and the gradient of each of its elements with U held fixed."""

    def element(y: State, u: State, v: State) -> Float[Array, ""]:
        return -jnp.vdot(u, jax.jvp(lambda z: downhill(flow, z), (y,), (v,))[1])

    both = jax.value_and_grad(element)
    columns = vectors.T
    return jax.vmap(lambda u: jax.vmap(lambda v: both(state, u, v))(columns))(columns)
