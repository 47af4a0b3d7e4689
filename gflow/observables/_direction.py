"""Where a model points: margins of its data, normalised ones, angles to a given direction."""

import math
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PyTree

from ._leaf import Observable, norm, value
from ._products import Product


@runtime_checkable
class HasMargins(Protocol):
    """An objective that knows the margins of its examples."""

    def margins(self, model: PyTree) -> Float[Array, "..."]:
        """How far the output of every example is on the side of its label."""
        ...


class Margin:
    """Smallest margin of the data of an objective that has `margins(model)`."""

    def __init__(self, objective: HasMargins, leaves: tuple[str, ...] = ()):
        self.objective = objective
        self.norms = [norm(leaf) for leaf in leaves]

    def __call__(self, model: PyTree) -> Float[Array, ""]:
        smallest = jnp.min(self.objective.margins(model))
        for one in self.norms:
            smallest = smallest / one(model)
        return smallest


def margin(objective: HasMargins) -> Margin:
    """Smallest margin of the examples: the label's logit less the largest other, or y f(x).

    Positive where every label is met. **Raises:** ValueError for an objective without margins
    (`CrossEntropy` and `MarginLoss` have them; so has any with a method `margins(model)`).
    """
    return Margin(_with_margins(objective))


def normalised_margin(objective: HasMargins, *leaves: str) -> Margin:
    """The smallest margin over the product of the Frobenius norms of these leaves.

    Of a model that is of degree one in each of them it depends on their directions alone, and of
    a linear map it is at most the hard margin, which it approaches.

    **Raises:** ValueError as `margin`, and without leaves.
    """
    if not leaves:
        raise ValueError("normalised_margin needs the names of the leaves whose norms are meant.")
    return Margin(_with_margins(objective), leaves)


def angle(weight: str | Product, direction: ArrayLike | Sequence[float]) -> Observable:
    """The angle in radians between a weight and a direction of its shape, all digits if small.

    **Raises:** ValueError for a direction that is zero or not finite, and (when it is applied)
    for a weight of another shape. NaN of a weight that is zero.
    """
    to = np.asarray(direction, float)
    size = float(np.linalg.norm(to))
    if not (math.isfinite(size) and size > 0.0):
        raise ValueError(f"direction has the norm {size}: give one that is not zero.")
    unit = to / size

    def read(leaf: Any) -> Array:
        found = value(leaf)
        if found.shape != unit.shape:
            raise ValueError(f"its shape is {found.shape}, that of the direction {unit.shape}.")
        largest = jnp.max(jnp.abs(found))
        found = found / largest
        found = found / jnp.sqrt(jnp.sum(found**2))
        goal = jnp.asarray(unit, found.dtype)
        apart, along = (jnp.sqrt(jnp.sum(x**2)) for x in (found - goal, found + goal))
        return 2.0 * jnp.arctan2(apart, along)

    return Observable(weight, read)


def _with_margins(objective: Any) -> Any:
    if not callable(getattr(objective, "margins", None)):
        raise ValueError(
            f"A {type(objective).__name__} has no margins(model): give a gflow.objectives."
            "CrossEntropy or MarginLoss, or an objective with that method."
        )
    return objective
