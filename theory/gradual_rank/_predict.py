r"""Gradual rank increase: the saddle path of any model with small weights, with times.

Boix-Adsera, Littwin, Abbe, Bengio, Susskind 2023 (2306.07042), for θ = u⊙v from
u, v = O(α); for a convex quadratic loss Pesme & Flammarion 2023 (2304.00488). Exponents
other than 1 at the start: generalised thresholds (2607.12332). Factored matrices A Bᵀ, with
times, are this project's (directions without times: 2012.09839).
"""

import dataclasses
from collections.abc import Mapping

from jaxtyping import PyTree

from gflow import Factored, Hadamard, Symmetric
from gflow.internal import (
    Bar,
    Constant,
    Decay,
    Objective,
    Origin,
    UnitAxes,
    bindings,
    build_flow,
    check_single,
    count,
    log_alpha_of,
    log_alpha_or_none,
    member,
    number,
    one_thread,
    order_of,
    stacked,
    trained_leaves,
)

from .._prediction import Prediction
from ._columns import Columns, columns_of
from ._hadamard import HadamardWeights
from ._saddle_leaf import SaddleLeaf
from ._saddle_path import SaddlePath
from ._symmetric import SymmetricColumns
from .units import follow

SOURCE = "Boix-Adsera et al. 2023 (2306.07042)"
VALIDITY = (
    "α → 0 with the O(1) factors fixed; each winner unique (see margin), each saddle a strict "
    "minimum on its support (see curvature). At finite α times are exact up to a power of α."
)
SOURCE_FACTORED = "limit algorithm for A Bᵀ (diagonal case: Boix-Adsera et al. 2023, 2306.07042)"
VALIDITY_FACTORED = (
    "α → 0 with the O(1) factors fixed, rank r ≤ min(m, n); each winner unique (see margin), each "
    "saddle a strict minimum among matrices of its rank. Found numerically, not proven."
)


@one_thread
def predict(
    model: PyTree,
    objective: Objective,
    *,
    log_alpha: float | None = None,
    alpha: float | None = None,
    log10_alpha: float | None = None,
    decay: Decay = 0.0,
    rtol: float = 1e-11,
    max_stages: int = 1000,
    progress: bool = False,
) -> Prediction:
    r"""Saddles, their order and their times T_k and offsets C_k, for any objective.

    **Arguments:** `model`: every trained leaf a `gflow.Hadamard` or a `gflow.Factored`, X Xᵀ
    included, alone or together; or every one a `gflow.Scaled` in units (freeze others with
    `gflow.Frozen`). `objective`: differentiable, model ↦ scalar. `log_alpha` (or `log10_alpha`, or
    `alpha`): for leaves that do not carry one. `decay`: constant λ, or {leaf: λ}. `rtol`: relative
    error of the weights along connecting orbits, and so about that of exp(rate·C); saddles and T
    are polished to rounding whatever it is (units are followed at 1e-12). `max_stages`: the most
    stages to predict. `progress`: a count of stages on standard error, where a person sees it.

    **Returns:** a `Prediction`; `.stages[k].tau` is T in units of log(1/α), `.at(la)`
    the times and curves at a finite α. The modes of a factored leaf are its columns, in the
    order in which they switch on. Of units, which race to blow up at saddles of order D ≥ 3,
    T is in units of α^{−(D−2)} (`.order` is D), α = e^log_scale.

    **Raises:** ValueError for a stack of models (see `predict_batch`), leaves of another kind,
    |u| = |v| exactly, more columns than min(m, n), Λ ≤ 0 or unknown, factors that are not small,
    a tie of unequal rates or of several modes in heads of unequal forces, an objective unbounded
    below or with its minimum at infinity, a gradient that is not finite.

    **Regime:** α → 0, unique winners, strict minima on the support (among matrices of the
    rank). Modes of equal exponent and rate (heads while attention is uniform, equal effects)
    switch together, copies with predicted shares. Heads that feel one force are one matrix, of
    which each has a part, until their forces differ. A degenerate saddle, one whose learned columns
    would turn, or forces on heads that differ by little more than rounding end the path with the
    reason (`.ended`).
    At kinks of the loss at zero weights a dormant weight feels the force of its own sign; where
    it feels more, as which weight is larger, the path is refused or ends.

    ```python
    pred = theory.gradual_rank.predict(model, objective)
    print(pred); pred.at(-74.0).tau
    ```
    """
    rtol = number("rtol", rtol, "the relative error of weights on connecting orbits")
    if not 1e-14 <= rtol < 1e-2:
        raise ValueError(
            f"rtol = {rtol}: the relative error of weights on connecting orbits, from 1e-14 "
            "(rounding) to below 1e-2."
        )
    max_stages = count("max_stages", max_stages, "the most stages to predict")
    leaves = trained_leaves(model)
    check_single(leaves)
    given = log_alpha_or_none(log_alpha, alpha, log10_alpha)
    scale, conflict = log_alpha_of(model, given)
    if labels := bindings(leaves):
        with Bar(progress, None, "stages") as bar:
            return _of_units(model, objective, labels, scale, conflict, decay, max_stages, bar)
    other = [n for n, leaf in leaves.items() if not isinstance(leaf, Hadamard | Factored)]
    if other:
        raise ValueError(
            f"The limit algorithm needs Hadamard or Factored leaves; {other} are trained in "
            "another form. Freeze them (gflow.Frozen), or build them as one of the two; where "
            "three and more small factors meet, all as gflow.Scaled in units."
        )
    if not scale < 0:
        raise ValueError(f"A prediction needs 0 < α < 1, but {conflict}")
    flow = build_flow(model, objective, decay=decay)
    if any(callable(rate) for rate in flow.decay):
        raise ValueError("The limit algorithm needs a constant decay; λ(t) was given.")
    parts: list[SaddleLeaf] = []
    for name, rate in zip(flow.names, flow.decay, strict=True):
        leaf, constant = leaves[name], float(rate.value) if isinstance(rate, Constant) else 0.0
        if isinstance(leaf, Hadamard):
            parts.append(HadamardWeights.of(name, leaf, scale, constant))
        else:
            kind = SymmetricColumns if isinstance(leaf, Symmetric) else Columns
            parts += columns_of(kind, name, leaf, scale, constant)
    elapsed = max(float(leaf.elapsed) for leaf in leaves.values())
    about = (SOURCE, VALIDITY)
    if any(isinstance(leaf, Factored) for leaf in leaves.values()):
        about = (SOURCE_FACTORED, VALIDITY_FACTORED)
    with Bar(progress, None, "stages") as bar:
        path = SaddlePath(flow, parts, scale, elapsed, rtol).follow(max_stages, *about, bar)
    return dataclasses.replace(path, origin=Origin(flow, model, scale), accuracy=10.0 * rtol)


def _of_units(
    model: PyTree,
    objective: Objective,
    labels: Mapping[str, UnitAxes],
    scale: float,
    conflict: str,
    decay: Decay,
    max_stages: int,
    bar: Bar,
) -> Prediction:
    if not scale < 0:
        raise ValueError(f"A prediction needs 0 < α < 1, but {conflict}")
    flow = build_flow(model, objective, decay=decay)
    if any(rate is not None for rate in flow.decay):
        raise ValueError("Saddles of order three and more are predicted without decay: decay=0.0.")
    if met := sorted({name for own in labels.values() for name in own.interfaces}):
        raise ValueError(
            f"The matrices that meet at the interfaces {', '.join(map(repr, met))} start with "
            "modes that multiply each other: which of them goes first is not predicted yet. "
            "gflow.simulate follows them; units that are one mode each (gflow.Scaled(..., units=))"
            " are predicted as well."
        )
    order = order_of(flow, model)
    if order == 2:
        raise ValueError(
            "The weights in units start near no saddle of order three or more: doubled, they do "
            "not feel 4, 8, … times the force. Products of two factors are gflow.Hadamard or "
            "gflow.Factored; and units start small, at one log_scale."
        )
    path = follow(flow, labels, scale, order, max_stages, bar)
    return dataclasses.replace(path, origin=Origin(flow, model, scale))


@one_thread
def predict_batch(
    models: PyTree,
    objective: Objective,
    *,
    in_axes: tuple[int | None, int | None] = (0, None),
    log_alpha: float | None = None,
    alpha: float | None = None,
    log10_alpha: float | None = None,
    decay: Decay = 0.0,
    rtol: float = 1e-11,
    max_stages: int = 1000,
) -> list[Prediction]:
    """`predict` for every member of a batch that `gflow.simulate_batch` runs, in order.

    **Arguments:** `models`, `objective`: with `in_axes` 0 stacked along a leading axis of all
    arrays (by `eqx.filter_vmap`), with None shared by all. The rest as in `predict`. Members
    share their compiled programs.

    ```python
    models = eqx.filter_vmap(make)(jax.random.split(key, 16))
    predictions = theory.gradual_rank.predict_batch(models, objective)
    ```
    """
    scale = log_alpha_or_none(log_alpha, alpha, log10_alpha)
    models, members = stacked(models, objective, in_axes)
    return [
        predict(
            member(models, i),
            objective if in_axes[1] is None else member(objective, i),
            log_alpha=scale,
            decay=decay,
            rtol=rtol,
            max_stages=max_stages,
        )
        for i in range(members)
    ]
