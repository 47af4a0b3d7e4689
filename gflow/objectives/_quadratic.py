"""A quadratic loss of the effective weights, by its moments: one product with the Hessian."""

from collections.abc import Sequence
from typing import Any, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from .._arguments import number
from .._svd import least_squares
from ..parameters._base import is_parameter, trained_leaves

#: What becomes an array: also a list of numbers, or of rows.
Numbers = ArrayLike | Sequence[float] | Sequence[Sequence[float]]


class QuadraticLoss(eqx.Module):
    r"""floor + ½ (w − w*)ᵀ H (w − w*), with w all effective weights of a model, one after another.

    The squared loss of a model that is linear in its effective weights, on a sample or over a
    population: for regression on x with E[xxᵀ] = Σ and y = ⟨x, w*⟩ + noise of variance σ²,
    ½E(y − ⟨x, w⟩)² has H = Σ and a floor of σ²/2. Its gradient is one product with H, whatever
    the number of examples, and being written around w* the loss keeps its digits where it is small.

    **Arguments:** `hessian` H: (p, p), symmetric and positive semi-definite; `minimiser` w*: (p,),
    or any array of p entries; `floor`: the loss at w*. Weights are ordered as the trained leaves of
    the model (`jax.tree.leaves`), each by rows.

    **Raises:** ValueError for shapes, data that are not finite, an H that is not symmetric or has
    a negative eigenvalue and, at the first call, a model with another number of weights.

    ```python
    objective = gflow.objectives.QuadraticLoss(covariance, teacher)
    gflow.simulate(gflow.models.DiagonalLinear(weight), objective, tau1=4.0)
    ```
    """

    hessian: Float[Array, "p p"]
    minimiser: Float[Array, " p"]
    floor: Float[Array, ""]

    def __init__(self, hessian: Numbers, minimiser: Numbers, floor: float = 0.0):
        h, w = (_finite(x, name) for x, name in ((hessian, "hessian"), (minimiser, "minimiser")))
        w = w.ravel()
        if h.shape != (len(w), len(w)):
            raise ValueError(
                f"hessian has shape {h.shape} where minimiser has {len(w)} entries: give (p, p) "
                "and p."
            )
        top = float(np.max(np.abs(h), initial=0.0))
        if np.max(np.abs(h - h.T), initial=0.0) > 1e-12 * top:
            raise ValueError("hessian is not symmetric. Give ½(H + Hᵀ), if that is meant.")
        lowest = float(np.linalg.eigvalsh(h)[0]) if len(w) else 0.0
        if lowest < -1e-12 * len(w) * top:
            raise ValueError(
                f"hessian has the eigenvalue {lowest:.6g}: a squared loss has none below 0, and "
                "the flow of this one would not come to rest."
            )
        dtype = jnp.result_type(float)
        self.hessian, self.minimiser = jnp.asarray(0.5 * (h + h.T), dtype), jnp.asarray(w, dtype)
        self.floor = jnp.asarray(number("floor", floor, "the loss at the minimiser"), dtype)

    @classmethod
    def of(cls, inputs: Numbers, targets: Numbers) -> Self:
        """½ mean (y − ⟨x, w⟩)² of examples in rows, by XᵀX and the least-squares solution.

        `SquaredLoss(inputs, targets)` of a model x ↦ ⟨x, w⟩, on the same clock.
        """
        x, y = _finite(inputs, "inputs"), _finite(targets, "targets")
        if x.ndim != 2 or y.shape != x.shape[:1]:
            raise ValueError(
                f"inputs have shape {x.shape} and targets {y.shape}: give (examples, p) and "
                "(examples,)."
            )
        w = least_squares(x, y)
        return cls(x.T @ x / len(y), w, 0.5 * float(np.mean((y - x @ w) ** 2)))

    def __call__(self, model: Any) -> Float[Array, ""]:
        leaves = trained_leaves(model).values()
        values = [jnp.ravel(x.value if is_parameter(x) else x) for x in leaves]
        weights = jnp.concatenate(values) if values else jnp.zeros(0)
        if weights.shape != self.minimiser.shape:
            raise ValueError(
                f"The model has {weights.size} effective weights where the minimiser has "
                f"{self.minimiser.size}. Hold in gflow.Frozen what is not meant."
            )
        return self.floor + _half_square(self.hessian, weights - self.minimiser)


@jax.custom_jvp
def _half_square(hessian: Float[Array, "p p"], x: Float[Array, " p"]) -> Float[Array, ""]:
    return 0.5 * jnp.dot(x, hessian @ x)


@_half_square.defjvp
def _slope(primals: Any, tangents: Any) -> Any:
    """The gradient is Hx: by itself JAX would take one product with H and one with Hᵀ."""
    (hessian, x), (turned, moved) = primals, tangents
    image = hessian @ x
    change = jnp.dot(image, moved) + 0.5 * jnp.dot(x, turned @ x)
    return 0.5 * jnp.dot(x, image), change


def _finite(x: Numbers, name: str) -> np.ndarray:
    array = np.asarray(x)
    if array.dtype.kind not in "fiu" or not np.all(np.isfinite(array)):
        raise ValueError(f"{name} has dtype {array.dtype}: give finite real numbers.")
    return array.astype(float)
