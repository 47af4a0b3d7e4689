"""A frozen matrix and a trained change of it."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from ..parameters._base import Frozen, Parameter


class Adapted(eqx.Module):
    r"""W + ΔW with W frozen and ΔW trained: an adapter (LoRA when it is a `gflow.Factored`).

    It goes wherever a model reads `.value`; the trained leaf is called `….change`.

    **Raises:** ValueError when the two shapes differ.

    ```python
    kq = Adapted(pretrained, gflow.Factored(a, b, log_scale=-230.0))
    gflow.models.SoftmaxAttention(kq, vo)
    ```
    """

    frozen: Frozen
    change: Parameter

    def __init__(self, frozen: ArrayLike | Frozen, change: Parameter):
        self.frozen = frozen if isinstance(frozen, Frozen) else Frozen(jnp.asarray(frozen))
        self.change = change
        if self.frozen.value.shape != change.value.shape:
            raise ValueError(
                f"Adapted adds a change of shape {change.value.shape} to a frozen weight of shape "
                f"{self.frozen.value.shape}; the two must agree."
            )

    @property
    def value(self) -> Float[Array, "..."]:
        return self.frozen.value + self.change.value
