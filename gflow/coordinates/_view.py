"""What an observable sees of a parameter while the flow runs."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree


class View(eqx.Module):
    """A parameter at one state: `value`, and what else its coordinates know of it.

    `factors` are plain arrays whose product is the weight: (u, v) entry by entry, or the matrices
    of a chain W = W₁W₂⋯ (`spectral`). `invariant` is what `conserved()` returns.
    """

    value: Float[Array, "..."]
    known_factors: tuple[Float[Array, "..."], ...] | None = None
    invariant: PyTree = None
    spectral: bool = eqx.field(static=True, default=False)

    @property
    def total(self) -> Float[Array, "..."]:
        """The sum of `value` over its heads, all axes but the last two."""
        return jnp.sum(self.value, axis=tuple(range(self.value.ndim - 2)))

    @property
    def factors(self) -> tuple[Float[Array, "..."], ...]:
        if self.known_factors is None:
            raise ValueError("This weight is no product of factors: it has a `.value` only.")
        return self.known_factors

    def conserved(self) -> PyTree:
        if self.invariant is None:
            raise ValueError("Of this weight it is not known what the flow conserves.")
        return self.invariant

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            "In an observable a parameter has `.value`, `.total`, `.factors` and `.conserved()`, "
            f"not `.{name}`."
        )
