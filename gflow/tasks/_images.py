"""Images with a class each; handwritten digits, and shifted tasks made of them."""

from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy import ndimage

from ..objectives._cross_entropy import CrossEntropy
from ._task import evenly, floats, scikit_data

#: Of this many digits of a class one is held out.
SHARE = 5


class Images(eqx.Module):
    r"""Images in [0, 1] with their classes, and others that are held out.

    `objective` and `held_out` are nats an image, of logits that a model makes of
    (height, width) or (height, width, channels); the data are their `inputs` and `labels`, and
    `task.held_out.accuracy(model)` is the share it gets right. `rotated` and `relabelled` make
    the shifted task on which a trained model is trained further.

    ```python
    task = gflow.tasks.digits(examples=200)
    shifted = task.rotated(30.0).relabelled([1, 0, 2, 3, 4, 5, 6, 7, 8, 9])
    ```
    """

    objective: CrossEntropy
    held_out: CrossEntropy
    classes: int = eqx.field(static=True)

    def rotated(self, degrees: float) -> "Images":
        """All images turned counter-clockwise; corners that come in are 0.

        Multiples of 90° move pixels and change none, other angles interpolate linearly.
        """
        if not np.isfinite(degrees):
            raise ValueError(f"degrees = {degrees}: give a finite angle.")

        def change(data: CrossEntropy) -> CrossEntropy:
            return CrossEntropy(_turned(np.asarray(data.inputs), degrees), data.labels)

        return Images(change(self.objective), change(self.held_out), self.classes)

    def relabelled(self, permutation: Sequence[int] | Int[np.ndarray, " classes"]) -> "Images":
        """Class k becomes `permutation[k]`. **Raises:** ValueError for no permutation."""
        new = np.asarray(permutation)
        if not np.array_equal(np.sort(new), np.arange(self.classes)):
            raise ValueError(
                f"permutation = {permutation}: give each of 0 … {self.classes - 1} once, the new "
                "class in the place of the old one."
            )

        def change(data: CrossEntropy) -> CrossEntropy:
            return CrossEntropy(data.inputs, jnp.asarray(new)[data.labels])

        return Images(change(self.objective), change(self.held_out), self.classes)


def _turned(images: np.ndarray, degrees: float) -> Float[Array, "examples ..."]:
    turns, rest = divmod(degrees, 90)
    if rest == 0:
        return jnp.asarray(np.rot90(images, int(turns), axes=(1, 2)))
    return jnp.asarray(ndimage.rotate(images, degrees, axes=(1, 2), reshape=False, order=1))


def digits(*, examples: int | None = None) -> Images:
    """Handwritten digits, 8 × 8 pixels, ten classes: every fifth of a class is held out.

    `examples`: that many of the 1438 others, evenly spaced in each class, which have equal shares;
    `None` for all. (In the order of the data set the digits 0 … 9 repeat again and again: evenly
    spaced in that, some would be missing.)

    **Raises:** ValueError for `examples` out of range; ImportError without scikit-learn, which
    ships the images (Alpaydin & Kaynak, UCI, 1998).

    ```python
    task = gflow.tasks.digits(examples=200)
    vit = gflow.models.VisionTransformer((8, 8), patch=2, classes=10, key=jax.random.key(0))
    run = gflow.simulate(vit, task.objective, t1=5.0)
    task.held_out.accuracy(run.final)
    ```
    """
    data = scikit_data("digits").load_digits()
    images, labels = data.images / 16.0, np.asarray(data.target)
    by_class = np.argsort(labels, kind="stable")
    last = np.arange(len(labels)) % SHARE == SHARE - 1
    training, held_out = by_class[~last], by_class[last]
    training = training[evenly("examples", examples, len(training))]
    parts = (
        CrossEntropy(floats(images[kept]), labels[kept])
        for kept in (np.sort(training), np.sort(held_out))
    )
    return Images(*parts, classes=10)
