"""Binary labels that attention of the last token tells apart and the mean token does not."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ..objectives._margin import MarginLoss
from ._task import check_count, floats


class AttentionLabels(eqx.Module):
    """Token sequences, labels ±1, and the teacher whose thresholded output they are.

    `scores`: the teacher's output less its median; `labels` is their sign.
    """

    inputs: Float[Array, "n s d"]
    labels: Float[Array, " n"]
    scores: Float[Array, " n"]
    key_query: Float[Array, "d d"]
    readout: Float[Array, " d"]

    @property
    def objective(self) -> MarginLoss:
        """(1/n) Σ_i exp(−y_i f(X_i)); `MarginLoss` has the logistic loss as well."""
        return MarginLoss(self.inputs, self.labels)

    @property
    def strength(self) -> Float[Array, ""]:
        """‖(1/n) Σ y_i x̄_i‖, the force on the outer weights at zero; x̄_i is the mean token."""
        means = jnp.mean(self.inputs, axis=1)
        return jnp.linalg.norm(jnp.sum(self.labels[:, None] * means, axis=0)) / means.shape[0]


def attention_labels(
    n: int,
    s: int,
    d: int,
    *,
    key: PRNGKeyArray,
    sharpness: float = 1.0,
    pooled: float = 0.5,
    same_last_token: bool = False,
) -> AttentionLabels:
    r"""Gaussian tokens, labelled by what a teacher's last token reads beyond the mean token.

        h_i = (softmax(X_{i,s} A X_iᵀ) X_i − x̄_i) r,   x̄_i = (1/s) Σ_j X_{i,j}
        y_i = sign(ĥ_i + pooled · x̄_i r'/‖·‖ − median)

    with random A (logits of standard deviation `sharpness`), r and r', where ĥ and x̄r' have mean
    0 and standard deviation 1 over the examples. Half of the labels are +1.

    - For a student that starts at uniform attention only x̄_i is visible. It does not determine
      y_i: with n ≫ 2d the pooled tokens are not linearly separable by y, so that the outer
      weights come to rest before W_Q and W_K move. `pooled` = 0 leaves little force at the start,
      Σ y_i x̄_i; as it grows the x̄_i become separable.
    - `same_last_token`: all sequences end in one token, like a query or CLS token. Then the
      gradient with respect to W_QW_Kᵀ at uniform attention has rank one.

    **Arguments:** `n` examples of `s` tokens in `d` dimensions. **Returns:** an
    `AttentionLabels` with `inputs` (n, s, d), tokens as rows, and `labels` (n,).
    **Raises:** ValueError for n < 2, s < 2 (a softmax over one token is 1), d < 1, and numbers
    that are negative or not finite.
    **Source:** data for 2510.06954 (Chen, Luo 2025), which draws none; the conditions on x̄_i
    are derived.

    ```python
    task = gflow.tasks.attention_labels(256, 6, 8, key=jax.random.key(0))
    model = gflow.models.LastTokenTransformer.small(8, 8, log_epsilon=-9.0, key=jax.random.key(1))
    task.objective(model)
    ```
    """
    check_count("n", n, 2)
    check_count("s", s, 2)
    check_count("d", d, 1)
    for name, value in (("sharpness", sharpness), ("pooled", pooled)):
        if not (math.isfinite(value) and value >= 0.0):
            raise ValueError(f"{name} = {value}: give a finite number, 0 or more.")
    if sharpness == 0.0:
        raise ValueError(
            "sharpness = 0: the teacher attends to all tokens alike and reads nothing beyond their "
            "mean. Give a positive number."
        )
    for_tokens, for_query, for_teacher, for_readout = jax.random.split(key, 4)
    inputs = floats(jax.random.normal(for_tokens, (n, s, d)))
    if same_last_token:
        query = jax.random.normal(for_query, (d,), inputs.dtype)
        inputs = inputs.at[:, -1].set(jnp.broadcast_to(query, (n, d)))
    matrix = sharpness / d * jax.random.normal(for_teacher, (d, d), inputs.dtype)
    readout, of_means = jax.random.normal(for_readout, (2, d), inputs.dtype)
    means = jnp.mean(inputs, axis=1)
    logits = jnp.einsum("nd,de,nte->nt", inputs[:, -1], matrix, inputs)
    attended = jnp.einsum("nt,ntd->nd", jax.nn.softmax(logits, axis=-1), inputs)
    scores = _standard((attended - means) @ readout) + pooled * _standard(means @ of_means)
    scores = scores - jnp.median(scores)
    labels = jnp.where(scores >= 0.0, 1.0, -1.0).astype(inputs.dtype)
    return AttentionLabels(inputs, labels, scores, matrix, readout)


def _standard(x: Float[Array, " n"]) -> Float[Array, " n"]:
    return (x - jnp.mean(x)) / jnp.std(x)
