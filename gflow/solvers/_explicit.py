"""Diffrax's Dopri8 and Tsit5 in a step that is cheaper to trace, to compile and to take."""

import diffrax
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree


class _Explicit(diffrax.AbstractERK):
    """A step by the tableau of an explicit method whose last stage is the new point.

    Diffrax's serves implicit, stochastic and split methods with one code, which is paid for when it
    is traced (half of the time to compile a step) and in every stage (a quarter of a step of ten
    unknowns).
    """

    def init(self, terms, t0, t1, y0, args):
        del terms, t0, t1, args
        return jnp.array(True), jnp.zeros_like(ravel_pytree(y0)[0])

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        assert solver_state is not None
        first, slope = solver_state
        y, unravel = ravel_pytree(y0)
        h, length = jnp.asarray(terms.contr(t0, t1), y.dtype), t1 - t0
        assert isinstance(self.tableau, diffrax.ButcherTableau)
        points, weights, times, stages = _table(self.tableau)
        weights, points = (jnp.asarray(x, y.dtype) for x in (weights, points))
        times = jnp.asarray(times, jnp.result_type(t0, t1))

        def combined(row, k):
            return h * jnp.sum(row[:, None] * k, axis=0)

        def stage(i, carry):
            k, _ = carry
            point = y + combined(points[i], k)
            t = jnp.where(times[i] == 1.0, t1, t0 + times[i] * length)
            slope = ravel_pytree(terms.vf(t, unravel(point), args))[0]
            return jax.lax.dynamic_update_index_in_dim(k, slope, i, 0), point

        # the slope at the start is that at the end of the step before, unless there is none; of a
        # batch all members begin at the same stage
        anew = eqxi.unvmap_any(first | made_jump)
        k = jnp.zeros((stages, y.size), y.dtype).at[0].set(jnp.where(anew, 0.0, slope))
        k, end = jax.lax.fori_loop(jnp.where(anew, 0, 1), stages, stage, (k, y))
        y1, error = unravel(end), unravel(combined(weights, k))
        dense = dict(y0=y0, y1=y1, k=jax.vmap(unravel)(h * k))
        return y1, error, dense, (jnp.array(False), k[-1]), diffrax.RESULTS.successful


def _table(tableau: diffrax.ButcherTableau) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Rows of the stages, weights of the error, times of the stages, and their number."""
    stages = tableau.num_stages
    points = np.zeros((stages, stages))
    for i, row in enumerate(tableau.a_lower):
        points[i + 1, : i + 1] = row
    return points, tableau.b_error, np.append(0.0, tableau.c), stages


class Dopri8(_Explicit, diffrax.Dopri8):
    """`diffrax.Dopri8`: the order 8(7) of Prince and Dormand 1981, thirteen stages a step.

    ```python
    gflow.simulate(model, objective, t1=1.0, solver=gflow.solvers.Dopri8())
    ```
    """


class Tsit5(_Explicit, diffrax.Tsit5):
    """`diffrax.Tsit5`: the order 5(4) of Tsitouras 2011, six stages a step.

    ```python
    gflow.simulate(model, objective, t1=1.0, solver=gflow.solvers.Tsit5())
    ```
    """
