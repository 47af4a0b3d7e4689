"""Token sequences and a diagonal softmax teacher."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from ..models import DiagonalAttention
from ..objectives._squared import SquaredLoss
from ..parameters._base import Frozen
from ._task import Task, check_count, floats


class TeacherStudent(Task):
    """Token sequences and what `teacher`, a model of the student's form, makes of them."""

    inputs: Float[Array, "examples tokens d"]
    targets: Float[Array, "examples tokens d"]
    teacher: DiagonalAttention

    @property
    def objective(self) -> SquaredLoss:
        return SquaredLoss(self.inputs, self.targets, "half_mean")


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
    weights = [jnp.atleast_2d(floats(w)) for w in (kq, vo)]
    check_count("examples", examples, 1)
    # softmax over a single token is 1 whatever kq is
    check_count("tokens", tokens, 2)
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
