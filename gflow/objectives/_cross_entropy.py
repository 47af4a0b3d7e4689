"""Cross-entropy of class labels and of tokens."""

from typing import Any, Literal

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from ._data import examples

Reduction = Literal["mean", "sum", "token_mean", "half_mean", "half_sum"]

#: The label of what is not asked for.
SILENT = -1


class CrossEntropy(eqx.Module):
    r"""−log p(label) in nats, of p = softmax of the logits that `model(input)` returns.

    Of logits z and label y it is

        log Σ_k e^{z_k − z_y} = log(1 + e^m),   m = log Σ_{k≠y} e^{z_k − z_y},

    with the gradient 1/(1 + e^{−m}) times that of m: 1 − p is nowhere the difference of two
    numbers, and a label that is all but certain is known to as many digits as any other.

    Losses are summed over the entries of one example, then averaged ("mean") or summed ("sum")
    over the leading axis, as in `SquaredLoss`; "half_" halves the result. "token_mean" is the sum
    over all labels divided by their number: nats a token.

    **Arguments:**

    - `inputs`: (examples, …), each for one call of the model, which returns logits with the
      classes on the last axis.
    - `labels`: (examples, …) integers from 0, one for each row of logits; −1 where nothing is
      asked for. None: `inputs` are tokens (examples, length), the model reads all but the last
      of them, and the label at every position is the next token.
    - `last`: one label an example, of the last row of logits (or of the only one).

    **Raises:** ValueError for data that are not finite, labels that are no integers, below −1 or
    (at the first call) beyond the classes, and logits whose shape is not that of the labels.

    ```python
    gflow.objectives.CrossEntropy(images, digits)                            # model: x -> (10,)
    gflow.objectives.CrossEntropy(tokens, reduction="token_mean")            # a language model
    ```
    """

    inputs: Array
    labels: Int[Array, "examples ..."]
    reduction: str = eqx.field(static=True)
    last: bool = eqx.field(static=True)
    #: Classes that the labels need, where they were known when the objective was made.
    classes: int = eqx.field(static=True)

    def __init__(
        self,
        inputs: ArrayLike,
        labels: ArrayLike | None = None,
        reduction: Reduction = "mean",
        *,
        last: bool = False,
    ):
        if reduction not in Reduction.__args__:
            names = ", ".join(f'"{name}"' for name in Reduction.__args__)
            raise ValueError(f"reduction = {reduction!r}: choose one of {names}.")
        inputs = examples(inputs, "inputs")
        if labels is None:
            if last:
                raise ValueError("last=True needs labels, one for each example.")
            inputs, labels = _next_tokens(inputs)
        self.inputs, self.labels, self.classes = inputs, *_checked(labels, inputs, last)
        self.reduction, self.last = reduction, last

    def __call__(self, model: Any) -> Float[Array, ""]:
        asked, logits = self._logits(model)
        losses = jnp.where(asked, _losses(logits, jnp.maximum(self.labels, 0)), 0.0)
        factor = 0.5 if self.reduction.startswith("half") else 1.0
        if self.reduction == "token_mean":
            return jnp.sum(losses) / self._count(asked, logits)
        count = self.labels.shape[0] if self.reduction.endswith("mean") else 1
        return factor / count * jnp.sum(losses)

    def margins(self, model: Any) -> Float[Array, "examples ..."]:
        """Logit of every label less the largest of the others; ∞ where nothing is asked for."""
        asked, logits = self._logits(model)
        labels = jnp.maximum(self.labels, 0)[..., None]
        true = jnp.take_along_axis(logits, labels, axis=-1)[..., 0]
        classes = jax.lax.broadcasted_iota(labels.dtype, logits.shape, logits.ndim - 1)
        others = jnp.max(jnp.where(classes == labels, -jnp.inf, logits), axis=-1)
        return jnp.where(asked, true - others, jnp.inf)

    def accuracy(self, model: Any) -> Float[Array, ""]:
        """Share of the labels that get the largest logit."""
        asked, logits = self._logits(model)
        right = asked & (jnp.argmax(logits, axis=-1) == self.labels)
        return jnp.sum(right.astype(logits.dtype)) / self._count(asked, logits)

    def _count(self, asked: Bool[Array, "examples ..."], logits: Array) -> Float[Array, ""]:
        return jnp.maximum(jnp.sum(asked.astype(logits.dtype)), 1.0)

    def _logits(self, model: Any) -> tuple[Bool[Array, "examples ..."], Array]:
        logits = jax.vmap(lambda x: model(x))(self.inputs)
        if self.last and logits.ndim == 3:
            logits = logits[:, -1]
        if logits.ndim < 2 or logits.shape[:-1] != self.labels.shape:
            raise ValueError(
                f"The model returns shape {logits.shape[1:]} for one example, logits with the "
                f"classes on the last axis; the labels of one have shape {self.labels.shape[1:]}. "
                "There is one label for each row of logits (last=True: for the last of them)."
            )
        classes = logits.shape[-1]
        if classes < max(self.classes, 2):
            raise ValueError(
                f"The model returns logits of {classes} classes, and the labels go up to "
                f"{self.classes - 1}: they count from 0, below the number of classes, of which "
                "there are two or more."
            )
        return self.labels != SILENT, logits


def _losses(logits: Float[Array, "... classes"], labels: Int[Array, "..."]) -> Float[Array, "..."]:
    """log(1 + Σ_{k≠y} e^{z_k − z_y}) of every row; NaN for a label beyond the classes."""
    true = jnp.take_along_axis(logits, labels[..., None], axis=-1, mode="fill")
    classes = jax.lax.broadcasted_iota(labels.dtype, logits.shape, logits.ndim - 1)
    others = classes != labels[..., None]
    odds = jax.nn.logsumexp(logits - true, axis=-1, where=others)
    return jnp.logaddexp(odds, jnp.zeros_like(odds))


def _next_tokens(tokens: Array) -> tuple[Array, Array]:
    if tokens.ndim != 2 or tokens.shape[1] < 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise ValueError(
            "Without labels the inputs are tokens, integers of shape (examples, length) with at "
            f"least 2 in a row; they have shape {tokens.shape} and are {tokens.dtype}. Pass "
            "labels, integers from 0."
        )
    return tokens[:, :-1], tokens[:, 1:]


def _checked(labels: ArrayLike, inputs: Array, last: bool) -> tuple[Array, int]:
    """The labels, and how many classes they need (0 where they are not known yet)."""
    labels = jnp.asarray(labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"labels are {labels.dtype}: pass integers, the index of each example's class from 0. "
            "(For labels ±1 there is gflow.objectives.MarginLoss.)"
        )
    if labels.shape[:1] != inputs.shape[:1] or (last and labels.ndim != 1):
        what = "one label an example" if last else "the leading axis counts examples"
        raise ValueError(
            f"inputs have shape {inputs.shape} and labels {labels.shape}: {what} and must agree."
        )
    if isinstance(labels, jax.core.Tracer):
        return labels, 0
    smallest, largest = int(np.min(np.asarray(labels))), int(np.max(np.asarray(labels)))
    if smallest < SILENT or largest == SILENT:
        raise ValueError(
            f"labels go from {smallest} to {largest}: they count classes from 0, and −1 stands "
            "where nothing is asked for, which is not everywhere."
        )
    return labels, largest + 1
