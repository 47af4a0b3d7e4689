r"""The effective flow of condensation, to be simulated and in its reduced form.

At weights of size ε a one-layer transformer's loss is −m·vW_V W1 W2 to leading order, whatever
W_Q and W_K are: three factors in a row. `EffectiveChain` is this loss for `gflow.simulate`
and `gflow.escape`; `effective_course` follows the same flow in 2d numbers (`_reduced_flow`).
Paper: 2510.06954 (Chen, Luo, NeurIPS 2025), Proposition 1.
"""

from typing import NamedTuple, Protocol, runtime_checkable

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from gflow import Parameter

from .._arguments import Numbers
from ._reduced_flow import Late, follow, reduced
from ._three_factors import chained


@runtime_checkable
class OuterWeights(Protocol):
    """A model with three factors in a row, as `gflow.models.LastTokenTransformer` has."""

    @property
    def value(self) -> Parameter: ...

    @property
    def inner(self) -> Parameter: ...

    @property
    def readout(self) -> Parameter: ...


class EffectiveChain(eqx.Module):
    r"""−m·vVWr of a model with weights `value` V, `inner` W and `readout` r.

    **Arguments:** `direction` v (d,), of any length; `strength` m. With weights divided by ε and
    m = 1 time is εm times that of the full loss (−ℓ'(0) = 1). The loss is unbounded below: the
    flow blows up at `theory.condensation.blow_up_time`.

    **Raises:** ValueError for a direction that is not a vector.

    ```python
    v, m = theory.condensation.condensation_direction(X, y)
    gflow.escape(model, EffectiveChain(v, m), level=10.0)
    ```
    """

    direction: Float[Array, " d"]
    strength: Float[Array, ""]

    def __init__(self, direction: ArrayLike, strength: ArrayLike = 1.0):
        self.direction = jnp.asarray(direction, float)
        self.strength = jnp.asarray(strength, float)
        if self.direction.ndim != 1 or self.strength.ndim:
            raise ValueError(
                f"direction has shape {self.direction.shape} and strength {self.strength.shape}: "
                "they must be a vector and a number, as condensation_direction returns."
            )

    def __call__(self, model: OuterWeights) -> Float[Array, ""]:
        row = self.direction @ model.value.value @ model.inner.value
        return -self.strength * (row @ model.readout.value)


class Course(NamedTuple):
    """The effective flow at its own steps.

    `a`: (t, m); N = ‖a‖² (`square`), E = aᵀBc (`energy`), the stable rank of B.
    """

    t: Float[np.ndarray, " t"]
    a: Float[np.ndarray, "t m"]
    square: Float[np.ndarray, " t"]
    energy: Float[np.ndarray, " t"]
    stable_rank: Float[np.ndarray, " t"]


def effective_course(
    a: Numbers, B: Numbers, c: Numbers, growth: float = 1e4, rtol: float = 1e-12
) -> Course:
    r"""The flow a' = Bc, B' = acᵀ, c' = Bᵀa until weights have grown by `growth`.

    Reduced to a'' = (2‖a‖² + D)a + Ga, which takes O(m) a step; BBᵀ = aaᵀ + G gives the rest.

    **Arguments:** `a`: (m,), `B`: (m, n), `c`: (n,), of size O(1). **Returns:** a `Course`.
    **Raises:** ValueError for shapes that do not chain, float32, data that are not finite, and a
    start that does not grow so far. **Regime:** exact for the effective flow.
    **Source:** 2510.06954, Proposition 1; the reduction is derived.

    ```python
    course = effective_course(v @ W_V / eps, W1 / eps, W2 / eps)
    ```
    """
    a, b, c = chained(a, B, c)
    start = reduced(a, b, c)
    seen: list[Late] = []

    def until(late: Late) -> bool:
        seen.append(late)
        return late.growth >= growth and late.cosine > 0

    if follow(start, until, rtol) is None:
        raise ValueError(
            f"The weights do not grow by growth = {growth:g}: the start is near a stable "
            "manifold, where E = aᵀBc stays negative. Perturb a, B or c."
        )
    square = np.array([late.square for late in seen])
    path = np.stack([np.sqrt(late.square) * late.direction for late in seen])
    turned = path @ start.basis
    top = np.array([
        np.linalg.eigvalsh(np.diag(start.rates) + np.outer(x, x))[-1] for x in turned
    ])  # fmt: skip
    return Course(
        np.array([late.time for late in seen]),
        path,
        square,
        np.array([late.energy for late in seen]),
        (square + np.sum(start.rates)) / top,
    )
