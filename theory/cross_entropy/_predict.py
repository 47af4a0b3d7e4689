"""A prediction for two linear layers on one-hot inputs, whichever way their factors are held."""

from typing import Any

import numpy as np
from jaxtyping import PyTree

from gflow.internal import Decay, elapsed_time, one_thread, trained_leaves
from gflow.objectives import CrossEntropy

from .._closed_form import Curve
from .._factor_pairs import FactorPair, constant_decay, factor_pairs
from .._prediction import Prediction
from ._etf import SOURCE, etf_logit, etf_loss

#: How far a start may be from the equiangular one, relative to its size.
_DEVIATION = 1e-11
_ROUNDING = 1e-12
_WORDS = "rounding, and how far the start is from the equiangular one, relative to the logit"


@one_thread
def predict(model: PyTree, objective: CrossEntropy, *, decay: Decay = 0.0) -> Prediction:
    r"""Two linear layers from `etf_start` on one-hot inputs: W₂W₁ and the loss at every time.

    **Arguments:** `model`: one product A Bᵀ of trained factors (`gflow.models.FactoredLinear` of a
    `gflow.Factored`, or a `gflow.models.DeepLinear` of two plain weights), nothing else trained;
    `objective`: `gflow.objectives.CrossEntropy` of the K one-hot inputs, each as often as any
    other, with a label of its own; any reduction. `decay`: 0.

    **Returns:** a `Prediction` with the curves of the product (named after the leaf, or "W2 W1")
    and of "loss".

    **Raises:** ValueError for another model, other data, a start that is not equiangular and
    balanced, decay (of which `etf_rest` has the end).

    **Regime:** exact, any t; nothing is simulated. **Source:** as `etf_logit`.

    ```python
    prediction = theory.cross_entropy.predict(model, objective)
    print(theory.compare(gflow.simulate(model, objective, t1=100.0), prediction))
    ```
    """
    pair = _only_pair(model)
    if constant_decay(pair, decay) != 0.0:
        raise ValueError(
            f"decay = {decay}: the closed form is without decay. theory.cross_entropy.etf_rest is "
            "where decay ends, and hadamard_modes(..., decay=) the way there for K = 2, 4, 8, …"
        )
    classes = _labels(objective, pair.right.shape[0])
    size, deviation = _equiangular(pair, classes)
    k, began = len(classes), elapsed_time(model)
    count = objective.labels.shape[0] if objective.reduction.endswith("sum") else 1
    rate = count * (0.5 if objective.reduction.startswith("half") else 1.0)
    simplex = np.zeros((k, k))
    simplex[classes] = np.eye(k) - 1.0 / k

    def logit(t):
        return etf_logit(k, size, rate * (t - began))

    def product(t):
        return logit(t)[:, None, None] * simplex

    def loss(t):
        return rate * etf_loss(k, logit(t))

    def off(t):
        return logit(t) * (_ROUNDING + 2.0 * deviation)

    def loss_off(t):  # |d ln L/da| ≤ 1
        return loss(t) * (_ROUNDING + off(t))

    about: Any = {"source": SOURCE, "validity": "W₂W₁ = a (I − 11ᵀ/K), balanced, one-hot inputs"}
    single = len(pair.leaves) == 1
    read = None if single else pair.read(lambda a, b: a @ b.swapaxes(-1, -2))
    name = pair.name if single else "W2 W1"
    return Prediction.of(
        Curve(name, product, off, _WORDS, read=read, regime=(began, np.inf), **about),
        Curve("loss", loss, loss_off, _WORDS, regime=(began, np.inf), **about),
        made_from=(model, objective),
        decay=decay,
    )


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


def _equiangular(pair: FactorPair, classes: np.ndarray) -> tuple[float, float]:
    """a of A Bᵀ = a (I − 11ᵀ/K), rows in the order of labels, and how far the start is from it."""
    a, b = pair.left[classes] if len(pair.left) == len(classes) else pair.left, pair.right
    k = len(classes)
    if len(a) != k:
        raise ValueError(f"The model has {len(a)} logits for {k} inputs: there must be K of both.")
    top = max(float(np.max(np.abs(a))), float(np.max(np.abs(b))))
    if top == 0.0:
        raise ValueError("The start is zero, where the flow rests: see etf_start.")
    a, b = a / top, b / top
    size = float(np.trace(a @ b.T)) / (k - 1.0)
    grams = a.T @ a - b.T @ b
    apart = float(np.linalg.norm(a @ b.T - size * (np.eye(k) - 1.0 / k)) + np.linalg.norm(grams))
    if not (size > 0.0 and apart <= _DEVIATION * size):
        raise ValueError(
            f"The start is off a (I − 11ᵀ/K), or off balance, by {apart:.2g} where a = {size:.2g} "
            "(of the largest weight squared). Make one with theory.cross_entropy.etf_start; a "
            "random one follows the closed form only once it is aligned."
        )
    return size * top**2, apart / size
