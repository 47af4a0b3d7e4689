"""The conservation laws of a model's gradient flow: how many there are, and which."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .._svd import svd
from ..programs._closure import traced
from ..results._trajectory import Trajectory
from ._brackets import Algebra
from ._flat import Flat, Reading, flat
from ._quadratic import RESIDUAL, equations, monomials, null_space, slopes

#: Random points at which the laws are counted, and at which those found are held to be laws.
_COUNTED, _PROBED = 3, 3


@dataclasses.dataclass(frozen=True, eq=False)
class Law:
    """A conserved quantity Σ c·θ_iθ_j + Σ c·θ_i, to be recorded along a run or read off a model."""

    reading: Reading
    text: str
    terms: np.ndarray
    coefficients: np.ndarray

    def __call__(self, model: PyTree) -> Float[Array, ""]:
        """**Raises:** ValueError where the model has other leaves."""
        theta = self.reading(model)
        one = jnp.concatenate([theta, jnp.ones((1,), theta.dtype)])  # −1 of a linear term
        i, j = self.terms.T
        return jnp.vdot(jnp.asarray(self.coefficients, theta.dtype), theta[i] * one[j])

    def __str__(self) -> str:
        return self.text


@dataclasses.dataclass(frozen=True, eq=False)
class Laws:
    """`count` independent laws, those found, how many of these are independent.

    Called with a model it returns the values of all that were found, so that it goes into
    `observables=` as it is; each of `found` does too.
    """

    count: int
    found: tuple[Law, ...]
    independent: int
    #: Dimension that the gradients span, with the brackets of each level.
    dimensions: tuple[int, ...]
    size: int

    @property
    def complete(self) -> bool:
        """Whether those found are all there are: the others are not quadratic in the weights."""
        return self.independent == self.count

    def __call__(self, model: PyTree) -> Float[Array, " laws"]:
        if not self.found:
            return jnp.zeros((0,))
        return jnp.stack([law(model) for law in self.found])

    def __str__(self) -> str:
        missing = self.count - self.independent
        head = f"{self.count} independent conservation laws of {self.size} weights"
        if missing:
            head += f", {missing} of them not quadratic in the weights and not found"
        return "\n".join([head, *(f"  {law}" for law in self.found)])


class Drift(NamedTuple):
    """Of each law the largest |h(t) − h(0)|, and the largest error bar on the way."""

    size: Float[np.ndarray, " laws"]
    bar: Float[np.ndarray, " laws"]


def conservation_laws(model: PyTree, outputs: Callable[[PyTree], Array], *, seed: int = 0) -> Laws:
    r"""What gradient flow conserves whatever the loss of `outputs`: counted, and found.

    The count is size − dim Lie{∇f_k}(θ) at random θ, with as many levels of brackets as it takes
    for all outputs f_k (2307.00144). Found are all laws of the form ½θᵀAθ + c·θ, by a search
    linear in A and c over θ ↦ Aθ + c, within each leaf and, where these are not all, across leaves.
    They are held against the forces at points of their own.

    **Arguments:** `model` with plain weights (`gflow.to_factors`), whose values do not matter;
    `outputs`: model ↦ array, what a loss sees of it, such as `lambda m: jax.vmap(m)(inputs)`, with
    enough examples to tell all weights apart; `seed` of the random points.

    **Returns:** `Laws`: `.count`, `.found`, `.complete`. Of more laws than are independent (wide
    layers) all are found, and `.independent` says how many are.

    **Raises:** ValueError for leaves in scale form, float32, and where rounding leaves a rank
    undecided.
    **Cost:** some (size²/2)³/3 operations where laws reach across leaves: 100 weights take
    seconds, 300 are too many. **Regime:** a flow without decay (with decay λ a law without linear
    terms falls as e^{−2λt}), and without kinks at the random points.

    ```python
    laws = conservation_laws(model, lambda m: jax.vmap(m)(inputs))
    print(laws)
    run = gflow.simulate(model, objective, t1=10.0, observables={"laws": laws})
    ```
    """
    problem = flat(model)
    algebra = _algebra(problem, outputs)
    rng = np.random.default_rng(seed)
    size = len(problem.start)
    points = _points(problem, _COUNTED, rng)
    dimensions = algebra.dimensions(points, seed, 1)
    found, independent = [], 0
    if dimensions[0] < size:
        # those found bound the count from below as brackets do from above
        several = len(set(problem.leaf_of)) > 1
        found, independent = _search(problem, algebra, dimensions[0], not several, rng, seed)
        dimensions = algebra.dimensions(points, seed, size - independent)
        if several and independent < size - dimensions[-1]:
            found, independent = _search(problem, algebra, dimensions[0], True, rng, seed)
    return Laws(size - dimensions[-1], tuple(found), independent, dimensions, size)


def drift(run: Trajectory, name: str) -> Drift:
    """How far the laws recorded as observable `name` moved in a run, and how well that is known.

    **Raises:** ValueError for a run that did not record it. Bars are NaN in runs without any.

    ```python
    size, bar = drift(run, "laws")
    ```
    """
    if name not in run.observables:
        raise ValueError(
            f"The run has no observable {name!r}; it has {', '.join(run.observables)}. Pass "
            "observables={'laws': laws} to it."
        )
    values = np.asarray(run.observables[name], float)
    values = values.reshape(len(values), -1)
    bars = np.full_like(values, np.nan)
    if name in (run.error or {}):
        bars = np.asarray(run.error[name], float).reshape(values.shape)
    return Drift(np.max(np.abs(values - values[0]), axis=0), np.max(bars, axis=0))


def _points(problem: Flat, number: int, rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(number, len(problem.start))) * problem.spread


def _algebra(problem: Flat, outputs: Callable[[PyTree], Array]) -> Algebra:
    def of(theta: Array) -> Array:
        return jnp.ravel(jnp.asarray(outputs(problem.at(theta))))

    shape_of_weights = jax.ShapeDtypeStruct(problem.start.shape, problem.start.dtype)
    shape = jax.eval_shape(of, shape_of_weights)
    if not shape.size or not jnp.issubdtype(shape.dtype, jnp.floating):
        raise ValueError(
            f"outputs(model) has shape {shape.shape} and dtype {shape.dtype}: it is an array of "
            "real numbers, such as jax.vmap(model)(inputs)."
        )
    program = traced(of, shape_of_weights, what="outputs")
    return Algebra(program, len(problem.start), shape.size)


def _search(
    problem: Flat, algebra: Algebra, rank: int, across: bool, rng: np.random.Generator, seed: int
) -> tuple[list[Law], int]:
    """Laws within leaves, or all; how many are independent."""
    size = len(problem.start)
    terms = monomials(problem.leaf_of, across)
    probes = _points(problem, _PROBED, rng)
    held = _changes(algebra, terms, probes, rank, rank, seed + 2)
    for more in (1, 2):
        number, forces = equations(len(terms), size, rank)
        points = _points(problem, more * number, rng)
        rows = null_space(_changes(algebra, terms, points, rank, forces, seed + more))
        kept = np.max(np.abs(held @ rows.T), axis=0, initial=0.0) < RESIDUAL
        if np.all(kept):
            break
    rows = rows[kept]
    if not len(rows):
        return [], 0
    every = np.broadcast_to(np.eye(size), (_PROBED, size, size))
    gradients = np.einsum("lm,pkm->plk", rows, slopes(terms, probes, every))
    independent = int(np.max(np.linalg.matrix_rank(gradients, tol=1e-8)))
    return [_law(problem, terms, row) for row in rows], independent


def _changes(
    algebra: Algebra, terms: np.ndarray, points: np.ndarray, rank: int, number: int, seed: int
) -> np.ndarray:
    """What `number` random unit forces at every point change of every monomial, a row a force."""
    _, sizes, forces = svd(algebra.vectors(0, points, seed), full_matrices=False)
    # where an example does not feel the weights the rank is less
    felt = sizes > RESIDUAL * sizes[:, :1]
    forces = np.where(felt[..., None], forces, 0.0)[:, :rank]
    turned = np.linalg.qr(np.random.default_rng(seed).normal(size=(rank, number)))[0]
    return slopes(terms, points, turned.T @ forces).reshape(-1, len(terms))


def _law(problem: Flat, terms: np.ndarray, row: np.ndarray) -> Law:
    kept = np.flatnonzero(row)
    return Law(problem.reading, _written(problem, terms[kept], row[kept]), terms[kept], row[kept])


def _written(problem: Flat, terms: np.ndarray, row: np.ndarray) -> str:
    words = []
    for (i, j), c in zip(terms, row, strict=True):
        name = problem.labels[i]
        if j >= 0:
            name = f"{name}²" if i == j else f"{name}·{problem.labels[j]}"
        sign = ("− " if c < 0 else "+ ") if words else ("−" if c < 0 else "")
        words.append(f"{sign}{'' if abs(c) == 1.0 else f'{abs(c):.6g} '}{name}")
    more = len(words) - 12
    return " ".join(words[:12] + ([f"+ … ({more} more terms)"] if more > 0 else []))
