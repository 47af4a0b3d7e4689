"""Squared error of predictions."""

from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from ._data import floats

Reduction = Literal["half_mean", "half_sum", "mean", "sum"]


class SquaredLoss(eqx.Module):
    """Squared error of `model(input)` against targets.

    The squares are summed over the entries of one example, then averaged ("mean") or
    summed ("sum") over the leading axis; "half_" halves the result. "half_mean" divides
    the clock by the number of examples with respect to "half_sum".

    **Arguments:** `inputs`: (examples, …); `targets`: (examples, …).
    **Raises:** ValueError when the numbers of examples differ, data are not finite, the
    reduction is unknown, or (at the first call) prediction and target differ in shape.

    ```python
    objective = gflow.objectives.SquaredLoss(X, y, reduction="half_sum")
    objective(gflow.models.DiagonalLinear(weight))
    ```
    """

    inputs: Float[Array, "examples ..."]
    targets: Float[Array, "examples ..."]
    reduction: str = eqx.field(static=True)

    def __init__(self, inputs: ArrayLike, targets: ArrayLike, reduction: Reduction = "half_mean"):
        self.inputs, self.targets = floats(inputs, "inputs"), floats(targets, "targets")
        if reduction not in ("half_mean", "half_sum", "mean", "sum"):
            raise ValueError(
                f'reduction = {reduction!r}: choose "half_mean", "half_sum", "mean" or "sum".'
            )
        self.reduction = reduction
        if self.inputs.shape[:1] != self.targets.shape[:1]:
            raise ValueError(
                f"inputs have shape {self.inputs.shape} and targets {self.targets.shape}: the "
                "leading axis counts examples and must agree."
            )

    def __call__(self, model: Any) -> Float[Array, ""]:
        predictions = jax.vmap(lambda x: model(x))(self.inputs)  # a module itself is slow to name
        if predictions.shape != self.targets.shape:
            raise ValueError(
                f"The model predicts shape {predictions.shape} where the targets have "
                f"{self.targets.shape} (leading axis: examples). Reshape the targets; "
                "broadcasting one against the other would change the loss."
            )
        squares = jnp.sum((predictions - self.targets) ** 2)
        factor = 0.5 if self.reduction.startswith("half") else 1.0
        count = self.targets.shape[0] if self.reduction.endswith("mean") else 1
        return factor / count * squares
