"""A prediction of what decay does to the factors of a model: balance, the way, and the end."""

import math
from typing import Any

import numpy as np
from jaxtyping import Float, PyTree

from gflow import Trajectory
from gflow.internal import Decay, Objective, elapsed_time, one_thread, trained_leaves

from .._closed_form import Curve, Number
from .._factor_pairs import FactorPair, constant_decay, decay_of, factor_pairs
from .._prediction import Prediction
from .._quadratic import Quadratic, quadratic
from ..exact_linear._course import Course, curves, multiplied, unbalanced as deviation
from ..exact_linear._two_layer import BALANCE_TOLERANCE
from ._balanced import balanced
from ._imbalance import imbalance
from ._late import gap_between_bounds, late_slope, tied_modes
from ._soft_threshold import SOURCE, VALIDITY, predicted_rank, soft_threshold
from ._unbalanced import unbalanced

Times = Float[np.ndarray, " times"]
#: Share of the slowest rate above which a mode of a run still grows.
_STILL = 0.05


@one_thread
def predict(model: PyTree, objective: Objective, *, decay: Decay) -> Prediction:
    r"""What decay λ does to every product A Bᵀ of trained factors, for any loss.

    **Arguments:** `model`: with `gflow.Factored`, `gflow.Product` or plain-factor leaves, or
    neighbouring plain weights of a `gflow.models.DeepLinear`; heads as leading axes. `objective`:
    any. `decay`: λ, λ(t), or {leaf: one of these}, for (λ/2)(‖A‖² + ‖B‖²).

    **Returns:** a `Prediction`, of each product

    - the curve "imbalance of NAME": AᵀA − BᵀB = e^{−2∫λ}G(0) entry by entry, of a
      `gflow.Factored` (whose columns a run may turn) the eigenvalues of it, ascending;
    - the curve "gap of NAME beyond its bounds": how far the gap to the nuclear norm is outside
      of `gap_bounds`, 0;

    and where the loss is ½c‖A Bᵀ − D‖² + const of the only product, with a constant λ,

    - the curves of the product and of "loss", if AᵀA − BᵀB = g₀I at the start (`balanced`,
      `unbalanced`);
    - for λ > 0 the numbers "distance from the soft threshold" and "rank at the end"
      (`soft_threshold`, `predicted_rank`), read off a run that has come to rest in a minimum;
    - for λ > 0 "late slope of the gap" (`gap_late_slope`) of an unbalanced start, if W comes to
      rest soon enough for a run to show it; "growth of 1/s in a tie", d(1/s)/dt = 2c.

    **Raises:** ValueError for a model without such products, factors that decay differently.

    **Regime:** exact for gradient flow; not for Adam(W), momentum, clipping of one factor.
    **Source:** 2410.23819 (Kobayashi, Akram, von Oswald 2024).

    ```python
    prediction = theory.weight_decay.predict(model, objective, decay=0.1)
    print(theory.compare(gflow.simulate(model, objective, decay=0.1, t1=50.0), prediction))
    ```
    """
    pairs, began = factor_pairs(model), elapsed_time(model)
    if not pairs:
        raise ValueError(
            f"The laws of decay are of products A Bᵀ of two trained factors; this model trains "
            f"{', '.join(trained_leaves(model))}. Make the matrices gflow.Factored leaves (or "
            "gflow.Product), or the layers those of gflow.models.DeepLinear."
        )
    parts: list[Curve | Number] = []
    for pair in pairs:
        later = _later(decay_of(pair, decay), began)
        parts += [_imbalance(pair, later, began), gap_between_bounds(pair, later, began)]
    problem = _only_quadratic(model, pairs, objective, decay)
    if problem is not None:
        pair, rate = pairs[0], constant_decay(pairs[0], decay)
        course = _course(pair, problem, rate / problem.curvature)
        if course is not None:
            parts += curves(pair, problem, course, began)
        if rate > 0.0:
            parts += _ends(pair, problem, rate / problem.curvature)
            parts += late_slope(pair, problem, rate) + tied_modes(pair, problem, rate)
    return Prediction.of(*parts, made_from=(model, objective), decay=decay)


def _later(rate: Any, began: float) -> Any:
    """A decay in the clock that starts at `began`."""
    return (lambda t: rate(t + began)) if callable(rate) else rate


def _imbalance(pair: FactorPair, later: Any, began: float) -> Curve:
    def law(t: Times) -> np.ndarray:
        g = imbalance(pair.left, pair.right, later, t - began)
        return np.linalg.eigvalsh(g) if pair.turns else g

    def measured(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        g = a.swapaxes(-1, -2) @ a - b.swapaxes(-1, -2) @ b
        return np.linalg.eigvalsh(g) if pair.turns else g

    return Curve(
        f"imbalance of {pair.name}", law, read=pair.read(measured), regime=(began, math.inf),
        constant=not callable(later) and later == 0.0, source=SOURCE, validity=VALIDITY,
    )  # fmt: skip


def _only_quadratic(
    model: PyTree, pairs: list[FactorPair], objective: Objective, decay: Decay
) -> Quadratic | None:
    """The loss, where it is a squared distance of the only product, at a constant decay."""
    alone = len(pairs) == 1 and pairs[0].whole and pairs[0].left.ndim == 2
    if not alone or set(pairs[0].leaves) != set(trained_leaves(model)):
        return None
    if callable(decay_of(pairs[0], decay)):
        return None
    try:
        return quadratic(model, pairs[0], objective)
    except ValueError:  # any other loss has the imbalance only
        return None


def _course(pair: FactorPair, problem: Quadratic, rate: float) -> Course | None:
    a, b, d = pair.left, pair.right, problem.target
    off = deviation(pair)
    if off > BALANCE_TOLERANCE:
        return None
    g = np.trace(a.T @ a - b.T @ b) / a.shape[1]
    even = abs(g) <= BALANCE_TOLERANCE * (np.sum(a**2) + np.sum(b**2))
    words = "gradient flow of ½‖A Bᵀ − D‖² with equal decay on both factors, AᵀA − BᵀB = g₀I"
    if even:
        return Course(lambda t: balanced(a, b, d, rate, t), off, SOURCE, words)
    return Course(lambda t: unbalanced(a, b, d, rate, t), off, SOURCE, words)


def _ends(pair: FactorPair, problem: Quadratic, rate: float) -> list[Number]:
    r"""Where it rests, read off a run of which no mode still grows.

    A run has still to move at most what it moved in the last 2/μ, μ = 2c·min|d − λ/c| being the
    rate of its slowest mode; a tie, d = λ/c, is at most 1/2ct above 0.
    """
    c, d, r = problem.curvature, problem.target, pair.left.shape[1]
    end, said = soft_threshold(d, rate, rank=r), predicted_rank(d, rate, rank=r)
    s = np.linalg.svdvals(d)
    apart = np.abs(s - rate)
    slowest = 2.0 * c * float(np.min(apart, where=apart > 1e-12 * s[0], initial=rate))
    kept = np.linalg.svdvals(end)[: int(said.rank)]
    smallest = float(np.min(kept)) if kept.size else float(s[0])
    size = float(np.linalg.norm(end)) or float(np.linalg.norm(d))

    def left(run: Trajectory, w: np.ndarray) -> float:
        """How far it may still be from where it comes to rest; NaN where nobody knows."""
        before = int(np.searchsorted(run.t, run.t[-1] - 2.0 / slowest, side="right")) - 1
        if before < 0:
            return math.nan
        grown = _logs(run, pair, w, [before, len(run.t) - 1])
        if np.any(np.diff(grown, axis=0) > _STILL * slowest * (run.t[-1] - run.t[before])):
            return math.nan
        ties = int(said.ties) / (2.0 * c * float(run.t[-1]))
        return float(np.linalg.norm(w[-1] - w[before])) + ties

    def distance(run: Trajectory) -> tuple[float, float]:
        reading = pair.read(multiplied)(run)
        w, bar = np.asarray(reading.value), np.asarray(reading.bar)[-1]
        rest = left(run, w)
        if math.isnan(rest):
            return math.nan, math.nan
        return float(np.linalg.norm(w[-1] - end)), float(np.linalg.norm(bar)) + rest

    def rank(run: Trajectory) -> tuple[float, float]:
        w = np.asarray(pair.read(multiplied)(run).value)
        count = np.sum(np.linalg.svdvals(w[-1]) > 0.5 * smallest)
        return (float(count) if left(run, w) < 0.25 * smallest else math.nan), 0.0

    validity = "the global minimum, which almost every start finds"
    about: Any = {"source": SOURCE, "validity": validity}
    words = "rounding of the soft threshold"
    return [
        Number("distance from the soft threshold", math.nan if said.ambiguous else 0.0, distance,
               1e-12 * float(s[0]), words, size=size, **about),
        Number("rank at the end", int(said.rank), rank, **about),
    ]  # fmt: skip


def _logs(run: Trajectory, pair: FactorPair, w: np.ndarray, rows: list[int]) -> np.ndarray:
    """Logarithms of the singular values of W at some recorded times, above rounding."""
    if pair.turns:
        return run.observables[f"{pair.leaves[0]}.log_singular"][rows]
    s = np.linalg.svdvals(w[rows])
    # of all that W was: where it dies a run comes down to its rounding, and moves there
    largest = max(float(np.max(np.linalg.norm(w, axis=(-2, -1)))), 1e-300)
    return np.log(np.maximum(s, 1e-12 * largest))
