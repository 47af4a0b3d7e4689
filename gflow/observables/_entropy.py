"""How many tokens a head attends to: the entropy of its attention on given examples."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PyTree

from ..models import LinearAttention, MultiHeadAttention
from ..models._attention import check_width, visible
from ..parameters._base import leaf_name
from ._products import Attention, attention_at, is_attention, key_query


def attention_entropy(path: str, inputs: ArrayLike) -> Callable[[PyTree], Float[Array, " heads"]]:
    r"""−Σ_j p_ij ln p_ij of every head of the attention at `path`, in nats: (heads,).

    Mean over queries i and examples, on what the model itself feeds to that layer: it is run on
    `inputs`, (examples, …) as those of an objective. ln n where attention over n tokens is
    uniform, the mean of ln 1, …, ln n where it is causal and uniform, 0 where all is on one token.
    Of an attention by itself `path` is "" and `inputs` are (examples, tokens, d).

    **Raises** (when it is applied): ValueError where the model has no attention at `path`, has one
    without softmax there, or does not call it.

    ```python
    watched = {"entropy": observables.attention_entropy("layers.0.attention", objective.inputs)}
    ```
    """
    examples = jnp.asarray(inputs)
    if examples.ndim == 0 or len(examples) == 0:
        raise ValueError(
            f"inputs have the shape {examples.shape}: give examples along the first axis."
        )

    def read(model: PyTree) -> Float[Array, " heads"]:
        return jnp.mean(jax.vmap(lambda x: _of_example(model, path, x))(examples), axis=0)

    return read


def _of_example(model: Any, path: str, example: Array) -> Float[Array, " heads"]:
    """The entropy at that layer while `model` runs on one example."""
    attention = attention_at(model, path)
    if isinstance(attention, LinearAttention):
        raise ValueError(f"{path!r} is a LinearAttention, whose weights are no probabilities.")
    seen = []

    def listening(x):
        seen.append(_entropy(attention, x))
        return attention(x)

    def replaced(at, node):
        return listening if is_attention(node) and leaf_name(at) == path else node

    jax.tree_util.tree_map_with_path(replaced, model, is_leaf=is_attention)(example)
    if not seen:
        raise ValueError(f"The model does not call its attention at {path!r}.")
    return jnp.mean(jnp.stack(seen), axis=0)


def _entropy(attention: Attention, x: Float[Array, "tokens d"]) -> Float[Array, " heads"]:
    kq = key_query("")(attention)
    check_width(x, kq.shape[-1], attention)
    logits = _scale(attention) * (x @ kq @ x.T)
    log_p = jax.nn.log_softmax(visible(logits, attention.causal, -math.inf), axis=-1)
    terms = jnp.exp(log_p) * jnp.where(log_p > -math.inf, log_p, 0.0)  # 0 ln 0 = 0
    return -jnp.mean(jnp.sum(terms, axis=-1), axis=-1)


def _scale(attention: Attention) -> float:
    if isinstance(attention, MultiHeadAttention):
        return 1.0 / math.sqrt(attention.query.shape[-2])
    return attention.scale
