"""One layer of attention whose outputs of all queries are added: one number a sequence."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from ..parameters._base import Frozen, Weight
from ..parameters._scaled import Scaled


class PooledTransformer(eqx.Module):
    r"""One softmax head and a linear hidden layer with fixed signs, summed over all queries.

        F(X) = Σ_l Σ_j a_j w_jᵀ W_V Xᵀ softmax(X W_Kᵀ W_Q x_l/√m)

    with tokens x_l as rows of X. `key` W_K, `query` W_Q and `value` W_V are (m, d), `inner` W is
    (m₁, m) with a row w_j for each unit, any parameters; `signs` a, (m₁,), is not trained. F
    depends on W_KᵀW_Q, on W W_V and on u = Σ a_j w_j alone.

    Yang, Kailkhura, Wang, Liang 2024 (2410.09605); data: `gflow.tasks.word_cooccurrence`,
    identities: `theory.cross_entropy.balance_identity`.

    **Raises:** ValueError for shapes that do not chain, and signs other than ±1.

    ```python
    model = gflow.models.PooledTransformer.small(64, 128, 256, log_epsilon=0.0, key=key)
    model(X), model.readout(X)                # X: (tokens, 64) -> a number, one a token
    ```
    """

    key: Weight
    query: Weight
    value: Weight
    inner: Weight
    signs: Frozen

    def __init__(
        self, key: Weight, query: Weight, value: Weight, inner: Weight, signs: ArrayLike | Frozen
    ):
        shapes = [w.value.shape for w in (key, query, value, inner)]
        fixed = signs if isinstance(signs, Frozen) else Frozen(signs)
        m, d = shapes[2] if len(shapes[2]) == 2 else (0, 0)
        units = fixed.value.shape[0] if fixed.value.ndim == 1 else 0
        if shapes != [(m, d), (m, d), (m, d), (units, m)]:
            raise ValueError(
                "PooledTransformer needs key, query and value (m, d), inner (m₁, m) and signs "
                f"(m₁,); they are {', '.join(map(str, [*shapes, fixed.value.shape]))}."
            )
        if not bool(jnp.all(jnp.abs(fixed.value) == 1)):
            raise ValueError(f"signs are +1 and −1; they are {fixed.value}.")
        self.key, self.query, self.value, self.inner, self.signs = key, query, value, inner, fixed

    @classmethod
    def small(
        cls, d: int, m: int, units: int, *, log_epsilon: float, key: PRNGKeyArray
    ) -> "PooledTransformer":
        """Every weight uniform in ±ε/√(inputs of its layer), log_epsilon = log ε; signs at random.

        ε = 1 is the default start of PyTorch's linear layers. The arrays of size O(1) depend on
        `key` alone: runs at several ε are one problem.
        """
        *keys, for_signs = jax.random.split(key, 5)
        shapes = (m, d), (m, d), (m, d), (units, m)
        dtype = jnp.result_type(float)
        leaves = [
            Scaled(
                jax.random.uniform(k, shape, dtype, -1.0, 1.0) / math.sqrt(shape[1]), log_epsilon
            )
            for k, shape in zip(keys, shapes, strict=True)
        ]
        return cls(*leaves, jax.random.rademacher(for_signs, (units,), dtype))

    def readout(self, x: Float[Array, "*tokens d"]) -> Float[Array, "*tokens"]:
        """G(μ) = Σ_j a_j w_jᵀ W_V μ of every token μ, which it adds to F for attention of one."""
        return x @ ((self.signs.value @ self.inner.value) @ self.value.value)

    def scores(self, x: Float[Array, "tokens d"]) -> Float[Array, "tokens tokens"]:
        """x_iᵀ W_Kᵀ W_Q x_j of every two tokens, key first."""
        return (x @ self.key.value.T) @ (x @ self.query.value.T).T

    def __call__(self, x: Float[Array, "tokens d"]) -> Float[Array, ""]:
        scale = self.key.value.shape[0] ** -0.5
        attention = jax.nn.softmax(scale * self.scores(x), axis=0)
        return jnp.sum(attention, axis=1) @ self.readout(x)
