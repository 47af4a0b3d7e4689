"""Softmax attention whose matrices are plain factors, four a head."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ._attention import check_width, visible
from ._dense import check_sizes, gaussian


class MultiHeadAttention(eqx.Module):
    r"""Softmax attention by query, key, value and output matrices, summed over heads:

        X ↦ Σ_h softmax(X W_QᵀW_K Xᵀ/√d_h) X W_VᵀPᵀ

    Tokens are rows of X. The products W_KᵀW_Q and P W_V have rank at most d_h. `causal`: a token
    sees itself and those before it. Weights are Gaussian with variance 1 over the number of
    their inputs; `SoftmaxAttention` has the products as parameters of any scale.

    **Raises:** ValueError for sizes below 1; at a call, for tokens of another width.

    ```python
    attention = gflow.models.MultiHeadAttention(8, heads=2, head_width=4, key=jax.random.key(0))
    attention(X)                                   # X: (tokens, 8) -> (tokens, 8)
    attention.pairs["kq"]                          # factors of W_KᵀW_Q, (heads, d, d_h) each
    ```
    """

    query: Float[Array, "... heads d_h d"]
    key: Float[Array, "... heads d_h d"]
    value: Float[Array, "... heads d_h d"]
    output: Float[Array, "... heads d d_h"]
    causal: bool = eqx.field(static=True)

    def __init__(
        self, d: int, heads: int, head_width: int, *, causal: bool = False, key: PRNGKeyArray
    ):
        check_sizes(self, d=d, heads=heads, head_width=head_width)
        keys = jax.random.split(key, 4)
        narrow, wide = (heads, head_width, d), (heads, d, head_width)
        self.query, self.key, self.value = (gaussian(k, narrow, d) for k in keys[:3])
        self.output = gaussian(keys[3], wide, heads * head_width)
        self.causal = causal

    @property
    def pairs(self) -> dict[str, tuple[Float[Array, "... d d_h"], Float[Array, "... d d_h"]]]:
        r"""Factors (A, B) of the two products A Bᵀ of every head, W_KᵀW_Q and P W_V."""
        query, key, value = (x.swapaxes(-1, -2) for x in (self.query, self.key, self.value))
        return {"kq": (key, query), "vo": (self.output, value)}

    def __call__(self, x: Float[Array, "tokens d"]) -> Float[Array, "tokens d"]:
        check_width(x, self.query.shape[-1], self)
        query, key, value = (
            jnp.einsum("td,hkd->htk", x, w) for w in (self.query, self.key, self.value)
        )
        logits = jnp.einsum("hqk,htk->hqt", query, key) / math.sqrt(self.query.shape[-2])
        weights = jax.nn.softmax(visible(logits, self.causal, -math.inf), axis=-1)
        mixed = jnp.einsum("hqt,htk->hqk", weights, value)
        return jnp.einsum("hqk,hdk->qd", mixed, self.output)
