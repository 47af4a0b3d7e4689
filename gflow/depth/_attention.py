"""Attention of tokens, uniform attention, and attention whose scores are handed on."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ._attend import Scores, attend, causal_weights, scores, weights_apart
from ._blocks import Block, Recurrent
from ._gaussian import gaussian
from ._tokens import ULP, Tokens, bounded_exp, floats


class Attention(Block):
    r"""Σ_h softmax(scale · X query_h key_hᵀ Xᵀ) X value_h.

    **Arguments:** `query`, `key` (d, k) and `value` (d, width), or with a leading axis of heads;
    `scale` 1/√k unless given. `normalised=False`: (1/n)e^{logits} in place of the softmax, the
    unnormalised attention of particles on the sphere. `causal`: a token sees itself and those
    before it; what tells tokens apart then falls by a factor a layer and is not cubed.

    **Raises:** ValueError for shapes that do not fit, and attention both causal and unnormalised.

    ```python
    depth.Attention.random(64, 16, key=key)
    ```
    """

    query: Float[Array, "... d k"]
    key: Float[Array, "... d k"]
    value: Float[Array, "... d width"]
    scale: Float[Array, "..."]
    normalised: bool = eqx.field(static=True)
    causal: bool = eqx.field(static=True)

    def __init__(
        self,
        query: Float[Array | np.ndarray, "... d k"],
        key: Float[Array | np.ndarray, "... e j"],
        value: Float[Array | np.ndarray, "... c width"],
        scale: float | int | Float[Array, ""] | None = None,
        *,
        normalised: bool = True,
        causal: bool = False,
    ):
        query, key, value = (jnp.asarray(x) for x in (query, key, value))
        if query.shape != key.shape or query.ndim < 2 or value.shape[:-1] != query.shape[:-1]:
            raise ValueError(
                f"Attention has a query of shape {query.shape}, a key of {key.shape} and a value "
                f"of {value.shape}: give (d, k), (d, k) and (d, width), all with the same heads "
                "in front or none."
            )
        if causal and not normalised:
            raise ValueError(
                "normalised=False is the mean over all tokens, and causal=True hides some: give "
                "one of the two."
            )
        self.query, self.key, self.value = query, key, value
        self.scale = jnp.asarray(
            1.0 / math.sqrt(query.shape[-1]) if scale is None else scale, float
        )
        self.normalised, self.causal = normalised, causal

    @classmethod
    def random(
        cls,
        d: int,
        key_width: int,
        *,
        key: PRNGKeyArray,
        logit_scale: float | int | Float[Array, ""] = 1.0,
    ) -> "Attention":
        """One head of Gaussian weights of variance 1/d: on tokens of norm √d the logits have
        standard deviation `logit_scale`, values the norm of tokens."""
        q, k, v = jax.random.split(key, 3)
        one = math.sqrt(d)
        return cls(
            logit_scale * gaussian(q, (d, key_width)) / one,
            gaussian(k, (d, key_width)) / one,
            gaussian(v, (d, d)) / one,
        )

    def heads(self) -> list[tuple[Array, Array, Array]]:
        """(query, key, value) of every head."""
        if self.query.ndim == 2:
            return [(self.query, self.key, self.value)]
        return list(zip(self.query, self.key, self.value, strict=True))

    def weights(self, tokens: Tokens) -> Float[Array, "heads n n"]:
        """The attention of every head in plain floats, rows the queries."""
        found = []
        for query, key, _ in self.heads():
            logits = scores(tokens @ query, tokens @ key, self.scale)
            if self.causal:
                found.append(causal_weights(logits, tokens.counts))
                continue
            uniform, apart, log = weights_apart(logits, tokens.counts)
            found.append(uniform[None] + bounded_exp(log) * apart)
        return jnp.stack(found)

    def __call__(self, tokens: Tokens) -> Tokens:
        found = [self._head(tokens, *head) for head in self.heads()]
        total = found[0]
        for each in found[1:]:
            total = total + each
        if len(found) == 1:
            return total
        # an error of the size of R is one factor in all heads, their own rounding is not
        sizes = jnp.stack([each.log_size for each in found])
        shares = jnp.where(sizes > -jnp.inf, jnp.exp(sizes - total.log_size), 0.0)
        known = jnp.max(jnp.stack([each.rounding for each in found])) + ULP * jnp.sum(shares)
        return eqx.tree_at(lambda t: t.rounding, total, known)

    def _head(self, tokens: Tokens, query: Array, key: Array, value: Array) -> Tokens:
        q, k = tokens @ query, tokens @ key
        found = attend(q, k, tokens @ value, scale=self.scale, causal=self.causal)
        return found if self.normalised else found.row_scaled(*_mass(q, k, self.scale))


def _mass(queries: Tokens, keys: Tokens, scale: Array) -> tuple[Array, Array]:
    """Z_i/n, Z_i = Σ_j e^{logit_ij}: what is common to all queries, and the rest."""
    found = scores(queries, keys, scale)
    level = scale * queries.common @ keys.common
    own = scale * queries.apart @ keys.common
    n = jnp.sum(keys.counts)
    common = jnp.exp(level) * (keys.counts @ jnp.exp(found.common)) / n
    uniform = jax.nn.softmax(found.common + jnp.log(keys.counts))
    rest = jnp.expm1(bounded_exp(found.log_apart) * found.apart) @ uniform
    return common, common * (jnp.expm1(own) + jnp.exp(own) * rest)


class Average(Block):
    """Uniform attention, every token the mean times `value`: all tokens are equal after it.

    ```python
    depth.Residual(depth.Average(value), 1 / math.sqrt(layers))
    ```
    """

    value: Float[Array, "... d width"] = eqx.field(converter=floats)

    def __call__(self, tokens: Tokens) -> Tokens:
        zero = jnp.zeros_like(tokens.deviation)
        nothing = jnp.full_like(tokens.log_size, -jnp.inf)
        return tokens.with_parts((tokens.mean, tokens.log_mean), (zero, nothing)) @ self.value

    def weights(self, tokens: Tokens) -> Float[Array, "heads n n"]:
        """1/n."""
        share = tokens.counts / jnp.sum(tokens.counts)
        return jnp.broadcast_to(share[None, None], (1, len(share), len(share)))


class HiddenScores(Recurrent):
    r"""X ← softmax(H)X with scores H handed on: H ← keep · H + fresh · βXXᵀ, from H₀ = βX₀X₀ᵀ.

    `keep=0, fresh=1` is attention with logits βXXᵀ, `keep=1 − a, fresh=a` leaks, `keep=1, fresh=1`
    accumulates.

    ```python
    depth.follow(depth.Repeated(depth.HiddenScores(1.0, keep=0.5, fresh=0.5), 40), jnp.eye(6))
    ```
    """

    beta: float | int | Float[Array, "..."]
    keep: float | int | Float[Array, "..."] = 0.0
    fresh: float | int | Float[Array, "..."] = 1.0

    def memory(self, tokens: Tokens) -> Scores:
        return scores(tokens, tokens, self.beta)

    def __call__(self, tokens: Tokens, memory: Scores) -> tuple[Tokens, Scores]:
        after = attend(memory, tokens, tokens)
        return after, self.keep * memory + self.fresh * scores(after, after, self.beta)
