"""Data of the experiments: the exact fixture, teacher and student, two real data sets.

Each function returns a task: inputs, targets and, as `task.objective`, the squared loss
in whose clock its stage times are quoted. Random data take a typed `key=`.
"""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from .models import DiagonalAttention
from .objectives import SquaredLoss
from .parameters import Frozen


class Task(eqx.Module):
    """Inputs, targets and the loss on them."""

    inputs: eqx.AbstractVar[Float[Array, "examples ..."]]
    targets: eqx.AbstractVar[Float[Array, "examples ..."]]

    @property
    @abc.abstractmethod
    def objective(self) -> SquaredLoss:
        """Squared loss on all examples."""


class Regression(Task):
    """Vectors x and numbers y, with a name for each coordinate of x; half-sum loss."""

    inputs: Float[Array, "examples d"]
    targets: Float[Array, " examples"]
    names: tuple[str, ...] = eqx.field(static=True)

    @property
    def objective(self) -> SquaredLoss:
        return SquaredLoss(self.inputs, self.targets, "half_sum")


class TeacherStudent(Task):
    """Token sequences and what `teacher`, a model of the student's form, makes of them."""

    inputs: Float[Array, "examples tokens d"]
    targets: Float[Array, "examples tokens d"]
    teacher: DiagonalAttention

    @property
    def objective(self) -> SquaredLoss:
        return SquaredLoss(self.inputs, self.targets, "half_mean")


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


def zhao_fixture() -> Regression:
    """Two examples, four coordinates: three stages at exactly τ = 1, 4, 4 + 80/49.

    For a `DiagonalLinear` of Hadamard weights and the half-sum loss, as α → 0.
    Coordinate 0 switches on, then 2, which drives 0 back to zero, then 3 with a negative
    sign; 1 never does. The saddles are (4/5, 0, 0, 0), (0, 0, 7/5, 0) and
    (0, 0, 10/7, −10/49), where the loss is zero.

    **Source:** arXiv 2607.12332.

    ```python
    task = gflow.tasks.zhao_fixture()
    weight = gflow.Hadamard.small(4, log_alpha=-74, key=jax.random.key(0))
    gflow.simulate(gflow.models.DiagonalLinear(weight), task.objective, tau1=8.0)
    ```
    """
    x = _floats([[1.0, 0.5, 0.7, 0.0], [0.5, 1.0, 0.1, 0.7]])
    return Regression(x, _floats([1.0, 0.0]), names=("0", "1", "2", "3"))


#: A teacher whose student passes six well-separated saddles, one new weight at each.
TEACHER_KQ = np.array([[1.3, 0.8, -0.9, 0.0]])
TEACHER_VO = np.array([[-2.0, 1.0, 0.7, 0.0]])


def teacher_student(
    *,
    key: PRNGKeyArray,
    kq: ArrayLike = TEACHER_KQ,
    vo: ArrayLike = TEACHER_VO,
    examples: int = 256,
    tokens: int = 4,
    scale: float = 1.0,
) -> TeacherStudent:
    r"""Standard normal token sequences, targets by a teacher with diagonal softmax heads.

        Y = Σ_h softmax(scale · X diag(kq_h) Xᵀ) X diag(vo_h),   X_{td} ~ N(0, 1)

    `kq`, `vo`: weights of the teacher, (heads, d) or (d,); `random_teacher` draws some.
    The loss of a student of this form falls to zero. With the default weights one head
    switches on vo 0, kq 0, vo 1, kq 1, kq 2, vo 2 in turn, all before τ = 2, and ends at
    the teacher's ranks 3 and 3. Several student heads start with equal forces on their
    vo and switch these on together until a kq differs between them.

    **Raises:** ValueError for weights of different shapes or with fewer than two tokens.

    ```python
    task = gflow.tasks.teacher_student(key=jax.random.key(0))
    ```
    """
    weights = [jnp.atleast_2d(_floats(w)) for w in (kq, vo)]
    _check_count("examples", examples, 1)
    # softmax over a single token is 1 whatever kq is
    _check_count("tokens", tokens, 2)
    teacher = DiagonalAttention(*map(Frozen, weights), scale=scale)
    shape = (examples, tokens, weights[0].shape[1])
    inputs = jax.random.normal(key, shape, weights[0].dtype)
    return TeacherStudent(inputs, jax.vmap(teacher)(inputs), teacher)


def random_teacher(
    d: int, heads: int = 1, *, key: PRNGKeyArray
) -> tuple[Float[Array, "heads d"], Float[Array, "heads d"]]:
    """Weights (kq, vo) with random signs and sizes spread evenly in logarithm, without ties.

    The sizes of one head are 2·6^{−(k + r_k)/d}, k = 0 … d − 1 in random order, with r_k
    uniform on [0, ½]; those of kq are half as large.

    ```python
    kq, vo = gflow.tasks.random_teacher(4, key=jax.random.key(1))
    task = gflow.tasks.teacher_student(key=jax.random.key(0), kq=kq, vo=vo)
    ```
    """

    def draw(key):
        order, jitter, sign = jax.random.split(key, 3)
        steps = jnp.broadcast_to(jnp.arange(d, dtype=jnp.result_type(float)), (heads, d))
        steps = jax.random.permutation(order, steps, axis=1, independent=True)
        steps = steps + 0.5 * jax.random.uniform(jitter, (heads, d))
        size = 2.0 * jnp.exp(-jnp.log(6.0) * steps / d)
        return jax.random.rademacher(sign, (heads, d), dtype=size.dtype) * size

    kq, vo = (draw(k) for k in jax.random.split(key))
    return 0.5 * kq, vo


def diabetes() -> Regression:
    """Efron et al.'s diabetes data: 442 patients, 10 measurements, progression of disease.

    The columns of the inputs have mean 0 and norm 1, as scikit-learn ships them; the
    target is centred and divided by its norm. With the half-sum loss the forces at zero
    are the correlations with the target, the first stage is at τ = 1/0.5865 (body mass
    index), and the loss is (1 − R²)/2.

    **Raises:** ImportError without scikit-learn, which ships the data.

    **Source:** Efron, Hastie, Johnstone, Tibshirani, Annals of Statistics 32 (2004).
    """
    data = _datasets("diabetes").load_diabetes()
    y = data.target - data.target.mean()
    return Regression(_floats(data.data), _floats(y / np.linalg.norm(y)), tuple(data.feature_names))


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
    images = _datasets("digits").load_digits().images / 16.0
    total, _, side = images.shape
    count = total if examples is None else examples
    _check_count("examples", count, 1, total)
    _check_count("components", components, 1, side)
    if not noise >= 0.0:
        raise ValueError(f"noise = {noise} is a standard deviation: pass 0 or more.")
    images = images - images.mean(axis=(1, 2), keepdims=True)
    directions = _principal(images.reshape(-1, side))[:, :components]
    clean = images @ directions
    unit = np.sqrt(np.mean(clean**2))
    targets = _floats(clean / unit)
    inputs = targets + noise * jax.random.normal(key, targets.shape, targets.dtype)
    kept = jnp.arange(count) * total // count
    return Digits(inputs[kept], targets[kept], _floats(directions), _floats(unit))


def _principal(rows: np.ndarray) -> np.ndarray:
    """Eigenvectors of the covariance, largest first, the largest entry of each positive."""
    _, vectors = np.linalg.eigh(np.cov(rows, rowvar=False))
    vectors = vectors[:, ::-1]
    largest = np.argmax(np.abs(vectors), axis=0)
    return vectors * np.sign(vectors[largest, np.arange(vectors.shape[1])])


def _floats(x: Any) -> Array:
    return jnp.asarray(x, jnp.result_type(float))


def _check_count(name: str, value: int, lowest: int, highest: int | None = None) -> None:
    if value < lowest or (highest is not None and value > highest):
        bounds = f"at least {lowest}" if highest is None else f"from {lowest} to {highest}"
        raise ValueError(f"{name} = {value}: choose {bounds}.")


def _datasets(task: str) -> Any:
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ImportError(
            f"The {task} data come with scikit-learn, which is not installed: "
            'pip install "gflow[data]".'
        ) from error
    return datasets
