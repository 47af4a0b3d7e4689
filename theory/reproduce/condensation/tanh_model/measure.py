"""Escape time, time until attention saturates, and ranks, with what predicts them."""

import math
from typing import Any, NamedTuple

import numpy as np

import gflow
import theory
from theory import condensation as co

from ... import Report
from ..key_query_spectra import factors
from ..settings import Settings
from .problem import EPSILON, problem

#: Norm of the outer weights at the hand-over; that of W_Q at which attention saturates.
OUTER, LEVEL = 0.2, 0.3


class Snapshots(NamedTuple):
    """Weights by name at times `t`, and the loss."""

    t: np.ndarray
    loss: np.ndarray
    weights: dict[str, np.ndarray]


class BothStages(NamedTuple):
    """Snapshots of either stage with its predicted end, and the factor of the first's clock."""

    d: int
    clock: float
    one: Snapshots
    escape: float
    two: Snapshots
    saturated: float
    #: t and ‖W_Q‖ under the linear flow, from mid-plateau on.
    linear: tuple[np.ndarray, np.ndarray]


def before(out: gflow.Trajectory) -> Snapshots:
    """The first stage, at times of its own clock that are close where little of it takes long."""
    share = np.union1d(np.linspace(0.0, 1.0, 61) ** 3, np.linspace(0.0, 1.0, 61))
    found = out.record_at_clock(out.times[0] + share * (out.times[-1] - out.times[0]))
    return Snapshots(found["t"], found["loss"], _weights(found["leaves"]))


def after(runs: list[gflow.Trajectory]) -> Snapshots:
    """The second stage, at no more than 60 times of each run."""
    parts = []
    for run in runs:
        at = np.unique(np.linspace(0, len(run.t) - 1, 60).astype(int))
        leaves = {name: leaf.at(at) for name, leaf in run.leaves.items()}
        parts.append((run.t[at], run.loss[at], _weights(leaves)))
    t, loss, weights = zip(*parts, strict=True)
    joined = {name: np.concatenate([w[name] for w in weights]) for name in weights[0]}
    return Snapshots(np.concatenate(t), np.concatenate(loss), joined)


def _weights(leaves: dict[str, Any]) -> dict[str, np.ndarray]:
    """Outer weights, queries and keys of a record."""
    weights = {name: leaves[name]["value"] for name in ("value", "inner", "readout")}
    weights["query"], weights["key"] = factors(leaves["kq"])
    return weights


def both_stages(report: Report, settings: Settings) -> BothStages:
    """One run from ε to saturated attention, in three pieces."""
    d = settings.tanh_width
    one = problem(d)
    (x, y), objective = one.data, one.task.objective
    _, m = co.condensation_direction(x, y)
    out, escape = _escape(report, d, one.model, objective)
    # on to u*: a few times 1/(wm), whatever ε is
    options = {"rtol": 1e-7, "error_bars": False, "solver": gflow.solvers.Tsit5()}
    first = gflow.simulate(out.final, objective, t1=2 / (OUTER * m), **options)
    here = first.final
    outer = (np.asarray(w.value) for w in (here.value, here.inner, here.readout))
    F = co.key_query_matrix(x, y, *outer)
    keys = [w[-1] for w in factors(first.leaves["kq"])]
    plateau, middle = co.plateau(F, *keys, LEVEL), first.t[-1]
    second = gflow.simulate(here, objective, t1=middle + 1.25 * plateau.length, **options)
    both = after([first, second])
    norm = np.linalg.norm(both.weights["query"], axis=(1, 2))
    i = int(np.flatnonzero(norm >= LEVEL)[0])
    near = slice(i - 1, i + 1)
    saturated = float(np.interp(math.log(LEVEL), np.log(norm[near]), both.t[near]))
    report.add(
        f"tanh-model.d{d}.saturation-time",
        plateau.length,
        saturated - middle,
        0.2 * plateau.length,
        both.t[i] - both.t[i - 1],
        unit="flow time",
        text=f"time from mid-plateau to ‖W_Q‖ = {LEVEL:g}",
    )
    rank = float(co.stable_rank(both.weights["query"][i])) - 1
    steps = " + ".join(str(x.statistics["accepted"]) for x in (out, first, second))
    report.say(
        f"tanh model, d = {d}, ε = {EPSILON:g}: σ(F) at mid-plateau "
        f"{', '.join(f'{s:.4f}' for s in np.linalg.svdvals(F)[:3])} …; stable rank of W_Q when "
        f"attention saturates 1 + {rank:.3g}, predicted 1 + {plateau.query_rank - 1:.3g}; "
        f"{steps} steps."
    )
    report.data(second, "condensation_tanh")
    end = middle + plateau.length
    t = np.linspace(middle, end, 50)
    linear = t, np.exp(co.key_query_directions(F, *keys, t - middle).log_query)
    return BothStages(d, EPSILON * m, before(out), escape, both, end, linear)


def _escape(report: Report, d: int, model: Any, objective: Any) -> tuple[gflow.Trajectory, float]:
    """The first stage, and its predicted length: time, rank and directions of W_V then."""
    out = gflow.escape(model, objective, level=OUTER, rtol=1e-7)
    prediction = co.predict(model, objective, level=0.9 * OUTER)
    report.compare(
        f"tanh-model.d{d}.escape",
        theory.compare(out, prediction),
        f"Escape of the tanh model, d = {d}, to ‖W₂‖ = {0.9 * OUTER:g}:",
    )
    return out, prediction.numbers[0].predicted
