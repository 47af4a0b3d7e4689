"""How a symmetric state at rest is left: rates off the symmetry, and when it shows."""

import dataclasses
import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .._arguments import number
from .._svd import svd
from ..flow._flow import Objective
from ..programs._closure import Traced, traced
from ._flat import Flat, Reading, flat

#: What counts as zero beside the size of what it is a part of.
_SMALL = 1e-8

Symmetry = Callable[[PyTree], PyTree]


class Distance(eqx.Module):
    """‖θ − Pθ‖ of a model. Directions are data: another symmetric state compiles nothing."""

    directions: Float[Array, "size broken"]
    reading: Reading = eqx.field(static=True)

    def __call__(self, model: PyTree) -> Float[Array, ""]:
        parts = self.directions.T @ self.reading(model)
        largest = jnp.max(jnp.abs(parts), initial=0.0)
        unit = jnp.where(largest > 0.0, largest, 1.0)
        return unit * jnp.linalg.norm(parts / unit)


@dataclasses.dataclass(frozen=True, eq=False)
class Breaking:
    r"""Rates at which a symmetric rest state is left, and along which directions.

    `rates` are the eigenvalues of −∇²L (less decay) on the directions that break the symmetry,
    descending; columns of `directions` the vectors, in the order of `reading`. `bend` is c in
    Δ' = μΔ + cΔ³ along the first of them, the symmetric weights following: NaN where the rate is a
    tie or not positive, or where a term in Δ² comes first.
    """

    rates: Float[np.ndarray, " broken"]
    directions: Float[np.ndarray, "size broken"]
    bend: float
    problem: Flat

    @property
    def distance(self) -> "Distance":
        """Δ = ‖θ − Pθ‖, P the mean over the symmetry: an observable of runs."""
        return Distance(jnp.asarray(self.directions), self.problem.reading)

    def displaced(self, size: float, which: int = 0) -> PyTree:
        """The model moved by `size` along a direction: where a run starts that breaks it."""
        moved = self.problem.start + number("size", size, "how far") * self.directions[:, which]
        return self.problem.at(jnp.asarray(moved))

    def time(self, start: float, level: float) -> float:
        """Flow time from Δ = `start` to `level` along the first direction: ln(level/start)/μ.

        **Raises:** ValueError where the first rate is not positive, and for other distances.
        """
        start, level = number("start", start, "a distance"), number("level", level, "a distance")
        if not self.rates[0] > 0.0:
            raise ValueError(
                f"The largest rate is {self.rates[0]:.6g}: the symmetric state is not left along "
                "any direction."
            )
        if not 0.0 < start <= level:
            raise ValueError(f"start = {start}, level = {level}: 0 < start ≤ level is needed.")
        return math.log(level / start) / float(self.rates[0])

    def correction(self, start: float, level: float) -> float:
        """What the next order adds to `time`: −(c/2μ²)(level² − start²)."""
        self.time(start, level)
        return -self.bend / (2.0 * float(self.rates[0]) ** 2) * (level**2 - start**2)


def breaking(
    model: PyTree, objective: Objective, *symmetries: Symmetry, decay: float = 0.0
) -> Breaking:
    r"""The rates off a symmetric rest state, from the block of the Hessian that breaks it.

    At a rest state that is symmetric, ∇²L maps symmetric directions to symmetric ones and the
    others to others. Along the first of these Δ grows as e^{μt}, and beyond leading order as

        Δ' = μΔ + cΔ³,   c = −∇⁴L[e,e,e,e]/6 − ∇³L[e,e,w],   (2μ + ∇²L)w = −½∇³L[e,e]

    with w the response of the symmetric weights.

    **Arguments:** `model` with plain weights (`gflow.to_factors`), at a rest state; `objective` as
    in `gflow.simulate`; `symmetries`: one function or more, model ↦ model, that permute weights
    or turn them (orthogonal maps) and leave the loss as it is; `decay` λ ≥ 0 of all weights.

    **Raises:** ValueError for a state that is not symmetric or not at rest, for maps that are not
    linear and orthogonal, and for a loss that they change.
    **Cost:** the Hessian is taken whole. **Source:** derived.

    ```python
    swap = lambda model: jax.tree.map(lambda x: x[::-1], model)     # two heads change places
    off = breaking(rest, objective, swap)
    run = gflow.simulate(off.displaced(1e-6), objective, t1=900.0,
                         observables={"distance": off.distance})
    off.time(1e-6, 1e-2), off.correction(1e-6, 1e-2)
    ```
    """
    rate = number("decay", decay, "λ of all weights")
    if not rate >= 0.0:
        raise ValueError(f"decay = {decay}: λ is at least 0.")
    problem = flat(model)

    def loss(x: Array, rate: Array) -> Array:
        return objective(problem.at(x)) + 0.5 * rate * jnp.vdot(x, x)

    theta, lam = jnp.asarray(problem.start), jnp.asarray(rate)
    energy = traced(loss, theta, lam, what="The objective")
    kept, broken = _spaces(problem, symmetries, lambda x: float(_local(energy, x, lam)[0]))
    _, gradient, hessian = map(np.asarray, _local(energy, theta, lam))
    force, scale = np.linalg.norm(gradient), np.linalg.norm(hessian, 2) * np.linalg.norm(theta)
    if not force <= _SMALL * scale + np.finfo(float).tiny:
        raise ValueError(
            f"The state is not at rest: ‖∇L‖ = {force:.3g}, beside ‖∇²L‖‖θ‖ = {scale:.3g}. Bring "
            "it there, such as by gflow.simulate(model, objective).final."
        )
    values, vectors = np.linalg.eigh(broken.T @ hessian @ broken)
    rates, directions = -values, broken @ vectors
    tie = len(rates) > 1 and rates[0] - rates[1] <= _SMALL * np.max(np.abs(rates))
    bend = math.nan
    if rates[0] > 0.0 and not tie:
        third, fourth = map(np.asarray, _higher(energy, theta, lam, jnp.asarray(directions[:, 0])))
        bend = _bend(third, float(fourth), hessian, kept, rates[0], directions)
    return Breaking(rates, directions, bend, problem)


@eqx.filter_jit
def _local(energy: Traced, x: Array, rate: Array) -> tuple[Array, Array, Array]:
    """The loss, its gradient and its Hessian."""
    value, slope = jax.value_and_grad(energy)(x, rate)
    return value, slope, jax.hessian(energy)(x, rate)


@eqx.filter_jit
def _higher(energy: Traced, x: Array, rate: Array, e: Array) -> tuple[Array, Array]:
    """∇³L[e,e] and ∇⁴L[e,e,e,e]."""

    def along(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
        return lambda y: jax.jvp(function, (y,), (e,))[1]

    twice = along(along(lambda y: energy(y, rate)))
    return jax.grad(twice)(x), along(along(twice))(x)


@eqx.filter_jit
def _linear(image: Traced, x: Array) -> tuple[Array, Array]:
    """A map of the weights, and its derivative."""
    return image(x), jax.jacfwd(image)(x)


def _spaces(
    problem: Flat, symmetries: tuple[Symmetry, ...], loss: Callable[[Array], float]
) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal bases of the directions that all symmetries keep, and of the others."""
    if not symmetries:
        raise ValueError("breaking needs a symmetry: a function that takes the model to another.")
    theta = problem.start
    size = len(theta)
    other = theta + np.random.default_rng(0).normal(size=size)
    moved = []
    for symmetry in symmetries:

        def image(x: Array, symmetry: Symmetry = symmetry) -> Array:
            return problem.reading(symmetry(problem.at(x)))

        program = traced(image, jnp.asarray(theta), what="A symmetry")
        there, matrix = map(np.asarray, _linear(program, jnp.asarray(other)))
        if matrix.shape != (size, size):
            raise ValueError(
                f"A symmetry takes {size} weights to {len(matrix)}: it returns a model of the same "
                "shapes."
            )
        off = np.max(np.abs(matrix.T @ matrix - np.eye(size)))
        if off > _SMALL or np.max(np.abs(there - matrix @ other)) > _SMALL * np.max(np.abs(other)):
            raise ValueError(
                "A symmetry is no orthogonal map of the weights: it is to permute them, to turn "
                "them or to change signs."
            )
        before, after = (loss(jnp.asarray(x)) for x in (other, there))
        if not abs(before - after) <= _SMALL * max(abs(before), abs(after)):
            raise ValueError(
                f"A symmetry changes the loss, from {before:.6g} to {after:.6g} at a random model: "
                "it is none of this objective."
            )
        apart = np.linalg.norm(matrix @ theta - theta)
        if apart > _SMALL * np.linalg.norm(theta):
            raise ValueError(
                f"The state is not symmetric: a symmetry moves it by {apart:.3g}, and its norm is "
                f"{np.linalg.norm(theta):.3g}. Give the symmetric state, not one that left it."
            )
        moved.append(matrix - np.eye(size))
    _, values, right = svd(np.concatenate(moved), full_matrices=True)
    rank = int(np.sum(values > _SMALL))
    if rank == 0:
        raise ValueError("The symmetries leave every weight as it is: there is nothing to break.")
    return right[rank:].T, right[:rank].T


def _bend(
    third: np.ndarray,
    fourth: float,
    hessian: np.ndarray,
    kept: np.ndarray,
    rate: float,
    directions: np.ndarray,
) -> float:
    if np.linalg.norm(directions.T @ third) > _SMALL * np.linalg.norm(hessian):
        return math.nan
    if not kept.size:
        return -fourth / 6.0
    block = kept.T @ hessian @ kept + 2.0 * rate * np.eye(kept.shape[1])
    response = np.linalg.solve(block, -0.5 * kept.T @ third)
    return float(-fourth / 6.0 - (kept.T @ third) @ response)
