"""Problems with a prediction, their runs, and predictions of other starts and other data."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import gflow
import theory
from gflow.models import DiagonalAttention, DiagonalLinear, SoftmaxAttention
from gflow.objectives import SquaredLoss
from theory._prediction import Prediction

LOG10 = math.log(10.0)


@dataclasses.dataclass(frozen=True, eq=False)
class Family:
    """A problem with a prediction, its runs, and predictions of other starts and other data."""

    name: str
    model: Any
    objective: Any
    predict: Callable[[Any, Any], Prediction]
    elsewhere: tuple[tuple[str, str, Any, Any], ...]

    @functools.cached_property
    def prediction(self) -> Prediction:
        return self.predict(self.model, self.objective)

    @functools.cached_property
    def others(self) -> list[tuple[str, str, Prediction]]:
        return [(n, key, self.predict(m, o)) for n, key, m, o in self.elsewhere]

    @functools.cached_property
    def runs(self) -> dict[int, gflow.Trajectory]:
        return {}

    def run(self, decades: int) -> gflow.Trajectory:
        if decades not in self.runs:
            self.runs[decades] = self._simulated(decades)
        return self.runs[decades]

    def _simulated(self, decades: int) -> gflow.Trajectory:
        model = gflow.rescale(self.model, -decades * LOG10)
        # room for the last orbit, which takes the longer in τ the larger α is
        last = self.prediction.stages[-1]
        end = 1.2 * last.tau + 60.0 / (last.rate * decades * LOG10)
        return gflow.simulate(model, self.objective, tau1=end, rtol=1e-9)


def limit(model: Any, objective: Any) -> Prediction:
    return theory.gradual_rank.predict(model, objective)


@functools.cache
def fixture() -> Family:
    """Three steps, the second with a deactivation."""
    X = np.array([[1, 0.5, 0.7, 0], [0.5, 1, 0.1, 0.7], [0, 0, 0, 0], [0, 0, 0, 0]])

    def objective(a):
        return SquaredLoss(jnp.asarray(X), jnp.array([a, 0, 0, 0]), "half_sum")

    def model(last):
        logs = [jnp.log(jnp.array(f)) for f in ((0.6, 1.7, 1.0, 0.8), (1.2, 0.7, 1.9, last))]
        scales = {n: x - 30 * LOG10 for n, x in zip(("log_s", "log_d"), logs, strict=True)}
        return DiagonalLinear(gflow.Hadamard.from_scales(**scales, log_alpha=-30 * LOG10))

    elsewhere = (
        ("other factors", "start.factors", model(0.95), objective(1.0)),
        ("other data", "start.data", model(0.9), objective(1.02)),
    )
    return Family("fixture", model(0.9), objective(1.0), limit, elsewhere)


@functools.cache
def path() -> Family:
    """The fixture by constrained least squares: limits without C."""
    base = fixture()

    def predict(model, objective):
        X, y = (np.asarray(x) for x in (objective.inputs, objective.targets))
        return theory.saddle_to_saddle.predict(X, y, "half_sum")

    other = tuple(e for e in base.elsewhere if e[1] == "start.data")
    return Family("saddle_to_saddle", base.model, base.objective, predict, other)


def _four_weights(name: str, objective: Callable[[float], Any], a: float) -> Family:
    """A linear model of four Hadamard weights on the data of `a`."""

    def model(seed):
        leaf = gflow.Hadamard.small(4, log_alpha=-30 * LOG10, key=jax.random.key(seed))
        return DiagonalLinear(leaf)

    elsewhere = (
        ("other factors", "start.factors", model(1), objective(a)),
        ("other data", "start.data", model(0), objective(a + 0.04)),
    )
    return Family(name, model(0), objective(a), limit, elsewhere)


@functools.cache
def regression() -> Family:
    """Four correlated features and noise."""
    rng = np.random.default_rng(3)
    X = jnp.asarray(rng.standard_normal((30, 4)) @ np.linalg.cholesky(0.3 + 0.7 * np.eye(4)).T)
    noise = jnp.asarray(0.3 * rng.standard_normal(30))

    def objective(a):
        return SquaredLoss(X, X @ jnp.array([a, -1.2, 0.7, 0.4]) + noise)

    return _four_weights("regression", objective, 2.0)


@functools.cache
def diagonal_head() -> Family:
    """One softmax head with diagonal weights."""
    inputs = jnp.asarray(np.random.default_rng(2).standard_normal((40, 4, 3)))

    def objective(a):
        kq, vo = jnp.array([[a, 0.5, -0.6]]), jnp.array([[1.0, -0.7, 0.4]])
        teacher = DiagonalAttention(gflow.Frozen(kq), gflow.Frozen(vo))
        return SquaredLoss(inputs, jax.vmap(teacher)(inputs))

    def model(seed):
        keys = jax.random.split(jax.random.key(seed))
        leaves = (gflow.Hadamard.small((1, 3), log_alpha=-30 * LOG10, key=k) for k in keys)
        return DiagonalAttention(*leaves)

    elsewhere = (
        ("other factors", "start.factors", model(1), objective(1.3)),
        ("other data", "start.data", model(0), objective(1.35)),
    )
    return Family("diagonal head", model(0), objective(1.3), limit, elsewhere)


class Leaf(eqx.Module):
    """One matrix and, or nothing, weights beside it."""

    matrix: gflow.Factored
    weight: gflow.Hadamard | None = None


class Quadratic(eqx.Module):
    """½⟨w − target, K(w − target)⟩ of all weights of a Leaf."""

    kernel: jax.Array
    target: jax.Array

    def __call__(self, model: Leaf) -> jax.Array:
        parts = [model.matrix.value.ravel()]
        if model.weight is not None:
            parts.append(model.weight.value.ravel())
        rest = jnp.concatenate(parts) - self.target
        return 0.5 * jnp.dot(rest, jnp.matmul(self.kernel, rest))


def _quadratic(name: str, seed: int, weights: int) -> Family:
    size = 9 + weights
    root = np.random.default_rng(seed).standard_normal((size, size))
    kernel = jnp.asarray(root @ root.T / size + 0.5 * np.eye(size))
    target = np.random.default_rng(seed + 1).standard_normal(size)

    def objective(a):
        return Quadratic(kernel, jnp.asarray(a * target))

    def model(start):
        keys = jax.random.split(jax.random.key(start))
        matrix = gflow.Factored.small((3, 3), 3, log_alpha=-30 * LOG10, key=keys[0])
        if not weights:
            return Leaf(matrix)
        return Leaf(matrix, gflow.Hadamard.small(weights, log_alpha=-30 * LOG10, key=keys[1]))

    elsewhere = (
        ("other factors", "start.factors", model(1), objective(1.0)),
        ("other data", "start.data", model(0), objective(1.02)),
    )
    return Family(name, model(0), objective(1.0), limit, elsewhere)


@functools.cache
def matrix() -> Family:
    """A full 3 × 3 matrix on a quadratic loss."""
    return _quadratic("matrix", 7, 0)


@functools.cache
def mixed() -> Family:
    """A matrix beside three Hadamard weights."""
    return _quadratic("mixed", 5, 3)


@functools.cache
def copies() -> Family:
    """Three features, the first in two equal columns: both weights learn it, in kept shares."""
    features = np.random.default_rng(4).standard_normal((30, 3)) @ np.diag([1.0, 0.8, 1.1])
    X = jnp.asarray(features[:, [0, 0, 1, 2]])

    def objective(a):
        return SquaredLoss(X, X[:, 1:] @ jnp.array([a, -0.9, 0.5]))

    return _four_weights("copies", objective, 1.6)


@functools.cache
def full_head() -> Family:
    """One softmax head with full matrices."""
    rng = np.random.default_rng(1)
    inputs = jnp.asarray(rng.standard_normal((48, 5, 3)))
    kq, vo = (rng.standard_normal((3, 2)) @ rng.standard_normal((2, 3)) for _ in range(2))

    def objective(a):
        teacher = SoftmaxAttention(
            gflow.Frozen(jnp.asarray(0.6 * a * kq)), gflow.Frozen(jnp.asarray(vo))
        )
        return SquaredLoss(inputs, jax.vmap(teacher)(inputs))

    def model(seed):
        keys = jax.random.split(jax.random.key(seed))
        leaves = [gflow.Factored.small((3, 3), 2, log_alpha=-30 * LOG10, key=k) for k in keys]
        return SoftmaxAttention(leaves[0], leaves[1])

    elsewhere = (
        ("other factors", "start.factors", model(1), objective(1.0)),
        ("other data", "start.data", model(0), objective(1.02)),
    )
    return Family("full head", model(0), objective(1.0), limit, elsewhere)


FAMILIES = (fixture, path, regression, diagonal_head, matrix, mixed, full_head, copies)
