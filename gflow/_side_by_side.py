"""One function of many things, of those that are alike in one batch."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree


def side_by_side(
    function: Callable[..., PyTree], items: Sequence[PyTree], *rows: Sequence[PyTree]
) -> list[PyTree]:
    """`function(item, *row)` of every item, of those that are alike in one batch.

    Alike are items of one structure and of the same shapes, with rows that are so: heads of a
    layer, layers of a network. One after the other they would make as many times the program.
    """
    alike: dict[Any, list[int]] = {}
    whole = list(zip(items, *rows, strict=True))
    for i, own in enumerate(whole):
        leaves, kind = jax.tree.flatten(own)
        shapes = tuple((jnp.shape(x), jnp.result_type(x)) for x in leaves)
        alike.setdefault((kind, shapes), []).append(i)
    out: list[Any] = [None] * len(whole)
    for group in alike.values():
        if len(group) == 1:
            out[group[0]] = function(*whole[group[0]])
            continue
        together = jax.tree.map(lambda *x: jnp.stack(x), *(whole[i] for i in group))
        found = jax.vmap(function)(*together)
        for k, i in enumerate(group):
            out[i] = jax.tree.map(lambda x, k=k: x[k], found)
    return out
