"""Prompts of in-context linear regression, sampled."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from .._arguments import number
from ..objectives._in_context import Covariance, InContextRegression
from ..objectives._shared_task import SharedTaskRegression
from ..objectives._squared import SquaredLoss
from ._task import Task, check_count, floats


class InContextPrompts(Task):
    """Prompts of N tokens (x_n, y_n) and the query (x_q, 0), and the answers y_q."""

    inputs: Float[Array, "prompts tokens columns"]
    targets: Float[Array, " prompts"]
    population: InContextRegression | SharedTaskRegression

    @property
    def objective(self) -> SquaredLoss:
        """½ mean (ŷ − y_q)² over the sampled prompts; its mean over samples is `population`."""
        return SquaredLoss(self.inputs, self.targets, "half_mean")


def in_context_regression(
    covariance: Covariance, context: int, *, prompts: int, key: PRNGKeyArray, noise: float = 0.0,
    task: ArrayLike | Sequence[float] | None = None, share: float = 0.5, shown: bool = True,
) -> InContextPrompts:  # fmt: skip
    r"""Sample prompts x_1, y_1, …, x_N, y_N, x_q with a linear task w ~ N(0, I) of their own.

        x ~ N(0, Λ),   y_n = wᵀx_n + ε_n,   y_q = wᵀx_q + ε_q,   ε ~ N(0, σ²)

    With a `task` w* the first round(`share` · prompts) of them have that one, which weights can
    learn; where it is not `shown`, the labels in their context are noise N(0, 1).

    For `gflow.models.MergedHeads`, `SeparateHeads`, or any model of a prompt (N + 1, D + 1) of
    tokens in rows. `task.objective` is the loss on this sample, `task.population` that of all
    prompts, exact for models with a `matrix()` (of a `task`: with a `tensor()`): the plateaus of
    the two differ by O(1/√prompts).

    **Arguments:** as `gflow.objectives.InContextRegression`; `prompts`, how many; `task`, `share`,
    `shown` as `gflow.objectives.SharedTaskRegression`.
    **Raises:** ValueError as there, and for `prompts` < 1.
    **Source:** 2501.16265, without its whitening of the tasks.

    ```python
    task = gflow.tasks.in_context_regression([0.4, 0.3, 0.2, 0.1], 31, prompts=5000, key=key)
    gflow.descend(model, task.objective, learning_rate=0.05, steps=2000)
    ```
    """
    check_count("prompts", prompts, 1)
    own = InContextRegression(covariance, context, noise)
    population, shared = own, 0
    if task is None and not shown:
        raise ValueError("shown=False is of prompts that share a task: give task=w*.")
    if task is not None:
        population = SharedTaskRegression(
            covariance, context, task, share, shown=shown, noise=noise
        )  # fmt: skip
        shared = round(number("share", share, "the share of prompts with the task") * prompts)
    values, basis = np.linalg.eigh(np.asarray(own.covariance))
    root = floats(basis * np.sqrt(np.maximum(values, 0.0)))
    d = len(values)
    for_x, for_w, for_noise = jax.random.split(key, 3)
    x = jnp.matmul(jax.random.normal(for_x, (prompts, context + 1, d)), root.T)
    w = jax.random.normal(for_w, (prompts, d))
    if task is not None:
        w = w.at[:shared].set(floats(np.asarray(task, float)))
    drawn = jax.random.normal(for_noise, (prompts, context + 1))
    y = jnp.einsum("pnd,pd->pn", x, w) + np.sqrt(noise) * drawn
    labels = y.at[:, -1].set(0.0)
    if not shown:
        labels = labels.at[:shared, :-1].set(drawn[:shared, :-1])
    return InContextPrompts(jnp.concatenate([x, labels[..., None]], axis=-1), y[:, -1], population)
