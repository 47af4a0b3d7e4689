"""One layer of attention read at its last token: one number a sequence."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ..parameters._base import Weight
from ..parameters._factored import Factored
from ..parameters._scaled import Scaled


class LastTokenTransformer(eqx.Module):
    r"""One softmax head and one hidden layer, read at the last token, without residual.

        f(X) = σ(softmax(x_s KQ Xᵀ/√d) X V W) r,   x_s the last of the tokens (rows) X

    `kq` = KQ (d, d), best `gflow.Factored` with left = W_Q and right = W_K, so that these keep
    their digits on any plateau; `value` V (d, d), `inner` W (d, h), `readout` r (h,): any
    parameters, best `gflow.Scaled` where they start small. `activation` σ acts between `inner`
    and `readout`. The other tokens' outputs are not computed, so that a causal mask would
    change nothing.

    At zero three factors meet, V, W and r: the origin is a saddle of order three, which a start
    of size ε leaves after a time 1/ε (`gflow.escape`).

    **Raises:** ValueError for shapes that do not chain.

    ```python
    model = gflow.models.LastTokenTransformer.small(16, 16, log_epsilon=-230.26, key=key)
    model(X)                                  # X: (tokens, 16) -> a number
    ```
    """

    kq: Weight
    value: Weight
    inner: Weight
    readout: Weight
    activation: Callable[[Array], Array] = eqx.field(static=True)

    def __init__(
        self,
        kq: Weight,
        value: Weight,
        inner: Weight,
        readout: Weight,
        activation: Callable[[Array], Array] = jnp.tanh,
    ):
        shapes = [w.value.shape for w in (kq, value, inner, readout)]
        d, h = shapes[1][-1] if shapes[1] else 0, shapes[2][-1] if shapes[2] else 0
        if shapes != [(d, d), (d, d), (d, h), (h,)]:
            raise ValueError(
                "LastTokenTransformer needs kq (d, d), value (d, d), inner (d, h) and readout "
                f"(h,); they are {', '.join(map(str, shapes))}."
            )
        self.kq, self.value, self.inner, self.readout = kq, value, inner, readout
        self.activation = activation

    @classmethod
    def small(
        cls,
        d: int,
        h: int,
        *,
        log_epsilon: float,
        key: PRNGKeyArray,
        activation: Callable[[Array], Array] = jnp.tanh,
    ) -> "LastTokenTransformer":
        """Every entry of W_Q, W_K, V, W, r drawn from N(0, ε²), log_epsilon = log ε.

        The arrays of size O(1) depend on `key` alone: runs at several ε are one problem.
        """
        shapes = (d, d), (d, d), (d, d), (d, h), (h,)
        keys = jax.random.split(key, len(shapes))
        query, seen, *rest = (
            jax.random.normal(k, shape) for k, shape in zip(keys, shapes, strict=True)
        )
        outer = [Scaled(x, log_epsilon) for x in rest]
        return cls(Factored(query, seen, log_epsilon), *outer, activation)

    def __call__(self, x: Float[Array, "tokens d"]) -> Float[Array, ""]:
        scale = x.shape[-1] ** -0.5
        logits = x @ (scale * (x[-1] @ self.kq.value))
        mixed = jax.nn.softmax(logits) @ x
        return self.activation(mixed @ self.value.value @ self.inner.value) @ self.readout.value
