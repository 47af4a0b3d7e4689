"""Scalar losses of a model: functions of its effective weights, without decay."""

from typing import Any, Literal

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

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
        self.inputs, self.targets = _data(inputs, "inputs"), _data(targets, "targets")
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


class MarginLoss(eqx.Module):
    r"""Mean of ℓ(y f(x)) over examples with labels y = ±1: a function of the margins alone.

    `loss`: "exponential", ℓ(q) = e^{−q}, or "logistic", ℓ(q) = log(1 + e^{−q}). Neither has a
    minimum where the data can be separated: weights then grow for ever, and a run needs an end.

    **Arguments:** `inputs`: (examples, …), each for one call of the model, which returns a
    number; `labels`: (examples,) of +1 and −1.
    **Raises:** ValueError when the numbers of examples differ, data are not finite, labels are
    others, the loss is unknown, or (at the first call) the model does not return a number.

    ```python
    objective = gflow.objectives.MarginLoss(X, y, loss="logistic")
    objective(gflow.models.LastTokenTransformer(kq, value, inner, readout))
    ```
    """

    inputs: Float[Array, "examples ..."]
    labels: Float[Array, " examples"]
    loss: str = eqx.field(static=True)

    def __init__(
        self,
        inputs: ArrayLike,
        labels: ArrayLike,
        loss: Literal["exponential", "logistic"] = "exponential",
    ):
        self.inputs, self.labels = _data(inputs, "inputs"), _data(labels, "labels")
        if loss not in ("exponential", "logistic"):
            raise ValueError(f'loss = {loss!r}: choose "exponential" or "logistic".')
        self.loss = loss
        if self.labels.shape != self.inputs.shape[:1]:
            raise ValueError(
                f"inputs have shape {self.inputs.shape} and labels {self.labels.shape}: labels "
                "are one number for each example of the leading axis."
            )
        others = np.asarray(self.labels)[np.abs(np.asarray(self.labels)) != 1]
        if others.size:
            raise ValueError(f"labels contain {others[0]:g}: they are +1 or −1.")

    def __call__(self, model: Any) -> Float[Array, ""]:
        outputs = jax.vmap(lambda x: model(x))(self.inputs)
        if outputs.shape != self.labels.shape:
            raise ValueError(
                f"The model returns shape {outputs.shape[1:]} for one example; a margin y f(x) "
                "needs a number."
            )
        margins = self.labels * outputs
        if self.loss == "exponential":
            return jnp.mean(jnp.exp(-margins))
        return jnp.mean(jnp.logaddexp(jnp.zeros_like(margins), -margins))


def _data(x: ArrayLike, name: str) -> Array:
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        x = x.astype(jnp.result_type(float))
    if x.ndim == 0 or x.shape[0] == 0:
        raise ValueError(f"{name} has shape {x.shape}: the leading axis must count examples.")
    if not isinstance(x, jax.core.Tracer) and not np.all(np.isfinite(np.asarray(x))):
        raise ValueError(f"{name} contains NaN or infinite entries.")
    return x
