"""Tokens replaced by their mean."""

from collections.abc import Iterable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from .._arguments import count
from ._blocks import Block
from ._tokens import Tokens


def _numbered(groups: Iterable[int]) -> tuple[int, ...]:
    return tuple(int(g) for g in groups)


class Merge(Block):
    r"""Tokens of one group become their mean; groups are numbered 0, 1, …, one number a token.

    The merged token counts for all of its members: in means over tokens, and in attention by
    + ln m on its logit. `counted=False` forgets the numbers, and every token counts once.

    **Raises:** ValueError for numbers that leave one out, and another number of tokens.

    ```python
    depth.Merge([0, 0, 1, 2])                      # the first two of four
    ```
    """

    groups: tuple[int, ...] = eqx.field(static=True, converter=_numbered)
    counted: bool = eqx.field(static=True, default=True)

    def __check_init__(self):
        if sorted(set(self.groups)) != list(range(len(set(self.groups)))):
            raise ValueError(f"groups = {self.groups}: numbers 0, 1, …, each for some token.")

    def __call__(self, tokens: Tokens) -> Tokens:
        if tokens.counts.shape[0] != len(self.groups):
            raise ValueError(
                f"Merge has a group for each of {len(self.groups)} tokens and is given "
                f"{tokens.counts.shape[0]}."
            )
        return _merged(tokens, jnp.array(self.groups), max(self.groups) + 1, self.counted)


class MergeSimilar(Block):
    r"""The `pairs` most similar pairs become their means: fewer tokens, which ones each input says.

    Every token of even place is paired with that of odd place with which its cosine is largest,
    and the pairs of the largest cosines are merged (bipartite matching, Bolya et al. 2023,
    2210.09461, there of the keys); several may go into one. Left are the other even places, then
    the odd ones. `counted` as in `Merge`.

    **Raises:** ValueError for less than one pair, and more than half of the tokens.

    ```python
    depth.Chain((depth.MergeSimilar(2), *depth.layers_of(vit)))
    ```
    """

    pairs: int = eqx.field(static=True)
    counted: bool = eqx.field(static=True, default=True)

    def __check_init__(self):
        count("pairs", self.pairs, "how many pairs are merged")

    def __call__(self, tokens: Tokens) -> Tokens:
        n = tokens.counts.shape[0]
        if 2 * self.pairs > n:
            raise ValueError(
                f"MergeSimilar takes {self.pairs} pairs of {n} tokens: at most half of the tokens "
                "can go."
            )
        x = tokens.value
        x = x / jnp.maximum(jnp.linalg.norm(x, axis=1, keepdims=True), jnp.finfo(x.dtype).tiny)
        cosines = x[::2] @ x[1::2].T
        order = jnp.argsort(-jnp.max(cosines, axis=1))
        gone, kept = order[: self.pairs], order[self.pairs :]
        places = len(kept) + jnp.arange(n // 2)
        even = jnp.zeros(len(order), places.dtype)
        even = even.at[kept].set(jnp.arange(len(kept)))
        even = even.at[gone].set(places[jnp.argmax(cosines, axis=1)[gone]])
        groups = jnp.zeros(n, places.dtype).at[::2].set(even).at[1::2].set(places)
        return _merged(tokens, groups, n - self.pairs, self.counted)


def _merged(tokens: Tokens, groups: Int[Array, " n"], number: int, counted: bool) -> Tokens:
    member = jax.nn.one_hot(groups, number, axis=0, dtype=tokens.counts.dtype)
    counts = member @ tokens.counts
    apart = (member @ (tokens.counts[:, None] * tokens.deviation)) / counts[:, None]
    kept = counts if counted else jnp.ones_like(counts)
    return Tokens.joined(
        (tokens.mean, tokens.log_mean), (apart, tokens.log_size), kept, tokens.rounding
    )
