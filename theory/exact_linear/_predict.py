"""A prediction for a model of two linear layers, whichever way its factors are held."""

import math
from typing import Any

import numpy as np
from jaxtyping import PyTree

from gflow import Trajectory
from gflow.internal import Decay, Objective, elapsed_time, one_thread, trained_leaves

from .._closed_form import Number
from .._factor_pairs import FactorPair, constant_decay, factor_pairs
from .._prediction import Prediction
from .._quadratic import Quadratic, quadratic
from ._course import ROUNDING, Course, curves, loss_of, multiplied, on_clock, unbalanced
from ._lazy_to_rich import lazy_to_rich
from ._two_layer import (
    BALANCE_TOLERANCE,
    SOURCE,
    VALIDITY,
    RestingPoint,
    resting_point,
    two_layer,
)

#: Rounding carries a run away from a saddle after some 30/rate; up to here it does not.
_AT_SADDLE = 10.0
#: Share of the smallest mode learned by which a run may be from where it ends.
_ENDED = 1e-3


@one_thread
def predict(model: PyTree, objective: Objective, *, decay: Decay = 0.0) -> Prediction:
    r"""Two linear layers: W₂W₁ and the loss at every time, and where they rest.

    From a λ-balanced start (`two_layer`), or one of `orthogonal_start` (`lazy_to_rich`).

    **Arguments:** `model`: one product A Bᵀ of trained factors (`gflow.Factored`,
    `gflow.Product` or plain factors, as in `gflow.models.FactoredLinear`, or a
    `gflow.models.DeepLinear` of two plain weights, W₂ = A, W₁ = Bᵀ), nothing else trained;
    `objective`: ½c‖A Bᵀ − Σ‖² + const: a squared loss of a linear map with white inputs, which is
    found from its force. `decay` γ: one number for both factors.

    **Returns:** a `Prediction` with the curves of the product (named after the leaf, or
    "W2 W1") and of "loss", and the numbers "rank at rest" and "loss at rest". A start that misses
    modes (see `resting_point`) is followed to its saddle, and up to 10/rate there.

    **Raises:** ValueError for another model, a loss that is not quadratic, inputs that are not
    white, a start of neither kind, decay with λ ≠ 0 or one that depends on time.

    **Regime:** exact, any t; nothing is simulated. **Source:** as `two_layer`.

    ```python
    prediction = theory.exact_linear.predict(model, objective)
    print(theory.compare(gflow.simulate(model, objective, t1=10.0), prediction))
    ```
    """
    pair = _only_pair(model)
    rate, problem = constant_decay(pair, decay), quadratic(model, pair, objective)
    course, rest = _course(pair, problem, rate / problem.curvature)
    began = elapsed_time(model)
    last = began + _until(rest, problem.curvature, rate)
    return Prediction.of(
        *curves(pair, problem, course, began, last),
        *_ends(pair, problem, course, rest, began, last),
        made_from=(model, objective),
        decay=decay,
    )


def _course(pair: FactorPair, problem: Quadratic, rate: float) -> tuple[Course, RestingPoint]:
    w1, w2, target = pair.right.T, pair.left, problem.target
    _check_size(pair)
    gain, apart = _orthogonal(w1, w2)
    if rate == 0.0 and gain > 0.0 and apart <= BALANCE_TOLERANCE:
        rank = int(np.linalg.matrix_rank(target))
        course = Course(
            lambda t: lazy_to_rich(target, gain, t), apart,
            "Tu, Aranguri, Jacot 2024 (2405.17580)",
            "two linear layers, squared loss, whitened inputs, W₂W₁ = 0, W₁ᵀW₁ = gI, W₂W₂ᵀ = gI",
        )  # fmt: skip
        return course, RestingPoint(target, 0.0, rank, np.zeros(0))
    rest = resting_point(w1, w2, target, rate)
    course = Course(
        lambda t: two_layer(w1, w2, target, t, rate), unbalanced(pair), SOURCE, VALIDITY
    )
    return course, rest


def _orthogonal(w1: np.ndarray, w2: np.ndarray) -> tuple[float, float]:
    """g of W₁ᵀW₁ = gI = W₂W₂ᵀ, W₂W₁ = 0, and how far the start is from it, relative to g."""
    grams = w1.T @ w1, w2 @ w2.T
    gain = float(np.mean(np.concatenate([np.diagonal(x) for x in grams])))
    off = [float(np.max(np.abs(x - gain * np.eye(len(x))))) for x in grams]
    return gain, max(*off, float(np.max(np.abs(w2 @ w1)))) / gain if gain else math.inf


def _ends(
    pair: FactorPair,
    problem: Quadratic,
    course: Course,
    rest: RestingPoint,
    began: float,
    last: float,
) -> list[Number]:
    """Rank and loss where the flow rests, read off a run that has come that far."""
    product = on_clock(course, problem, began)
    learned = np.linalg.svdvals(rest.product)
    smallest = float(np.min(learned[: rest.rank])) if rest.rank else float(
        np.max(np.abs(problem.target)))  # fmt: skip

    def at_rest(run: Trajectory) -> bool:
        end = min(float(run.t[-1]), last)
        return float(np.linalg.norm(product(np.array([end]))[0] - rest.product)) <= (
            _ENDED * smallest
        )

    def last_row(run: Trajectory) -> int:
        return int(np.flatnonzero(run.t <= last)[-1])

    def rank(run: Trajectory) -> tuple[float, float]:
        i = last_row(run)
        w = np.asarray(pair.read(multiplied)(run).value)[i]
        count = np.sum(np.linalg.svdvals(w) > 0.5 * smallest)
        return (float(count) if at_rest(run) else math.nan), 0.0

    def loss(run: Trajectory) -> tuple[float, float]:
        i = last_row(run)
        left = abs(float(loss_of(problem, product(run.t[i : i + 1]))[0]) - ended)
        bar = run.error["loss"][i] if "loss" in run.error else math.nan
        return (float(run.loss[i]) if at_rest(run) else math.nan), float(bar) + left

    ended = float(loss_of(problem, rest.product))
    zero = float(loss_of(problem, np.zeros_like(rest.product)))
    gained = zero - ended if zero > ended else max(zero, np.finfo(float).tiny)
    words = "rounding of the loss at zero"
    about: Any = {"source": course.source, "validity": course.validity}
    return [
        Number("rank at rest", rest.rank, rank, **about),
        Number("loss at rest", ended, loss, ROUNDING * zero, words, size=gained, **about),
    ]


def _until(rest: RestingPoint, c: float, decay: float) -> float:
    if rest.is_minimum:
        return math.inf
    return _AT_SADDLE / (c * float(np.max(rest.missed)) - decay)


def _only_pair(model: PyTree) -> FactorPair:
    pairs, trained = factor_pairs(model), list(trained_leaves(model))
    if len(pairs) != 1 or not pairs[0].whole or set(pairs[0].leaves) != set(trained):
        raise ValueError(
            f"The closed form is of one product of two trained factors, W = A Bᵀ; this model "
            f"trains {', '.join(trained)}. Build it as gflow.models.FactoredLinear of a "
            "gflow.Factored, or as gflow.models.DeepLinear of two plain weights, and freeze the "
            "rest (gflow.Frozen)."
        )
    if pairs[0].left.ndim != 2:
        raise ValueError(f"{pairs[0].name} has heads: the closed form is of one matrix.")
    return pairs[0]


def _check_size(pair: FactorPair) -> None:
    size = max(float(np.max(np.abs(x))) for x in (pair.left, pair.right))
    if 0.0 < size < 1e-140:
        raise ValueError(
            f"The factors of {pair.name} are as small as {size:.2g}, and their squares underflow: "
            "whether they are balanced cannot be told. Take α ≥ 1e-140, or "
            "theory.gradual_rank.predict, whose limit holds there."
        )
