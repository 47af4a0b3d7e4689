"""ROCK4: the orthogonal Runge–Kutta–Chebyshev method of order 4 as a Diffrax solver."""

from typing import Literal

import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ._rock4_coefficients import tables
from ._spectral_radius import StabilisedSolver, combination


class ROCK4(StabilisedSolver):
    r"""Orthogonal Runge–Kutta–Chebyshev of order 4 with 5 ≤ s ≤ 152 stages, β(s) ≈ 0.35 s².

    s − 4 stages follow the recurrence of polynomials P_j orthogonal with respect to the
    weight that the four finishing stages leave, which is a heavy-ball iteration:

        Y_j − Y_{j−1} = κ_j (Y_{j−1} − Y_{j−2}) + h μ_j f(Y_{j−1}).

    From the last of them four stages of a Runge–Kutta method complete the conditions of
    order 4; the vector field at the new point makes the embedded solution of order 3.
    There are fifty numbers of stages, 5, 6, …, 24, 26, …, 142, 152. On −β < z < 0 the
    stability polynomial stays below 0.953 but near 0.

    **Source:** Abdulle 2002, "Fourth order Chebyshev methods with recurrence relation", SIAM
    J. Sci. Comput. 23, 2041.
    **Valid** for a Jacobian with nearly real spectrum, in float64 and at tight tolerances.
    The finishing stages amplify what enters in them by (hρ)⁴/100: rounding, so that steps
    with hρ beyond (100·rtol/ε)^¼ fail, and the motion of a quasi-equilibrium that stiff
    components follow. In float32 or at rtol above 10⁻⁶ RKC2 is cheaper.

    ```python
    diffrax.diffeqsolve(diffrax.ODETerm(f), gflow.solvers.ROCK4(), 0.0, 1e4, None, y0,
                        stepsize_controller=diffrax.PIDController(rtol=1e-8, atol=1e-10))
    ```
    """

    min_stages: int = 5
    max_stages: int = 152
    safety: float = 1.1
    scan_kind: Literal["lax", "checkpointed", "bounded"] = "lax"

    def order(self, terms):
        return 4

    def stages(self, reach):
        table = tables()
        row = jnp.searchsorted(jnp.asarray(table.reach, reach.dtype), reach)
        row = jnp.maximum(row, int(np.searchsorted(table.stages, self.min_stages)))
        numbers = np.append(table.stages, np.int32(self.max_stages + 1))
        return jnp.asarray(numbers)[row]

    def advance(self, field, y0, slope, h, stages):
        table = tables()
        row = jnp.searchsorted(jnp.asarray(table.stages), stages)
        a, b, b_hat = (jnp.asarray(t, h.dtype)[row] for t in (table.a, table.b, table.b_hat))
        mu, kappa = (jnp.asarray(t, h.dtype) for t in (table.mu, table.kappa))
        offset = jnp.asarray(table.offset)[row]
        length = jnp.asarray(table.stages)[row] - 4

        def unfinished(carry):
            return carry[0] < length

        def stage(carry):
            j, (c, change), (c_step, step) = carry
            m, k = mu[offset + j], kappa[offset + j]
            F = field(c, combination((1.0, y0), (1.0, change)))
            c_step, step = k * c_step + m, combination((k, step), (h * m, F))
            return j + 1, (c + c_step, combination((1.0, change), (1.0, step))), (c_step, step)

        c = mu[offset]
        step = combination((h * c, slope))
        start = (jnp.ones_like(length), (c, step), (c, step))
        _, (c, change), _ = eqxi.while_loop(
            unfinished, stage, start, max_steps=self.max_stages, kind=self.scan_kind
        )

        # one program for the four stages that finish and the slope at the new point
        begun = combination((1.0, y0), (1.0, change))
        rows = h * jnp.pad(jnp.concatenate([a, b[None]]), ((0, 0), (0, 1)))
        times = jnp.append(c + jnp.sum(a, axis=1), 1.0)

        def finish(carry, now):
            slopes, _ = carry
            i, weights, time = now
            point = combination((1.0, begun), (1.0, _summed(weights, slopes)))
            slopes = jax.tree.map(lambda all_, F: all_.at[i].set(F), slopes, field(time, point))
            return (slopes, point), None

        none = jax.tree.map(lambda leaf: jnp.zeros((5, *leaf.shape), leaf.dtype), begun)
        (slopes, y1), _ = jax.lax.scan(finish, (none, begun), (jnp.arange(5), rows, times))
        error = _summed(h * (b_hat - jnp.append(b, 0.0)), slopes)
        return y1, jax.tree.map(lambda leaf: leaf[4], slopes), error


def _summed(weights: Float[Array, " stages"], slopes: PyTree) -> PyTree:
    """Σ wᵢ·slopeᵢ, each leaf in its own precision."""

    def leaf(all_):
        own = jnp.asarray(weights, all_.dtype).reshape(-1, *(1,) * (all_.ndim - 1))
        return jnp.sum(own * all_, axis=0)

    return jax.tree.map(leaf, slopes)
