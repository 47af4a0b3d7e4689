"""Unframed systems of a path, followed in steps."""

from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gflow.internal import TERM, Pace, Unframed, march, on_device
from gflow.solvers import Dopri8, Rodas5P

#: Attempted steps in one compiled call, how many calls are explicit, and how many there may be.
STEPS, EXPLICIT, CALLS = 128, 40, 200


@eqx.filter_jit
def _advance(field: Any, state: Array, pace: Pace, tolerance: Any, span: Array, solver: Any) -> Any:
    def build(x):
        return eqx.tree_at(lambda f: f.state, field, x)

    zero = jnp.zeros_like(span)
    return march(build, state, solver, tolerance, zero, span, pace, attempts=STEPS)


def followed(
    field: Unframed,
    atol: np.ndarray,
    rtol: float,
    span: float = np.inf,
    first: float = 1e-3,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of steps, times and states, up to `span`: explicit, implicit where it is stiff."""
    state, offset, pace = field.state, 0.0, Pace.at(on_device(np.asarray(min(first, span))))
    tolerance = on_device(atol), on_device(np.full_like(atol, rtol))
    for call in range(CALLS):
        solver = Dopri8() if call < EXPLICIT else Rodas5P()
        left = on_device(np.asarray(span - offset))
        steps = _advance(field, state, pace, tolerance, left, solver)
        kept = np.asarray(steps.kept)
        t, states = offset + np.asarray(steps.t)[kept], np.asarray(steps.state)[kept]
        if not len(t) or not np.all(np.isfinite(states)):
            break
        yield t, states
        if t[-1] >= span:
            return
        state, offset, pace = on_device(states[-1]), float(t[-1]), steps.pace
    raise ValueError(
        "An orbit of the limit algorithm could not be followed: its steps come to nothing, or "
        "there is no end to them."
    )


@eqx.filter_jit
def rates_of(field: Unframed, state: Array) -> Array:
    """y' at a state."""
    return field.velocity(jnp.zeros(()), state)


@eqx.filter_jit
def one_step(field: Unframed, state: Array, step: Float[Array, ""]) -> Array:
    """The state after one explicit step of this length."""
    zero, moved = jnp.zeros_like(step), eqx.tree_at(lambda f: f.state, field, state)
    args = (moved, zero)
    solver = Dopri8()
    inner = solver.init(TERM, zero, step, state, args)
    return solver.step(TERM, zero, step, state, args, inner, jnp.array(False))[0]
