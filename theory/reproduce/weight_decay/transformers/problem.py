"""Stacks of transformers, a member a decay, and what trains them.

A stack holds one start under many decays. The loss is the sum over its members, and Adam acts
entry by entry, so that each is trained as if it were alone, in one compiled call.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree

import gflow
from gflow import models, tasks
from gflow.objectives import CrossEntropy

RATE = 3e-3
LENGTH, BATCH = 64, 16
#: λ by the name of the part that decays, one a member.
Rates = dict[str, np.ndarray]


class Members(eqx.Module):
    """The loss of a stack of independent models, summed."""

    inputs: Int[Array, "examples length"]
    targets: Int[Array, "examples length"]

    def __call__(self, stacked: models.Transformer) -> Float[Array, ""]:
        loss = CrossEntropy(self.inputs, self.targets, "token_mean")
        return jnp.sum(eqx.filter_vmap(loss)(stacked))


def stack(
    count: int, seed: int, vocabulary: int, length: int, *, d: int = 32, heads: int = 2,
    head_width: int = 16, hidden: int = 64, layers: int = 2,
) -> models.Transformer:  # fmt: skip
    """`count` copies of one random start, in float32."""
    model = models.Transformer(
        vocabulary, length, d=d, heads=heads, head_width=head_width, hidden=hidden, layers=layers,
        key=jax.random.key(seed),
    )  # fmt: skip
    return jax.tree.map(lambda x: jnp.broadcast_to(x.astype("float32"), (count, *x.shape)), model)


def pairs(model: models.Transformer, name: str) -> list[tuple[Array, Array]]:
    """Factors of a product of all heads, layer by layer."""
    attentions = (layer.attention for layer in model.layers)
    return [x.pairs[name] for x in attentions if isinstance(x, models.MultiHeadAttention)]


def adam(coupled: Rates, decoupled: Rates) -> optax.GradientTransformation:
    """Adam with λ·w in its gradient (`coupled`, L2), and AdamW (`decoupled`)."""
    return optax.chain(
        _decay(coupled), optax.scale_by_adam(0.9, 0.95), _decay(decoupled), optax.scale(-RATE)
    )


def _decay(rates: Rates) -> optax.GradientTransformation:
    def update(updates: PyTree, params: PyTree) -> PyTree:
        def leaf(path, change, weight):
            for part, rate in rates.items():
                if part in jax.tree_util.keystr(path):
                    column = jnp.asarray(rate, weight.dtype).reshape(-1, *(1,) * (weight.ndim - 1))
                    change = change + column * weight
            return change

        return jax.tree_util.tree_map_with_path(leaf, updates, params)

    return optax.stateless(update)


def trained_on_text(
    start: models.Transformer,
    rule: optax.GradientTransformation,
    source: tasks.Text,
    seed: int,
    steps: int,
) -> tuple[models.Transformer, np.ndarray]:
    """Train on fresh random windows of the text in every step; the held-out loss of each member."""
    held_out = source.windows(LENGTH, count=256, key=jax.random.key(99), held_out=True)
    keys = jax.random.split(jax.random.key(seed), steps)

    def sampler(objective, key, step):
        batch = source.windows(LENGTH, count=BATCH, key=keys[step])
        return Members(batch.inputs, batch.labels)

    end = gflow.descend(
        start,
        Members(held_out.inputs, held_out.labels),
        optimizer=rule,
        steps=steps,
        batch=sampler,
        key=jax.random.key(seed),
        save_every=steps,
        allow_float32=True,
    ).final
    return end, np.asarray(eqx.filter_jit(eqx.filter_vmap(held_out))(end), float)
