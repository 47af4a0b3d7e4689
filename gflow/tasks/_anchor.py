"""The anchor function: one marked place in a sequence of keys says what to answer, and how."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from ..objectives._cross_entropy import CrossEntropy
from ._task import check_count


class Anchor(eqx.Module):
    """Sequences with one anchor a at `places` and, after it, the key that is asked for."""

    inputs: Int[Array, "examples length"]
    targets: Int[Array, " examples"]
    places: Int[Array, " examples"]
    vocabulary: int = eqx.field(static=True)

    @property
    def length(self) -> int:
        return self.inputs.shape[1]

    @property
    def anchors(self) -> Int[Array, " examples"]:
        """The anchor of each sequence."""
        return jnp.take_along_axis(self.inputs, self.places[:, None], axis=1)[:, 0]

    @property
    def objective(self) -> CrossEntropy:
        """Nats of the answer, which is asked for at the last token."""
        return CrossEntropy(self.inputs, self.targets, last=True)


def anchor_function(
    *,
    key: PRNGKeyArray,
    examples: int = 4000,
    length: int = 10,
    anchors: int = 4,
    keys: tuple[int, int] = (5, 100),
    parity: bool = True,
    vocabulary: int = 201,
) -> Anchor:
    r"""Random keys with one anchor a = x_i among them, and the answer x_{i+1} + (a mod 2).

    The anchor is uniform on 1 … `anchors`, its place i on the first length − 1 positions, and
    all other tokens are keys, uniform on `keys` (first and last, both included). With
    `parity=False` the answer is x_{i+1} + a. Under parity the synonymous anchors are {1, 3} and
    {2, 4}. Defaults are the paper's, except for the number of examples, which it does not state.

    The answer is asked for at the last token. A guess among the keys shown, with the right
    shift, costs about ln(length − 1) nats.

    **Raises:** ValueError for counts out of range, keys that are not above the anchors, answers
    beyond the vocabulary.
    **Source:** 2510.06954 (Chen, Luo 2025), section on synthetic data; anchor functions go back
    to 2401.08309.

    ```python
    task = gflow.tasks.anchor_function(key=jax.random.key(0))
    task.inputs[0], task.targets[0]
    ```
    """
    check_count("examples", examples, 1)
    check_count("length", length, 2)
    check_count("anchors", anchors, 1)
    first, last = keys
    if not anchors < first <= last:
        raise ValueError(
            f"keys = {keys}: give the first and last key, both above the anchors 1 … {anchors}."
        )
    largest = last + (1 if parity else anchors)
    if not vocabulary > largest:
        raise ValueError(
            f"vocabulary = {vocabulary}, but answers go up to {largest}: choose a vocabulary of at "
            f"least {largest + 1}."
        )
    for_keys, for_anchors, for_places = jax.random.split(key, 3)
    inputs = jax.random.randint(for_keys, (examples, length), first, last + 1)
    chosen = jax.random.randint(for_anchors, (examples,), 1, anchors + 1)
    places = jax.random.randint(for_places, (examples,), 0, length - 1)
    row = jnp.arange(examples)
    inputs = inputs.at[row, places].set(chosen)
    targets = inputs[row, places + 1] + (chosen % 2 if parity else chosen)
    return Anchor(inputs, targets, places, vocabulary)
