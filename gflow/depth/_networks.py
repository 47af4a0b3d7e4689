"""Many layers: one block again and again, or a fresh one each."""

from collections.abc import Callable

import equinox as eqx
from jaxtyping import PRNGKeyArray

from .._arguments import count
from ._blocks import Block, Recurrent


class Repeated(eqx.Module):
    """The same block in every layer.

    **Raises:** ValueError for less than one layer.

    ```python
    depth.follow(depth.Repeated(attention, 1000), X)
    ```
    """

    block: Block | Recurrent | Callable
    layers: int = eqx.field(static=True)

    def __check_init__(self):
        count("layers", self.layers, "how many layers there are")


class Fresh(eqx.Module):
    """A block of its own in every layer, `make(key)`.

    **Raises:** ValueError for less than one layer.

    ```python
    depth.follow(depth.Fresh(lambda key: depth.Attention.random(64, 64, key=key), 1000), X, key=key)
    ```
    """

    make: Callable[[PRNGKeyArray], Block | Recurrent | Callable]
    layers: int = eqx.field(static=True)

    def __check_init__(self):
        count("layers", self.layers, "how many layers there are")
