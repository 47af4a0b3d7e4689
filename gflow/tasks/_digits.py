"""Handwritten digits, rows of pixels as tokens."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ..objectives._squared import SquaredLoss
from ._task import Task, check_count, evenly, floats, scikit_data


class Digits(Task):
    """Noisy and clean rows of digit images, in principal components.

    `images(tokens)` turns tokens (inputs, targets or predictions) into images of pixels
    in [0, 1], less the brightness of each image.
    """

    inputs: Float[Array, "examples 8 components"]
    targets: Float[Array, "examples 8 components"]
    directions: Float[Array, "8 components"]
    unit: Float[Array, ""]

    @property
    def objective(self) -> SquaredLoss:
        return SquaredLoss(self.inputs, self.targets, "half_mean")

    def images(self, tokens: Float[Array, "*batch 8 components"]) -> Float[Array, "*batch 8 8"]:
        return self.unit * jnp.einsum("...c,pc->...p", tokens, self.directions)


def digits_rows(
    *,
    key: PRNGKeyArray,
    examples: int | None = None,
    components: int = 4,
    noise: float = 0.5,
) -> Digits:
    r"""Denoise handwritten digits: the tokens are the 8 rows of an 8×8 image.

    A softmax head that attends from a noisy row to rows that resemble it and averages
    them is non-local means; its kq says in which components rows are compared, its vo
    how far each component is trusted.

    Each image has its own mean brightness subtracted. Its rows are written in the
    leading `components` principal directions of all rows (the average row is not
    subtracted: it is part of what a head can restore) and divided by one number, so that
    the targets have mean square 1 over all 1797 images. The inputs are the targets plus
    Gaussian noise of standard deviation `noise`.

    In pixels the columns of an image are near ties in left and right pairs, and the
    outer two nearly blank; principal components have neither fault. With four of them and
    noise ½ a head at scale 1 passes eight saddles before τ = 2.5, vo and kq interleaved.

    `examples`: that many images, evenly spaced in the data set, with the noise they have
    in the whole; `None` for all 1797. With 200 the order of stages is the same.

    **Raises:** ValueError for `examples` or `components` out of range or negative
    `noise`; ImportError without scikit-learn, which ships the images (Alpaydin & Kaynak,
    UCI, 1998).

    ```python
    task = gflow.tasks.digits_rows(key=jax.random.key(0), examples=200)
    ```
    """
    images = scikit_data("digits").load_digits().images / 16.0
    total, _, side = images.shape
    kept = evenly("examples", examples, total)
    check_count("components", components, 1, side)
    if not noise >= 0.0:
        raise ValueError(f"noise = {noise} is a standard deviation: pass 0 or more.")
    images = images - images.mean(axis=(1, 2), keepdims=True)
    directions = _principal(images.reshape(-1, side))[:, :components]
    clean = images @ directions
    unit = np.sqrt(np.mean(clean**2))
    targets = floats(clean / unit)
    inputs = targets + noise * jax.random.normal(key, targets.shape, targets.dtype)
    return Digits(inputs[kept], targets[kept], floats(directions), floats(unit))


def _principal(rows: np.ndarray) -> np.ndarray:
    """Eigenvectors of the covariance, largest first, the largest entry of each positive."""
    _, vectors = np.linalg.eigh(np.cov(rows, rowvar=False))
    vectors = vectors[:, ::-1]
    largest = np.argmax(np.abs(vectors), axis=0)
    return vectors * np.sign(vectors[largest, np.arange(vectors.shape[1])])
