"""Tokens as their mean and what tells them apart, each as a direction and a logarithm."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Shaped

#: Exponents beyond this leave the floats.
_CAP = 690.0
#: Relative rounding of a float.
ULP = 2.0**-53


def bounded_exp(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """e^x, largest where it would leave the floats."""
    return jnp.exp(jnp.minimum(x, _CAP))


def floats(x: ArrayLike) -> Array:
    """`x` as an array of JAX."""
    return jnp.asarray(x)


def some_floats(x: ArrayLike | None) -> Array | None:
    """`x` as an array of JAX, where there is one."""
    return None if x is None else jnp.asarray(x)


def direction(x: Array, log: Array, weights: Array | None = None) -> tuple[Array, Array]:
    """e^log · x as a direction and the logarithm of its norm, weighted by row; 0 and −∞ of zero."""
    largest = jnp.max(jnp.abs(x))
    safe = jnp.where(largest > 0.0, largest, 1.0)
    squares = (x / safe) ** 2
    if weights is not None:
        squares = squares * weights[:, None]
    norm = jnp.sqrt(jnp.where(largest > 0.0, jnp.sum(squares), 1.0))
    size = jnp.where(largest > 0.0, jnp.log(norm) + jnp.log(safe) + log, -jnp.inf)
    return x / (safe * norm), size


def scaled_sum(*terms: tuple[Array, Array]) -> tuple[Array, Array]:
    """Σ e^log · x over pairs (x, log), as one pair."""
    logs = jnp.stack([log for _, log in terms])
    top = jnp.max(logs)
    top = jnp.where(jnp.isfinite(top), top, 0.0)
    parts = [jnp.exp(log - top) * x for x, log in terms]
    return sum(parts[1:], parts[0]), top


class Tokens(eqx.Module):
    r"""X = e^log_mean 1·meanᵀ + e^log_size · deviation, tokens in rows.

    `mean` (d,) has norm one and `deviation` (n, d) as well, and no mean of its own: means and
    norms over tokens are weighted by `counts` (n,), how many tokens each stands for. A part that
    is zero has the logarithm −∞. `rounding` is the error of log_size.

    `Tokens.of(X)` makes them; `tokens @ weight`, sums and multiples keep all digits; `.value` is X.

    **Raises:** ValueError for arrays that are no (tokens, d), and widths that do not fit.

    ```python
    Tokens.of(jnp.eye(4)).log_size                 # ln √3
    ```
    """

    mean: Float[Array, "... d"]
    log_mean: Float[Array, "..."]
    deviation: Float[Array, "... n d"]
    log_size: Float[Array, "..."]
    counts: Float[Array, "... n"]
    rounding: Float[Array, "..."]

    @classmethod
    def of(
        cls, x: Shaped[Array | np.ndarray, "..."], counts: Float[Array, " m"] | None = None
    ) -> "Tokens":
        """Tokens X (n, d) in a plain array, known to its rounding."""
        x = jnp.asarray(x)
        if x.ndim != 2 or 0 in x.shape or not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(
                f"Tokens have shape {x.shape} and dtype {x.dtype}: give floats of shape "
                "(tokens, d)."
            )
        m = jnp.ones(x.shape[0], x.dtype) if counts is None else jnp.asarray(counts)
        if m.shape != x.shape[:1]:
            raise ValueError(f"counts have shape {m.shape}, for {x.shape[0]} tokens: one a token.")
        zero = jnp.zeros((), x.dtype)
        mean = m @ x / jnp.sum(m)
        apart = x - mean[None]
        # a feature that is the same for all tokens has no rounding for a deviation
        level = 4.0 * ULP * jnp.max(jnp.abs(x), axis=0)
        apart = jnp.where((jnp.max(jnp.abs(apart), axis=0) > level)[None], apart, 0.0)
        found = cls.joined((mean, zero), (apart, zero), m, zero)
        # of equal tokens what is left of X − mean is rounding alone
        noise = ULP * jnp.linalg.norm(x) * jnp.exp(-found.log_size)
        equal = noise > 0.1
        return cls(
            found.mean, found.log_mean, jnp.where(equal, 0.0, found.deviation),
            jnp.where(equal, -jnp.inf, found.log_size), m, jnp.where(equal, 0.0, noise),
        )  # fmt: skip

    @classmethod
    def joined(
        cls,
        mean: tuple[Array, Array],
        apart: tuple[Array, Array],
        counts: Float[Array, " n"],
        rounding: Float[Array, ""],
    ) -> "Tokens":
        """From pairs (array, logarithm): a part of the mean, and tokens added to it."""
        common = counts @ apart[0] / jnp.sum(counts)
        deviation, log_size = direction(apart[0] - common[None], apart[1], counts)
        return cls(
            *direction(*scaled_sum(mean, (common, apart[1]))), deviation, log_size, counts, rounding
        )

    @property
    def value(self) -> Float[Array, "n d"]:
        """X in plain floats, in which a small deviation is lost."""
        return self.common[None] + self.apart

    @property
    def common(self) -> Float[Array, " d"]:
        """The mean token in plain floats."""
        return bounded_exp(self.log_mean) * self.mean

    @property
    def apart(self) -> Float[Array, "n d"]:
        """X less its mean, in plain floats."""
        return bounded_exp(self.log_size) * self.deviation

    def with_parts(self, mean: tuple[Array, Array], apart: tuple[Array, Array]) -> "Tokens":
        """Others of the same counts, from pairs (array, logarithm)."""
        return Tokens.joined(mean, apart, self.counts, self.rounding)

    def __matmul__(self, weight: Float[Array, "d width"]) -> "Tokens":
        if weight.ndim != 2 or weight.shape[0] != self.mean.shape[-1]:
            raise ValueError(
                f"A weight of shape {weight.shape} is applied to tokens of width "
                f"{self.mean.shape[-1]}: it is to be ({self.mean.shape[-1]}, width of its image)."
            )
        return self.with_parts(
            (self.mean @ weight, self.log_mean), (self.deviation @ weight, self.log_size)
        )

    def __add__(self, other: "Tokens") -> "Tokens":
        if self.deviation.shape != other.deviation.shape:
            raise ValueError(
                f"Tokens of shape {self.deviation.shape} and {other.deviation.shape} are added: "
                "a residual needs a block that keeps their number and width."
            )
        found = self.with_parts(
            scaled_sum((self.mean, self.log_mean), (other.mean, other.log_mean)),
            scaled_sum((self.deviation, self.log_size), (other.deviation, other.log_size)),
        )
        # what is summed is known to its own share
        ends = jnp.stack([self.log_size, other.log_size])
        shares = jnp.where(ends > -jnp.inf, jnp.exp(ends - found.log_size), 0.0)
        rounding = jnp.stack([self.rounding, other.rounding])
        return eqx.tree_at(lambda t: t.rounding, found, jnp.sum(shares * rounding))

    def __mul__(self, factor: float | int | Float[Array, ""]) -> "Tokens":
        sign, log = jnp.sign(factor), jnp.log(jnp.abs(factor))
        zero = sign == 0.0
        return Tokens(
            sign * self.mean, jnp.where(zero, -jnp.inf, self.log_mean + log),
            sign * self.deviation, jnp.where(zero, -jnp.inf, self.log_size + log),
            self.counts, self.rounding,
        )  # fmt: skip

    __rmul__ = __mul__

    def __sub__(self, other: "Tokens") -> "Tokens":
        return self + (-1.0) * other

    def shifted(self, bias: Float[Array, " d"]) -> "Tokens":
        """One vector added to every token."""
        mean = scaled_sum((self.mean, self.log_mean), (bias, jnp.zeros(())))
        return self.with_parts(mean, (self.deviation, self.log_size))

    def row_scaled(self, common: Float[Array, ""], apart: Float[Array, " n"]) -> "Tokens":
        """Token i times common + apart_i."""
        first = (self.common[None] * apart[:, None], jnp.zeros(()))
        second = ((common + apart)[:, None] * self.deviation, self.log_size)
        return self.with_parts((common * self.mean, self.log_mean), scaled_sum(first, second))


def tokens_of(x: Tokens | Shaped[Array | np.ndarray, "..."]) -> Tokens:
    """Tokens, of a plain array where it is one."""
    return x if isinstance(x, Tokens) else _made(jnp.asarray(x))


@jax.jit
def _made(x: Array) -> Tokens:
    return Tokens.of(x)
