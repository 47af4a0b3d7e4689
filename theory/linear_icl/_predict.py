"""A prediction for heads on prompts of regression: what they conserve, when and what they learn."""

import math
from typing import Any

import numpy as np
from jaxtyping import PyTree

from gflow import Trajectory
from gflow.internal import (
    Objective,
    elapsed_time,
    one_thread,
    trained_leaves,
)
from gflow.models import LinearSelfAttention, MergedHeads, SeparateHeads
from gflow.objectives import InContextRegression

from .._arguments import real_array
from .._closed_form import Curve, Number
from .._prediction import Prediction
from ._conserved import conserved, conserved_merged
from ._drops import HALF, course, head_times
from ._merged import merged_from
from ._plateaus import plateaus
from ._problem import Problem, problem
from ._readings import Clock, Weights, around, kept, of_weights, passing

SOURCE = "Zhang, Singh, Latham, Saxe 2025 (2501.16265)"
_SMALL = "merged heads from a small start, population loss"
_DROPS = "separate heads from a small start, population loss"
#: Share of other directions in a live head up to which its turn of the others is a correction.
_TURNS = 0.25
#: Of the clocks of dormant heads, relative.
_ROUNDING = 1e-11


@one_thread
def predict(model: PyTree, objective: Objective) -> Prediction:
    r"""What merged or separate heads do on prompts of regression, as curves and numbers of a run.

    **Arguments:** `model`: `gflow.models.MergedHeads`, `SeparateHeads`, or a `LinearSelfAttention`
    whose mixed blocks are zero, all of it trained, at its start; `objective`:
    `gflow.objectives.InContextRegression`, of any covariance (weights are turned to its
    eigenbasis), noise and reduction, whose clock the prediction is in.

    **Returns:** a `Prediction`; of both kinds what is conserved, as curves;

    - merged heads, and those of `LinearSelfAttention` in its blocks W^PV_22 and W^KQ_11: the
      curves "loss" and "diagonal of M" (in the eigenbasis), exact for an aligned start and up to
      the square of the size for another (`merged_from`);
    - separate heads: numbers "half-drop m", when the loss is half-way between plateaus m − 1 and m,
      "head of drop m", and "plateau m", its loss (`drops`, `plateaus`). Tolerances are what the
      turns of `drops` change, whose square it leaves out, ρ² of a drop, and what the next head
      has grown to; after a drop with ρ above ¼, where that is no bound, times are NaN and left
      undecided. Of heads of rank R > 1 "half-drop 1" alone.

    **Raises:** ValueError for another model or objective, and as `drops`, where the order is not
    determined.

    **Regime:** starts much smaller than the weights at the end; no decay. **Source:** 2501.16265.

    ```python
    prediction = theory.linear_icl.predict(model, objective)
    print(theory.compare(gflow.simulate(model, objective, t1=2000.0), prediction))
    ```
    """
    if not isinstance(objective, InContextRegression):
        raise ValueError(
            f"objective is a {type(objective).__name__}: the predictions are of the population "
            "loss, gflow.objectives.InContextRegression(covariance, context)."
        )
    if not isinstance(model, MergedHeads | SeparateHeads | LinearSelfAttention):
        raise ValueError(
            f"model is a {type(model).__name__}: predictions are for gflow.models.MergedHeads, "
            "SeparateHeads and LinearSelfAttention."
        )
    leaves, separate = trained_leaves(model), isinstance(model, SeparateHeads)
    names = ("value", "key", "query") if separate else ("value", "key_query")
    if set(leaves) != set(names):
        raise ValueError(
            f"The model trains {', '.join(leaves)}; the predictions are for all of "
            f"{', '.join(names)}, trained."
        )
    values, basis = np.linalg.eigh(np.asarray(objective.covariance))
    found = problem(np.maximum(values, 0.0), objective.context, float(objective.noise))
    weights = {name: real_array(leaf.value, name) for name, leaf in leaves.items()}
    speed = 1.0 if objective.reduction == "half_mean" else 2.0
    clock = Clock(elapsed_time(model), speed)
    if separate:
        parts = _separate(weights, found, basis, clock)
    else:
        model.matrix()  # refuses mixed blocks
        parts = _merged(weights, found, basis, clock)
    return Prediction.of(*parts, made_from=(model, objective))


def _heads(weights: Weights) -> tuple[np.ndarray, np.ndarray]:
    """v (times, H) and U (times, H, D, D) of merged heads, or of the blocks that hold them."""
    v, u = weights["value"], weights["key_query"]
    if v.ndim == 2:
        return v, u
    v, u = v[..., -1, -1], u[..., :-1, :-1]
    return (v, u) if v.ndim == 2 else (v[:, None], u[:, None])


def _merged(weights: Weights, found: Problem, basis: np.ndarray, clock: Clock) -> list[Curve]:
    v, u = (x[0] for x in _heads({name: x[None] for name, x in weights.items()}))
    u = basis.T @ u @ basis
    lam, context, noise = found.eigenvalues, found.context, found.noise
    b = found.force / np.linalg.norm(found.force)
    grows = 0.5 * (v + np.einsum("hdd,d->h", u, b))
    beside = np.sum((v - grows) ** 2) + np.sum((u - grows[:, None, None] * np.diag(b)) ** 2)
    neglected = 1e-11 + 2.0 * float(beside / np.linalg.norm(found.optimum))
    words = "the square of what the start has beside the growing mode, and rounding"
    about: Any = {"source": SOURCE, "validity": _SMALL, "regime": (clock.began, math.inf)}

    def at(t):
        return merged_from(v, u, lam, context, clock.paper(t), noise=noise)

    def diagonal(w: Weights) -> np.ndarray:
        return np.einsum("th,thab,ad,bd->td", *_heads(w), basis, basis)

    def balance(w: Weights) -> np.ndarray:
        return np.array([conserved_merged(*pair) for pair in zip(*_heads(w), strict=True)])

    return [
        kept("v vᵀ − ⟨U, U⟩", weights, balance, SOURCE),
        Curve("loss", lambda t: clock.share * at(t).loss,
              clock.share * neglected * (float(np.sum(lam)) + noise), words, **about),
        Curve("diagonal of M", lambda t: at(t).diagonal, neglected * float(np.max(found.optimum)),
              words, read=of_weights(diagonal, tuple(weights)), **about),
    ]  # fmt: skip


def _separate(
    weights: Weights, found: Problem, basis: np.ndarray, clock: Clock
) -> list[Curve | Number]:
    v, k, q = weights["value"], weights["key"] @ basis, weights["query"] @ basis
    k, q = k.swapaxes(1, 2), q.swapaxes(1, 2)

    def balance(w: Weights, which: int) -> np.ndarray:
        each = zip(w["value"], w["key"].swapaxes(2, 3), w["query"].swapaxes(2, 3), strict=True)
        return np.array([conserved(*one)[which] for one in each])

    parts: list[Curve | Number] = [
        kept("v² − ‖K‖²", weights, lambda w: balance(w, 0), SOURCE),
        kept("K Kᵀ − Q Qᵀ", weights, lambda w: balance(w, 1), SOURCE),
    ]
    size = float(np.sqrt(np.max(v**2 + np.sum(k**2 + q**2, axis=(1, 2)))))
    levels = clock.share * plateaus(found.eigenvalues, found.context, noise=found.noise)
    kappa = np.cbrt(found.optimum[np.argsort(-found.eigenvalues, kind="stable")])
    if k.shape[2] > 1:
        force = np.sort(found.force)[::-1]
        unit, small = 1.0 / (force[0] * kappa[0]), size / kappa[0]
        share = small ** (1.0 - force[1] / force[0])
        late = np.sort(np.append(head_times(v, k, q, found.eigenvalues), math.inf))
        # two heads at once make another drop
        t = float(late[0]) - HALF * unit if late[1] - late[0] > unit else math.nan
        return [*parts, _half_drop(0, t, unit * (share**2 + small), levels, clock)]
    best, plain = (course(v, k, q, found, turns) for turns in (True, False))
    made = int(np.count_nonzero(np.isfinite(best.times)))
    # what comes after a drop that turns the others by more than a correction is not known
    largest = np.maximum.accumulate(np.concatenate([[0.0], best.shares[:-1]]))
    times = np.where(largest <= _TURNS, best.times, math.nan)
    off = np.abs(best.times - plain.times)[:made] + _ROUNDING * best.times[:made]
    off = off + best.units[:made] * (best.shares[:made] ** 2 + size / kappa[:made])
    for m in range(made):
        parts.append(_half_drop(m, times[m], off[m], levels, clock))
        known = math.nan if math.isnan(times[m]) else int(best.heads[m])
        parts.append(_head(m, known, best.units[m], levels, clock))
    for m in range(1, made):
        before, after = times[m - 1], times[m]
        if math.isnan(after):
            break
        grown = (4.0 * best.units[m] / (after - before)) ** 3
        dormant = len(v) - m
        slack = 2.0 * dormant * (levels[m] - levels[m + 1]) * grown
        slack += (levels[m - 1] - levels[m]) * best.shares[m - 1] ** 2
        parts.append(_plateau(m, clock.run(before), clock.run(after), levels[m], slack))
    return parts


def _half_drop(m: int, t: float, off: float, levels: np.ndarray, clock: Clock) -> Number:
    middle = float(0.5 * (levels[m] + levels[m + 1]))

    def read(run: Trajectory) -> tuple[float, float]:
        found = passing(run, middle)
        return (math.nan, math.nan) if found is None else (found.t, found.error)

    words = "the square of what turns dormant heads, ρ² and ε of a drop, rounding"
    return Number(f"half-drop {m + 1}", clock.run(t), read, float(off) / clock.speed, words,
                  source=SOURCE, validity=_DROPS, unit="t")  # fmt: skip


def _head(m: int, known: float, unit: float, levels: np.ndarray, clock: Clock) -> Number:
    """The head whose value changes most between ten times a drop before and after it."""
    middle, reach = float(0.5 * (levels[m] + levels[m + 1])), 10.0 * unit / clock.speed

    def read(run: Trajectory) -> tuple[float, float]:
        found = passing(run, middle)
        steps = None if found is None else around(run, found.step, reach)
        if steps is None:
            return math.nan, math.nan
        v = np.abs(np.asarray(run.leaves["value"]["value"]))
        return float(np.argmax(v[steps[1]] - v[steps[0]])), 0.0

    return Number(f"head of drop {m + 1}", known, read, size=1.0, source=SOURCE, validity=_DROPS)


def _plateau(m: int, before: float, after: float, level: float, slack: float) -> Number:
    """Read in the middle half of the time between two drops, where a run has a step."""
    middle, reach = 0.5 * (before + after), 0.25 * (after - before)

    def read(run: Trajectory) -> tuple[float, float]:
        i = int(np.argmin(np.abs(run.t - middle)))
        if abs(float(run.t[i]) - middle) > reach:
            return math.nan, math.nan
        return float(run.loss[i]), float(run.error["loss"][i]) if "loss" in run.error else math.nan

    words = "what the next head has grown to, and ρ² of the last drop"
    return Number(f"plateau {m}", float(level), read, float(slack), words, source=SOURCE,
                  validity=_DROPS)  # fmt: skip
