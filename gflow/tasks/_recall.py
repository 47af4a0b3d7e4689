"""Associative recall: pairs of a key and a value, then one of the keys again."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ._task import check_count

#: A target that is not asked for.
SILENT = -1


class TokenLoss(eqx.Module):
    """Mean cross-entropy (nats) of the tokens asked for; targets of −1 are not.

    `model` maps tokens (length,) to logits (length, vocabulary). Every example asks for the
    same number of tokens, so that the mean over examples is the mean over tokens.
    """

    inputs: Int[Array, "examples length"]
    targets: Int[Array, "examples length"]

    def __call__(self, model: Any) -> Float[Array, ""]:
        asked, logits = self._logits(model)
        chosen = jnp.take_along_axis(
            jax.nn.log_softmax(logits, axis=-1), jnp.maximum(self.targets, 0)[..., None], axis=-1
        )
        return -jnp.sum(jnp.where(asked, chosen[..., 0], 0.0)) / self._count(asked, logits)

    def accuracy(self, model: Any) -> Float[Array, ""]:
        """Share of the tokens asked for that get the largest logit."""
        asked, logits = self._logits(model)
        right = asked & (jnp.argmax(logits, axis=-1) == self.targets)
        return jnp.sum(right.astype(logits.dtype)) / self._count(asked, logits)

    def _logits(self, model: Any) -> tuple[Bool[Array, "examples length"], Array]:
        return self.targets != SILENT, jax.vmap(model)(self.inputs)

    def _count(self, asked: Bool[Array, "examples length"], logits: Array) -> Array:
        return jnp.sum(asked.astype(logits.dtype))


class Recall(eqx.Module):
    """Sequences k₁ v₁ … k_n v_n q and the value that belongs to q, asked for at the end."""

    inputs: Int[Array, "examples length"]
    targets: Int[Array, "examples length"]
    vocabulary: int = eqx.field(static=True)

    @property
    def length(self) -> int:
        return self.inputs.shape[1]

    @property
    def objective(self) -> TokenLoss:
        return TokenLoss(self.inputs, self.targets)


def associative_recall(
    *,
    key: PRNGKeyArray,
    examples: int = 2048,
    pairs: int = 4,
    keys: int = 8,
    values: int = 8,
) -> Recall:
    """Draw `pairs` distinct keys a sequence, a value for each, and one key to be asked for.

    Tokens 0 … keys − 1 are keys, the next are values. Guessing among the values that were
    shown is right in a share of about 1/pairs; a transformer needs two layers to do better
    (the first moves each key to its value, the second looks the asked key up).

    **Raises:** ValueError for counts below 1, more pairs than keys.

    ```python
    task = gflow.tasks.associative_recall(key=jax.random.key(0))
    model = gflow.models.Transformer(task.vocabulary, task.length, key=jax.random.key(1))
    gflow.descend(model, task.objective, optimizer=optax.adamw(3e-3), steps=2000,
                  batch=64, key=jax.random.key(2))
    ```
    """
    check_count("examples", examples, 1)
    check_count("keys", keys, 1)
    check_count("values", values, 1)
    check_count("pairs", pairs, 1, keys)
    for_keys, for_values, for_query = jax.random.split(key, 3)
    order = jnp.broadcast_to(jnp.arange(keys), (examples, keys))
    shown = jax.random.permutation(for_keys, order, axis=1, independent=True)[:, :pairs]
    stored = keys + jax.random.randint(for_values, (examples, pairs), 0, values)
    asked = jax.random.randint(for_query, (examples, 1), 0, pairs)
    story = jnp.stack([shown, stored], axis=2).reshape(examples, 2 * pairs)
    inputs = jnp.concatenate([story, jnp.take_along_axis(shown, asked, axis=1)], axis=1)
    silent = jnp.full((examples, 2 * pairs), SILENT, inputs.dtype)
    targets = jnp.concatenate([silent, jnp.take_along_axis(stored, asked, axis=1)], axis=1)
    return Recall(inputs, targets, keys + values)
