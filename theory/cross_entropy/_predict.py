"""A prediction for two linear layers on one-hot inputs, whichever way their factors are held."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import PyTree

from gflow import Trajectory, stop
from gflow.internal import Decay, elapsed_time, one_thread, trained_leaves
from gflow.objectives import CrossEntropy

from .._closed_form import Curve, Number
from .._factor_pairs import FactorPair, constant_decay, factor_pairs
from .._prediction import Prediction
from ..weight_decay import lookup_course
from ._etf import SOURCE, etf_logit, etf_loss, etf_time
from ._hadamard import hadamard_logits, hadamard_loss, hadamard_modes

#: How far a start may be from those with few unknowns, relative to its size.
_DEVIATION = 1e-11
_ROUNDING = 1e-12
#: To which the numbers of a start are integrated that has no closed form.
_INTEGRATED = 2e-11
#: Roundings of ln a₀ that steps on a plateau add up.
_ROUNDINGS = 100
_WORDS = "rounding, of ln a(0) as well, and how far the start is from the one assumed"


class _Course(NamedTuple):
    """Times ↦ the numbers that move, these ↦ logits by class and ↦ loss; and what was assumed.

    `half`: when the loss is half of ln K, NaN if it starts below or is not known in closed form.
    """

    numbers: Callable[[np.ndarray], np.ndarray]
    logits: Callable[[np.ndarray], np.ndarray]
    loss: Callable[[np.ndarray], np.ndarray]
    accuracy: float
    validity: str
    half: float = math.nan


@one_thread
def predict(model: PyTree, objective: CrossEntropy, *, decay: Decay = 0.0) -> Prediction:
    r"""Two linear layers from `etf_start` or `hadamard_start`: W₂W₁ and the loss at every time.

    **Arguments:** `model`: one product A Bᵀ of trained factors (`gflow.models.FactoredLinear` of a
    `gflow.Factored`, or a `gflow.models.DeepLinear` of two plain weights), nothing else trained;
    `objective`: `gflow.objectives.CrossEntropy` of the K one-hot inputs, each as often as any
    other, with a label of its own; any reduction. `decay`: a constant rate of both factors.

    **Returns:** a `Prediction` with the curves of the product (named after the leaf, or "W2 W1")
    and of "loss". From an equiangular start without decay all K − 1 modes switch on at one time,
    "half-drop", when the loss is half of ln K and a = ln(1 + √K): t = (K/2) ln(1/a₀) + O(1).

    **Raises:** ValueError for another model, other data, a start of neither kind, or off balance,
    another decay.

    **Regime:** exact, any t; the network is not simulated: K numbers of a Hadamard start, or one
    of an equiangular one with decay, are integrated, and without decay that one is a closed form.
    **Source:** as `etf_logit`, `hadamard_modes` and `theory.weight_decay.lookup_course`.

    ```python
    prediction = theory.cross_entropy.predict(model, objective)
    print(theory.compare(gflow.simulate(model, objective, t1=100.0), prediction))
    ```
    """
    pair = _only_pair(model)
    classes = _labels(objective, pair.right.shape[0])
    count = objective.labels.shape[0] if objective.reduction.endswith("sum") else 1
    rate = count * (0.5 if objective.reduction.startswith("half") else 1.0)
    slowed = constant_decay(pair, decay) / rate
    course = _course(pair, classes, slowed)
    began = elapsed_time(model)

    def numbers(t):
        return course.numbers(rate * (t - began))

    def product(t):
        logits = course.logits(numbers(t))
        return logits[:, np.argsort(classes)]

    def loss(t):
        return rate * course.loss(numbers(t))

    def off(t):
        largest = np.max(np.abs(numbers(t).reshape(len(t), -1)), axis=1)
        return largest * course.accuracy

    def loss_off(t):  # the slope of ln L in a logit is at most one
        return loss(t) * (_ROUNDING + off(t))

    about: Any = {"source": SOURCE, "validity": course.validity}
    single = len(pair.leaves) == 1
    read = None if single else pair.read(lambda a, b: a @ b.swapaxes(-1, -2))
    name = pair.name if single else "W2 W1"
    numbers_of = [] if math.isnan(course.half) else [_half(course, rate, began, len(classes))]
    return Prediction.of(
        *numbers_of,
        Curve(name, product, off, _WORDS, read=read, regime=(began, np.inf), **about),
        Curve("loss", loss, loss_off, _WORDS, regime=(began, np.inf), **about),
        made_from=(model, objective),
        decay=decay,
    )


def _half(course: _Course, rate: float, began: float, classes: int) -> Number:
    """When the loss has halved."""

    def read(run: Trajectory) -> tuple[float, float]:
        try:
            found = run.crossing(stop.loss_below(0.5 * rate * math.log(classes)))
        except ValueError:  # it does not come so far
            return math.nan, math.nan
        return found.t, found.error

    time = began + course.half / rate
    return Number(
        "half-drop", time, read, time * course.accuracy, _WORDS, SOURCE,
        course.validity, unit="flow time",
    )  # fmt: skip


def _course(pair: FactorPair, classes: np.ndarray, decay: float) -> _Course:
    """**Raises:** ValueError for a start of neither kind."""
    a, b, top = _factors(pair, classes)
    k = len(classes)
    size = float(np.trace(a @ b.T)) / (k - 1.0)
    simplex = np.eye(k) - 1.0 / k
    apart = _apart(a, b, size * simplex)
    if size > 0.0 and apart <= _DEVIATION * size:
        start, half = size * top**2, math.log1p(math.sqrt(k))

        def logit(t):
            if decay == 0.0:
                return etf_logit(k, start, t)
            return lookup_course(start, k, decay, t)

        return _Course(
            logit,
            lambda x: x[:, None, None] * simplex,
            lambda x: etf_loss(k, x),
            _accuracy(decay == 0.0, start, apart / size),
            "W₂W₁ = a (I − 11ᵀ/K), balanced, one-hot inputs",
            float(etf_time(k, start, half)) if decay == 0.0 and start < half else math.nan,
        )
    if k & (k - 1) == 0:
        h = hadamard_logits(np.eye(k)) * k
        modes = np.einsum("mij,ij->m", h, a @ b.T) / k
        found = float(np.max(modes))
        off = _apart(a, b, hadamard_logits(np.maximum(modes, 0.0)))
        # zeros of a start are zeros of the network, and rounding would grow
        modes = np.where(modes > _DEVIATION * found, modes, 0.0)
        if found > 0.0 and off <= _DEVIATION * found:
            return _Course(
                lambda t: hadamard_modes(modes * top**2, t, decay),
                hadamard_logits,
                hadamard_loss,
                _accuracy(False, found * top**2, off / found),
                "W₂W₁ = H diag(a) H/K, balanced, one-hot inputs",
            )
    raise ValueError(
        f"The start is off a (I − 11ᵀ/K), or off balance, by {apart:.2g} where a = {size:.2g} (of "
        "the largest weight squared), and of no Hadamard basis. Make one with theory.cross_entropy."
        "etf_start or hadamard_start; a random one follows neither before it is aligned."
    )


def _accuracy(closed: bool, size: float, deviation: float) -> float:
    """Of the logits, relative to them."""
    rounding = 0.5 * _ROUNDINGS * np.finfo(float).eps * abs(math.log(size))
    return (_ROUNDING if closed else _INTEGRATED) + rounding + 2.0 * deviation


def _factors(pair: FactorPair, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """A, rows in the order of labels, and B over their largest entry, and that."""
    if len(pair.left) != len(classes):
        raise ValueError(
            f"The model has {len(pair.left)} logits for {len(classes)} inputs: there must be K of "
            "both."
        )
    a, b = pair.left[classes], pair.right
    top = max(float(np.max(np.abs(a))), float(np.max(np.abs(b))))
    if top == 0.0:
        raise ValueError("The start is zero, where the flow rests: see etf_start.")
    return a / top, b / top, top


def _apart(a: np.ndarray, b: np.ndarray, product: np.ndarray) -> float:
    """How far A Bᵀ is from a product, and A from balance with B."""
    return float(np.linalg.norm(a @ b.T - product) + np.linalg.norm(a.T @ a - b.T @ b))


def _only_pair(model: PyTree) -> FactorPair:
    pairs, trained = factor_pairs(model), list(trained_leaves(model))
    if len(pairs) != 1 or not pairs[0].whole or set(pairs[0].leaves) != set(trained):
        raise ValueError(
            "The closed form is of one product of two trained factors, W = A Bᵀ; this model "
            f"trains {', '.join(trained)}. Build it as gflow.models.FactoredLinear of a "
            "gflow.Factored, or as gflow.models.DeepLinear of two plain weights."
        )
    if pairs[0].left.ndim != 2:
        raise ValueError(f"{pairs[0].name} has heads: the closed form is of one matrix.")
    return pairs[0]


def _labels(objective: CrossEntropy, classes: int) -> np.ndarray:
    """The label of each of the K inputs."""
    if not isinstance(objective, CrossEntropy):
        raise ValueError(
            f"objective is a {type(objective).__name__}: the closed form is of "
            "gflow.objectives.CrossEntropy(np.eye(K), np.arange(K))."
        )
    x, y = np.asarray(objective.inputs), np.asarray(objective.labels)
    one_hot = x.ndim == 2 and x.shape[1] == classes and y.ndim == 1
    one_hot = one_hot and bool(np.all(np.sort(x, axis=1) == np.eye(classes)[-1]))
    # as a table of inputs and labels: one multiple of a permutation
    if one_hot and np.all((y >= 0) & (y < classes)):
        table = x.T @ np.eye(classes)[y]
        if np.all(np.sort(table, axis=1) == np.eye(classes)[-1] * len(y) / classes) and np.all(
            np.sum(table, axis=0) == len(y) / classes
        ):
            return np.argmax(table, axis=1)
    raise ValueError(
        f"inputs of shape {x.shape}: the closed form is of the {classes} one-hot inputs of the "
        "model, each as often as any other and with a label of its own, such as "
        f"gflow.objectives.CrossEntropy(np.eye({classes}), np.arange({classes}))."
    )
