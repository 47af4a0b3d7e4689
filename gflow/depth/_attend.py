r"""Softmax attention on tokens whose differences are smaller than any float.

Logits of x̄ + r_i on ȳ + s_j are a row constant, which softmax removes, b_j = ⟨x̄, s_j⟩, the same
for all queries, and E_ij = ⟨r_i, s_j⟩. With p = softmax(b) and Z_i = Σ_j p_j(e^{E_ij} − 1)

    A_ij − p_j = p_j (e^{E_ij} − 1 − Z_i)/(1 + Z_i),

which has the digits of E, however small.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._tokens import ULP, Tokens, bounded_exp, direction, scaled_sum


class Scores(eqx.Module):
    """Logits but for row constants: common_j + e^log_apart · apart_ij."""

    common: Float[Array, "... keys"]
    apart: Float[Array, "... queries keys"]
    log_apart: Float[Array, "..."]

    def __mul__(self, factor: float | int | Float[Array, ""]) -> "Scores":
        # a factor of zero leaves no size behind
        log = jnp.where(factor == 0.0, -jnp.inf, self.log_apart + jnp.log(jnp.abs(factor)))
        return Scores(factor * self.common, jnp.sign(factor) * self.apart, log)

    __rmul__ = __mul__

    def __add__(self, other: "Scores") -> "Scores":
        apart = scaled_sum((self.apart, self.log_apart), (other.apart, other.log_apart))
        return Scores(self.common + other.common, *direction(*apart))

    @property
    def value(self) -> Float[Array, "queries keys"]:
        return self.common[None] + bounded_exp(self.log_apart) * self.apart


def scores(queries: Tokens, keys: Tokens, scale: float | int | Float[Array, ""] = 1.0) -> Scores:
    """Logits scale · ⟨query_i, key_j⟩ but for row constants.

    **Raises:** ValueError for queries and keys of different widths.
    """
    if queries.mean.shape != keys.mean.shape:
        raise ValueError(
            f"Queries have width {queries.mean.shape[-1]} and keys {keys.mean.shape[-1]}: "
            "attention needs one width of both."
        )
    reach = bounded_exp(queries.log_mean + keys.log_size)
    return Scores(
        scale * reach * (keys.deviation @ queries.mean),
        scale * queries.deviation @ keys.deviation.T,
        queries.log_size + keys.log_size,
    )


def attend(
    queries: Tokens | Scores,
    keys: Tokens,
    values: Tokens,
    *,
    scale: float | int | Float[Array, ""] = 1.0,
    causal: bool = False,
) -> Tokens:
    r"""softmax(scale · queries keysᵀ) values, a key that stands for m tokens with + ln m.

    `queries` may be `Scores` that are ready, of which keys give the counts alone. `causal`: query
    i sees the keys 0 … i. Its rows differ however equal the tokens are, so that it does not cube
    what tells them apart.

    **Raises:** ValueError for widths and numbers of tokens that do not fit.

    ```python
    depth.attend(tokens @ w_query, tokens @ w_key, tokens @ w_value, scale=0.5)
    ```
    """
    found = queries if isinstance(queries, Scores) else scores(queries, keys, scale)
    if found.apart.shape[-1] != values.deviation.shape[0]:
        raise ValueError(
            f"Attention over {found.apart.shape[-1]} keys is given {values.deviation.shape[0]} "
            "values: one for each key."
        )
    rows = keys.counts if isinstance(queries, Scores) else queries.counts
    rounding = keys.rounding + (0.0 if isinstance(queries, Scores) else queries.rounding)
    if causal:
        return _causal(found, keys.counts, values, rows, rounding)
    uniform, apart, log = weights_apart(found, keys.counts)
    mean = scaled_sum((values.mean, values.log_mean), (uniform @ values.deviation, values.log_size))
    # rows of weights that differ in all tokens alike say nothing
    return Tokens.joined(mean, (apart @ values.deviation, log + values.log_size), rows,
                         values.rounding + rounding)  # fmt: skip


def _causal(found: Scores, counts: Array, values: Tokens, rows: Array, rounding: Array) -> Tokens:
    weights = causal_weights(found, counts)
    apart = weights @ values.deviation, values.log_size
    after = Tokens.joined((values.mean, values.log_mean), apart, rows, values.rounding)
    # logits off by a share of themselves move the weights by A_ij(l_ij − Σ_k A_ik l_ik) of it
    logits = found.value
    level = jnp.sum(weights * logits, axis=-1, keepdims=True)
    moved = jnp.linalg.norm((weights * (logits - level)) @ values.deviation)
    grown = jnp.where(values.log_size > -jnp.inf, jnp.exp(values.log_size - after.log_size), 0.0)
    lost = values.rounding + (moved * rounding + ULP) * grown
    return eqx.tree_at(lambda t: t.rounding, after, lost)


def causal_weights(found: Scores, counts: Float[Array, " keys"]) -> Float[Array, "queries keys"]:
    """Attention in plain floats, of every query to no later key."""
    seen = jnp.tril(jnp.ones(found.apart.shape, bool))
    logits = jnp.where(seen, found.value + jnp.log(counts)[None], -jnp.inf)
    return jax.nn.softmax(logits, axis=-1)


def weights_apart(
    found: Scores, counts: Float[Array, " keys"]
) -> tuple[Float[Array, " keys"], Float[Array, "queries keys"], Float[Array, ""]]:
    """p, and A − p as an array and a logarithm."""
    common = found.common + jnp.log(counts)
    uniform = jax.nn.softmax(common)
    size = bounded_exp(found.log_apart)
    small = size * jnp.max(jnp.abs(found.apart)) <= 1.0

    def gentle():
        safe = jnp.where(size > 1e-17, size, 1.0)
        grown = jnp.where(size > 1e-17, jnp.expm1(size * found.apart) / safe, found.apart)
        mean = grown @ uniform
        rows = (grown - mean[:, None]) / (1.0 + size * mean)[:, None]
        return uniform[None] * rows, found.log_apart

    def plain():
        logits = common[None] + size * found.apart
        return jax.nn.softmax(logits, axis=-1) - uniform[None], jnp.zeros_like(found.log_apart)

    return uniform, *jax.lax.cond(small, gentle, plain)
