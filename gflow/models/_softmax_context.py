"""Softmax attention on prompts of regression: a number, or a matrix, for key and query a head."""

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from ..parameters._base import Weight
from ..parameters._scaled import Scaled


class SoftmaxContextHeads(eqx.Module):
    r"""Softmax attention from the query to the pairs in context: ŷ = Σ_h μ_h Σ_n p_hn y_n.

        p_h = softmax_n(x_nᵀ W_h x_q),   W_h = ω_h I or a matrix

    On a prompt of tokens (rows) (x_1, y_1) … (x_N, y_N), (x_q, ·); the query is not among the
    keys, and there is no 1/N beside the softmax. `value` μ: (H,); `key_query`: ω (H,), or
    W (H, D, D), whose left index belongs to the key token; any parameters.

    While ω is small, ŷ ≈ (Σμ) ȳ + (β − ȳ x̄)ᵀM x_q with M = Σ μ_h W_h, averages over the context:
    linear attention on centred pairs and the mean label, which only heads with Σμ = 0 are free of.

    **Raises:** ValueError for other shapes and, at the first call, a prompt that does not fit.

    He, Pan, Chen, Yang 2025 (2503.12734); loss over all prompts of ω:
    `gflow.objectives.SoftmaxContextRegression`, theory: `theory.linear_icl.softmax_optimum`.

    ```python
    model = gflow.models.SoftmaxContextHeads.small(2, log_epsilon=-7.0, pairs=True)
    task = gflow.tasks.in_context_regression(np.ones(5), 40, prompts=1000, key=key)
    gflow.simulate(model, task.objective, t1=50.0)
    ```
    """

    value: Weight
    key_query: Weight

    def __init__(self, value: Weight, key_query: Weight):
        mu, w = value.value.shape, key_query.value.shape
        square = len(w) == 1 or (len(w) == 3 and w[1] == w[2])
        if len(mu) != 1 or not square or w[0] != mu[0]:
            raise ValueError(
                f"SoftmaxContextHeads needs value (H,), and key_query (H,) or (H, D, D); they are "
                f"{mu} and {w}."
            )
        self.value, self.key_query = value, key_query

    @classmethod
    def small(
        cls, heads: int, *, log_epsilon: ArrayLike, key: PRNGKeyArray | None = None,
        pairs: bool = False,
    ) -> "SoftmaxContextHeads":  # fmt: skip
        """μ and ω of size ε, log_epsilon = log ε, as `Scaled` leaves.

        Drawn from N(0, ε²) by `key`; with `pairs` (which needs none) μ = ω = ε(1, −1, 1, −1, …).
        """
        if pairs and heads % 2:
            raise ValueError(f"heads = {heads}: ± pairs are an even number of heads.")
        if pairs:
            signs = np.tile([1.0, -1.0], heads // 2)
            return cls(Scaled(signs, log_epsilon), Scaled(signs, log_epsilon))
        if key is None:
            raise ValueError("Give key=jax.random.key(…) to draw μ and ω, or pairs=True.")
        drawn = (jax.random.normal(k, (heads,)) for k in jax.random.split(key))
        return cls(*(Scaled(x, log_epsilon) for x in drawn))

    def __call__(self, prompt: Float[Array, "tokens columns"]) -> Float[Array, ""]:
        w = self.key_query.value
        if prompt.ndim != 2 or len(prompt) < 2 or prompt.shape[1] < 2:
            raise ValueError(
                f"A prompt of shape {prompt.shape}: tokens are rows (x, y), N ≥ 1 pairs and then "
                "the query, whose y is not read."
            )
        x, y, query = prompt[:-1, :-1], prompt[:-1, -1], prompt[-1, :-1]
        if w.ndim == 3 and w.shape[1] != len(query):
            raise ValueError(
                f"A prompt of shape {prompt.shape} has inputs of {len(query)} numbers, and the "
                f"matrices of key_query, {w.shape}, take {w.shape[1]}."
            )
        logits = w[:, None] * (x @ query)[None] if w.ndim == 1 else (w @ query) @ x.T
        return self.value.value @ (jax.nn.softmax(logits, axis=-1) @ y)
