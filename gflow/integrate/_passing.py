r"""How time passes within a step: evenly, or by equal factors.

Late on the way to infinity, and wherever weights creep, they follow logarithms and powers of t.
No step in t can be longer than a fraction of t there, and one in log t can: it is taken of

    dy/dσ = t log(t₁/t₀) f(t, y),   t = t₀ (t₁/t₀)^σ,   σ = 0 … 1,

in which y = a + b log t is a straight line. Whether the last step lay closer to such a line or to
one in t decides how time passes in the next.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

#: How much closer the line in log t has to be, how many tolerances off the one in t (less is
#: rounding, or jitter), and how long the step, as a share of the time (less is straight in both).
CLOSER, BENT, LONG = 0.2, 100.0, 0.02


class Passing(eqx.Module):
    """Time within a step that the solver sees from `start` on, over `length`.

    It is `begin` at its start and `end` at its end, and passes `by_factors`, or evenly.
    """

    begin: Float[Array, "..."]
    end: Float[Array, "..."]
    start: Float[Array, "..."]
    length: Float[Array, "..."]
    by_factors: Bool[Array, "..."]

    def __call__(self, t: Float[Array, ""], even: Float[Array, ""]) -> tuple[Array, Array]:
        """Flow time at the solver's `t`, which is `even` if it passes so, and its rate."""
        log = log_ratio(self.begin, self.end, self.by_factors)
        at = self.begin * jnp.exp(log * (t - self.start) / self.length)
        time = jnp.where(self.by_factors, jnp.minimum(at, self.end), even)
        return time, jnp.where(self.by_factors, time * log / self.length, 1.0)


def log_ratio(begin: Array, end: Array, where: Array) -> Array:
    """log(end/begin), and 0 elsewhere."""
    return jnp.log1p(jnp.where(where, (end - begin) / jnp.where(where, begin, 1.0), 0.0))


def middle(begin: Array, end: Array, offset: Array, by_factors: Array) -> Array:
    """Half-way between two times that count from `offset`, as time passes."""
    half = log_ratio(offset + begin, offset + end, by_factors) / 2.0
    return begin + jnp.where(by_factors, (offset + begin) * jnp.expm1(half), 0.5 * (end - begin))


def straighter_in_log(
    before: Float[Array, ""], begin: Float[Array, ""], end: Float[Array, ""],
    moved_before: Float[Array, " size"], moved: Float[Array, " size"],
    allowed: Float[Array, " size"],
) -> Bool[Array, ""]:  # fmt: skip
    """Whether steps from `before` to `begin` to `end` lie on a line in log t sooner than in t."""
    real = (before > 0.0) & (begin > before) & (end - begin > LONG * begin)
    even = (end - begin) / jnp.where(real, begin - before, 1.0)
    last = jnp.where(real, log_ratio(before, begin, real), 1.0)
    in_log = log_ratio(begin, end, real) / last
    off = [jnp.max(jnp.abs(moved - x * moved_before) / allowed) for x in (even, in_log)]
    return real & (off[0] > BENT) & (off[1] < CLOSER * off[0])
