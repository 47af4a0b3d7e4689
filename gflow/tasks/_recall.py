"""Associative recall: pairs of a key and a value, then one of the keys again."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from ..objectives._cross_entropy import SILENT, CrossEntropy
from ._task import check_count


class Recall(eqx.Module):
    """Sequences k₁ v₁ … k_n v_n q and the value that belongs to q, asked for at the end."""

    inputs: Int[Array, "examples length"]
    targets: Int[Array, "examples length"]
    vocabulary: int = eqx.field(static=True)

    @property
    def length(self) -> int:
        return self.inputs.shape[1]

    @property
    def objective(self) -> CrossEntropy:
        """Nats a value asked for."""
        return CrossEntropy(self.inputs, self.targets, "token_mean")


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
