"""Losses of the margin of binary labels."""

from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from ._data import floats


class MarginLoss(eqx.Module):
    r"""Mean of ℓ(y f(x)) over examples with labels y = ±1: a function of the margins alone.

    `loss`: "exponential", ℓ(q) = e^{−q}, or "logistic", ℓ(q) = log(1 + e^{−q}). Neither has a
    minimum where the data can be separated: weights then grow for ever, and a run without an end
    goes on until their directions rest.

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
        self.inputs, self.labels = floats(inputs, "inputs"), floats(labels, "labels")
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

    def margins(self, model: Any) -> Float[Array, " examples"]:
        """y f(x) of every example."""
        outputs = jax.vmap(lambda x: model(x))(self.inputs)
        if outputs.shape != self.labels.shape:
            raise ValueError(
                f"The model returns shape {outputs.shape[1:]} for one example; a margin y f(x) "
                "needs a number."
            )
        return self.labels * outputs

    def __call__(self, model: Any) -> Float[Array, ""]:
        margins = self.margins(model)
        if self.loss == "exponential":
            return jnp.mean(jnp.exp(-margins))
        return jnp.mean(jnp.logaddexp(jnp.zeros_like(margins), -margins))
