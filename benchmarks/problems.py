r"""The problems: a model for gflow, the same flow for the others, and when to compare.

Every problem keeps its O(1) initial factors at all α, and runs to t1 = τ1·log(1/α).
"""

import dataclasses
from collections.abc import Callable
from functools import cache, cached_property
from typing import Any

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

import gflow
import theory

from .formulations import Factors, Formulation, dual, raw, raw_jacobian
from .grids import EXPONENTS, LOG10, POINTS, evaluation_times
from .landscapes import Landscape, Quadratic, SoftmaxHead
from .networks import MatrixFactorisation


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """A flow that can be started at any scale α.

    - `model(log_alpha, key)`, `objective`: what `gflow.simulate` takes.
    - `read(trajectory)`: effective weights (times, p) of its result.
    - `raw(model)`, `dual(model)`: formulations for the others; None where one does not
      exist (raw factors below the float range, dual coordinates of plain weights).
    - `tau1`: horizon. `jumps(log_alpha)`: predicted times of the jumps, and growth rates.
    - `exponents`: the −log₁₀ α it is run at.
    """

    name: str
    model: Callable[[float, PRNGKeyArray], Any]
    objective: Any
    read: Callable[[gflow.Trajectory], np.ndarray]
    raw: Callable[[Any], Formulation | None]
    dual: Callable[[Any], Formulation | None]
    tau1: float
    jumps: Callable[[float], tuple[np.ndarray, np.ndarray]]
    exponents: tuple[int, ...]

    def at(self, exponent: int, *, across: bool = False, seed: int = 0) -> "Case":
        """The problem at α = 10^−exponent; `across` compares at the jumps as well."""
        return Case(self, exponent, across, seed)


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """One problem at one α, with the times at which it is evaluated (those of seed 0).

    `end_only`: at its end and nowhere else.
    """

    problem: Problem
    exponent: int
    across: bool = False
    seed: int = 0
    end_only: bool = False

    @property
    def key(self) -> tuple[str, int, bool, int, bool]:
        return self.problem.name, self.exponent, self.across, self.seed, self.end_only

    @property
    def log_alpha(self) -> float:
        return -self.exponent * LOG10

    @property
    def t1(self) -> float:
        return self.problem.tau1 * -self.log_alpha

    @cached_property
    def _grid(self) -> tuple[np.ndarray, bool]:
        if self.end_only:
            return np.array([self.t1]), False
        if self.across:
            return np.linspace(0.0, self.t1, POINTS + 1)[1:], False
        return evaluation_times(*self.problem.jumps(self.log_alpha), self.t1)

    @property
    def times(self) -> np.ndarray:
        return self._grid[0]

    @property
    def off_jumps(self) -> bool:
        """Whether `times` keep away from the jumps."""
        return self._grid[1]

    @cached_property
    def model(self) -> Any:
        return self.problem.model(self.log_alpha, jax.random.key(self.seed))

    @cached_property
    def raw(self) -> Formulation | None:
        return self.problem.raw(self.model)

    @cached_property
    def dual(self) -> Formulation | None:
        return self.problem.dual(self.model)


def _hadamard(
    name: str,
    shapes: dict[str, tuple[int, ...]],
    build: Callable[..., Any],
    objective: Any,
    landscape: Landscape,
    exponents: tuple[int, ...],
) -> Problem:
    """A problem whose trained leaves are Hadamard; it ends a quarter after its last stage."""

    def model(log_alpha, key):
        keys = jax.random.split(key, len(shapes))
        return build(
            *(
                gflow.Hadamard.small(shape, log_alpha=log_alpha, key=k)
                for shape, k in zip(shapes.values(), keys, strict=True)
            )
        )

    # stage times and saddles do not depend on α
    prediction = theory.gradual_rank.predict(
        model(-32 * LOG10, jax.random.key(0)), objective, rtol=1e-8
    )
    saddles = [
        np.concatenate([np.ravel(v) for v in stage.value.values()]) for stage in prediction.stages
    ]
    rates = np.array([stage.rate for stage in prediction.stages])
    sharpness = max(_sharpness(landscape, theta) for theta in saddles)

    def factors(model):
        return Factors.of([getattr(model, leaf) for leaf in shapes])

    def raw_of(model):
        start = factors(model)
        return raw(landscape, start, sharpness) if start.representable else None

    return Problem(
        name=name,
        model=model,
        objective=objective,
        read=lambda run: np.concatenate(
            [run.observables[leaf].reshape(len(run.t), -1) for leaf in shapes], axis=-1
        ),
        raw=raw_of,
        dual=lambda model: dual(landscape, factors(model)),
        tau1=1.25 * prediction.stages[-1].tau,
        jumps=lambda log_alpha: (prediction.at(log_alpha).t, rates),
        exponents=exponents,
    )


def _sharpness(landscape: Landscape, theta: np.ndarray) -> float:
    """Largest eigenvalue of the Hessian in balanced factors |u| = |v| at a saddle."""
    v = np.sqrt(np.abs(theta))
    return float(-np.min(np.linalg.eigvalsh(raw_jacobian(landscape, np.sign(theta) * v, v))))


def zhao() -> Problem:
    """Two examples, four weights, one of which switches off again."""
    task = gflow.tasks.zhao_fixture()
    return _hadamard(
        "zhao", {"weight": (4,)}, gflow.models.DiagonalLinear, task.objective,
        Quadratic.of(task.inputs, task.targets), (2, 4, 8, 16, 100, 300, 1_000_000),
    )  # fmt: skip


#: Non-zero entries of the regression's teacher: six well-separated transitions.
TEACHER = (2.0, -1.6, 1.25, -1.0, 0.8, -0.65)


def regression(p: int, exponents: tuple[int, ...], seed: int = 0) -> Problem:
    """p weights, 4000 Gaussian examples, six of the weights in the teacher.

    The examples enter through the triangular factor R of X = QR (RᵀR = XᵀX), which leaves
    the flow unchanged; a thousand weights through their moments, one product a gradient, as in
    the loops by hand.
    """
    rng = np.random.default_rng(seed)
    examples = rng.standard_normal((4000, p)) / np.sqrt(4000)
    R = np.asarray(np.linalg.qr(examples, mode="r"))
    teacher = np.zeros(p)
    teacher[rng.permutation(p)[: len(TEACHER)]] = TEACHER
    objective = gflow.objectives.SquaredLoss(R, R @ teacher, "half_sum")
    if p >= 1000:
        objective = gflow.objectives.QuadraticLoss(R.T @ R, teacher)
    return _hadamard(
        f"regression-{p}", {"weight": (p,)}, gflow.models.DiagonalLinear, objective,
        Quadratic.of(R, R @ teacher), exponents,
    )  # fmt: skip


def softmax_head() -> Problem:
    """One diagonal softmax head learns a teacher of its form: 4 + 4 weights, six stages."""
    task = gflow.tasks.teacher_student(key=jax.random.key(0))
    return _hadamard(
        "softmax", {"kq": (1, 4), "vo": (1, 4)}, gflow.models.DiagonalAttention, task.objective,
        SoftmaxHead(np.asarray(task.inputs), np.asarray(task.targets)),
        (4, 16, 100, 300, 1_000_000),
    )  # fmt: skip


def diabetes() -> Problem:
    """442 patients, ten measurements, eleven stages with a deactivation."""
    task = gflow.tasks.diabetes()
    return _hadamard(
        "diabetes", {"weight": (10,)}, gflow.models.DiagonalLinear, task.objective,
        Quadratic.of(task.inputs, task.targets), (4, 16, 100, 300, 1_000_000),
    )  # fmt: skip


def deep_linear() -> Problem:
    """W₂W₁ learns a 20×20 matrix of rank five: 800 plain weights.

    Below α = 10⁻⁸ there is no answer in float64 to compare with: the dormant directions
    share their matrix entries with the active ones and sink below their rounding.
    """
    matrices = MatrixFactorisation.draw(20, (3.0, 2.2, 1.6, 1.2, 0.9))
    return Problem(
        name="deep-linear",
        model=matrices.model,
        objective=matrices.objective,
        read=matrices.of_trajectory,
        raw=matrices.raw,
        dual=lambda model: None,
        tau1=1.25 / 0.9,
        jumps=lambda log_alpha: (np.zeros(0), np.zeros(0)),
        exponents=(2, 4, 8),
    )


MAIN = "regression-10"


@cache
def problem(name: str) -> Problem:
    """The problem of this name, made once."""
    return PROBLEMS[name]()


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "zhao": zhao,
    MAIN: lambda: regression(10, EXPONENTS),
    "regression-100": lambda: regression(100, (4, 16, 100, 10_000)),
    "regression-1000": lambda: regression(1000, (4, 16, 100)),
    "softmax": softmax_head,
    "diabetes": diabetes,
    "deep-linear": deep_linear,
}
