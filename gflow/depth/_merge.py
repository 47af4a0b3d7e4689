"""Tokens replaced by their mean."""

from collections.abc import Iterable

import equinox as eqx
import jax
import jax.numpy as jnp

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
        member = jax.nn.one_hot(jnp.array(self.groups), max(self.groups) + 1, axis=0,
                                dtype=tokens.counts.dtype)  # fmt: skip
        counts = member @ tokens.counts
        apart = (member @ (tokens.counts[:, None] * tokens.deviation)) / counts[:, None]
        kept = counts if self.counted else jnp.ones_like(counts)
        return Tokens.joined(
            (tokens.mean, tokens.log_mean), (apart, tokens.log_size), kept, tokens.rounding
        )
