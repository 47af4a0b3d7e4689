"""A prediction for a model of two linear layers, whichever way its factors are held."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, PyTree

from gflow import Trajectory
from gflow.internal import Decay, Objective, elapsed_time, trained_leaves

from .._closed_form import Curve, Number
from .._factor_pairs import FactorPair, constant_decay, factor_pairs
from .._prediction import Prediction
from .._quadratic import Quadratic, quadratic
from ._lazy_to_rich import lazy_to_rich
from ._two_layer import (
    BALANCE_TOLERANCE,
    SOURCE,
    VALIDITY,
    RestingPoint,
    resting_point,
    two_layer,
)

Times = Float[np.ndarray, " times"]

#: Rounding of the closed form, relative to the target.
_ROUNDING = 1e-12
#: Rounding carries a run away from a saddle after some 30/rate; up to here it does not.
_AT_SADDLE = 10.0
#: Share of the smallest mode learned by which a run may be from where it ends.
_ENDED = 1e-3


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
    c, began = problem.curvature, elapsed_time(model)
    course = _course(pair, problem, rate / c)

    def product(t: Times) -> Float[np.ndarray, "times o i"]:
        return course.product(c * (t - began))

    def loss(t: Times) -> Times:
        return _loss(problem, product(t))

    scale = float(np.max(np.abs(problem.target)))
    slack, growth = problem.deviation + course.deviation, 2.0 * np.linalg.norm(problem.target, 2)

    def off(t: Times) -> Times:
        return scale * (_ROUNDING + slack * (1.0 + growth * c * (t - began)))

    def loss_off(t: Times) -> Times:
        reach = math.sqrt(2.0 * c * float(np.max(loss(t) - problem.floor, initial=0.0)))
        apart = math.sqrt(problem.target.size) * off(t)  # in the Frobenius norm
        return c * apart**2 + reach * math.sqrt(c) * apart + 1e-13 * abs(problem.floor)

    words = "rounding, and how far inputs and start are from white and balanced"
    last = began + _until(course.rest, c, rate)
    about: Any = {"source": course.source, "validity": course.validity}
    single = len(pair.leaves) == 1
    return Prediction.of(
        Curve(pair.name if single else "W2 W1", product, off, words, regime=(began, last),
              read=None if single else pair.read(_multiplied), **about),
        Curve("loss", loss, loss_off, words, regime=(began, last), **about),
        *_ends(pair, problem, course.rest, product, last, about),
        made_from=(model, objective),
        decay=decay,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class _Course:
    """W₂W₁ at the times of ½‖Σ − W₂W₁‖², where it rests, and how far from its kind the start is."""

    product: Callable[[Times], Float[np.ndarray, "times o i"]]
    rest: RestingPoint
    deviation: float
    source: str
    validity: str


def _course(pair: FactorPair, problem: Quadratic, rate: float) -> _Course:
    w1, w2, target = pair.right.T, pair.left, problem.target
    _check_size(pair)
    gain, apart = _orthogonal(w1, w2)
    if rate == 0.0 and gain > 0.0 and apart <= BALANCE_TOLERANCE:
        rank = int(np.linalg.matrix_rank(target))
        return _Course(
            lambda t: lazy_to_rich(target, gain, t), RestingPoint(target, 0.0, rank, np.zeros(0)),
            apart, "Tu, Aranguri, Jacot 2024 (2405.17580)",
            "two linear layers, squared loss, whitened inputs, W₂W₁ = 0, W₁ᵀW₁ = gI, W₂W₂ᵀ = gI",
        )  # fmt: skip
    rest = resting_point(w1, w2, target, rate)
    return _Course(
        lambda t: two_layer(w1, w2, target, t, rate), rest, _unbalanced(pair), SOURCE, VALIDITY
    )


def _orthogonal(w1: np.ndarray, w2: np.ndarray) -> tuple[float, float]:
    """g of W₁ᵀW₁ = gI = W₂W₂ᵀ, W₂W₁ = 0, and how far the start is from it, relative to g."""
    grams = w1.T @ w1, w2 @ w2.T
    gain = float(np.mean(np.concatenate([np.diagonal(x) for x in grams])))
    off = [float(np.max(np.abs(x - gain * np.eye(len(x))))) for x in grams]
    return gain, max(*off, float(np.max(np.abs(w2 @ w1)))) / gain if gain else math.inf


def _multiplied(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a @ b.swapaxes(-1, -2)


def _loss(problem: Quadratic, product: np.ndarray) -> np.ndarray:
    squares = np.sum((product - problem.target) ** 2, axis=(-2, -1))
    return np.asarray(problem.floor + 0.5 * problem.curvature * squares)


def _ends(
    pair: FactorPair,
    problem: Quadratic,
    rest: RestingPoint,
    product: Callable[[Times], np.ndarray],
    last: float,
    about: Any,
) -> list[Number]:
    """Rank and loss where the flow rests, read off a run that has come that far."""
    learned = np.linalg.svd(rest.product, compute_uv=False)
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
        w = np.asarray(pair.read(_multiplied)(run).value)[i]
        count = np.sum(np.linalg.svd(w, compute_uv=False) > 0.5 * smallest)
        return (float(count) if at_rest(run) else math.nan), 0.0

    def loss(run: Trajectory) -> tuple[float, float]:
        i = last_row(run)
        left = abs(float(_loss(problem, product(run.t[i : i + 1]))[0]) - ended)
        bar = run.error["loss"][i] if "loss" in run.error else math.nan
        return (float(run.loss[i]) if at_rest(run) else math.nan), float(bar) + left

    ended = float(_loss(problem, rest.product))
    zero = float(_loss(problem, np.zeros_like(rest.product)))
    gained = zero - ended if zero > ended else max(zero, np.finfo(float).tiny)
    words = "rounding of the loss at zero"
    return [
        Number("rank at rest", rest.rank, rank, **about),
        Number("loss at rest", ended, loss, _ROUNDING * zero, words, size=gained, **about),
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


def _unbalanced(pair: FactorPair) -> float:
    """‖G − λI‖ over ‖A‖² + ‖B‖²."""
    g = pair.left.T @ pair.left - pair.right.T @ pair.right
    size = float(np.sum(pair.left**2) + np.sum(pair.right**2))
    apart = float(np.linalg.norm(g - np.trace(g) / len(g) * np.eye(len(g))))
    return apart / size if size else 0.0


def _check_size(pair: FactorPair) -> None:
    size = max(float(np.max(np.abs(x))) for x in (pair.left, pair.right))
    if 0.0 < size < 1e-140:
        raise ValueError(
            f"The factors of {pair.name} are as small as {size:.2g}, and their squares underflow: "
            "whether they are balanced cannot be told. Take α ≥ 1e-140, or "
            "theory.gradual_rank.predict, whose limit holds there."
        )
