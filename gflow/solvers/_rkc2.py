"""RKC2: the Runge–Kutta–Chebyshev method of order 2 as a Diffrax solver."""

from typing import Literal

import equinox.internal as eqxi
import jax
import jax.numpy as jnp

from ._spectral_radius import StabilisedSolver, combination

_DAMPING = 2 / 13


class RKC2(StabilisedSolver):
    r"""Runge–Kutta–Chebyshev of order 2 with any number s ≥ 2 of stages, β(s) ≈ 0.65 s².

    Its stability polynomial a_s + b_s T_s(w₀ + w₁z) is a shifted Chebyshev
    polynomial, so that the stages follow from Chebyshev's recursion for any s:

        Y_j − y = μ_j (Y_{j−1} − y) + ν_j (Y_{j−2} − y) + μ̃_j h (F_{j−1} − a_{j−1} F_0),
        b_j = T''_j/T'_j²,  a_j = 1 − b_j T_j,  w₁ = T'_s/T''_s,  all at w₀ = 1 + ε/s²,
        μ_j = 2 w₀ b_j/b_{j−1},  ν_j = −b_j/b_{j−2},  μ̃_j = 2 w₁ b_j/b_{j−1},  ε = 2/13,

    and b_0 = b_1 = b_2. On −β < z < 0 the polynomial stays below 1 − ε/3 but near 0. The
    error estimate (4/5)(y_n − y_{n+1}) + (2h/5)(F_n + F_{n+1}) is the method's own, of
    order h³.

    **Source:** Sommeijer, Shampine & Verwer 1998, "RKC: an explicit solver for parabolic
    PDEs", J. Comput. Appl. Math. 88, 315, section 2.
    **Valid** for a Jacobian with nearly real spectrum, such as that of a gradient flow:
    positive eigenvalues are followed as far as the tolerance asks, not damped. Rounding
    grows with s²: 500 stages suit float64, about 150 float32.

    ```python
    diffrax.diffeqsolve(diffrax.ODETerm(f), gflow.solvers.RKC2(), 0.0, 1e4, None, y0,
                        stepsize_controller=diffrax.PIDController(rtol=1e-4, atol=1e-6))
    ```
    """

    min_stages: int = 2
    max_stages: int = 500
    safety: float = 1.1
    scan_kind: Literal["lax", "checkpointed", "bounded"] = "lax"

    def order(self, terms):
        return 2

    def error_order(self, terms):
        return 3

    def stages(self, reach):
        # β(s) = (2/3)(s² − 1)(1 − 2ε/15)
        least = jnp.sqrt(1.0 + 1.5 / (1.0 - 2.0 * _DAMPING / 15.0) * reach)
        least = jnp.clip(jnp.ceil(least), self.min_stages, self.max_stages + 1)
        return least.astype(jnp.int32)

    def advance(self, field, y0, slope, h, stages):
        s = stages.astype(h.dtype)
        excess = _DAMPING / s**2
        w0 = 1.0 + excess
        sinh = jnp.sqrt(excess * (2.0 + excess))
        turn = 2.0 * s * jnp.arcsinh(jnp.sqrt(0.5 * excess))
        w1 = jnp.sinh(turn) * sinh**2 / (jnp.cosh(turn) * s * sinh - w0 * jnp.sinh(turn))

        # T_j, T'_j, T''_j at w₀ by their differences: no cancellation, also in float32
        def next_polynomials(values, steps):
            (T, T1, T2), (d, d1, d2) = values, steps
            steps = (
                d + 2.0 * excess * T,
                d1 + 2.0 * excess * T1 + 2.0 * T,
                d2 + 2.0 * excess * T2 + 4.0 * T1,
            )
            return tuple(a + b for a, b in zip(values, steps, strict=True)), steps

        def unfinished(carry):
            return carry[0] < stages

        def stage(carry):
            j, values, steps, (b1, b2), (c1, c2), (Y1, Y2) = carry
            a1 = 1.0 - b1 * values[0]
            values, steps = next_polynomials(values, steps)
            b = values[2] / values[1] ** 2
            mu, nu, mu_slope = 2.0 * w0 * b / b1, -b / b2, 2.0 * w1 * b / b1
            F = field(c1, combination((1.0, y0), (1.0, Y1)))
            Y = combination((mu, Y1), (nu, Y2), (h * mu_slope, F), (-h * mu_slope * a1, slope))
            c = mu * c1 + nu * c2 + mu_slope * (1.0 - a1)
            return j + 1, values, steps, (b, b1), (c, c1), (Y, Y1)

        one, zero = jnp.ones_like(h), jnp.zeros_like(h)
        b1 = 0.25 / w0**2
        c1 = b1 * w1
        start = (
            jnp.ones_like(stages),
            (w0, one, zero),
            (excess, one, zero),
            (b1, b1),
            (c1, zero),
            (combination((h * c1, slope)), jax.tree.map(jnp.zeros_like, y0)),
        )
        *_, (c, _), (change, _) = eqxi.while_loop(
            unfinished, stage, start, max_steps=self.max_stages, kind=self.scan_kind
        )
        # c_s = 1 but for rounding, which grows with s²; so order 1 holds in float32 too
        change = combination((1.0 / c, change))
        y1 = combination((1.0, y0), (1.0, change))
        slope1 = field(1.0, y1)
        error = combination((-0.8, change), (0.4 * h, slope), (0.4 * h, slope1))
        return y1, slope1, error
