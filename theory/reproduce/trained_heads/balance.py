"""What the flow of the two factors of a product conserves, whatever the data."""

import numpy as np
import optax

import gflow
from gflow import observables

from .. import Report
from .courses import RTOL, descended
from .problem import PAPER, PRODUCTS, Problem, Stacked


def balances(problem: Problem, start: Stacked) -> dict[str, observables.Observable]:
    """By product and layer: "kq 0", "vo 0", …"""
    return {
        f"{name} {number}": observables.balance(product(path))
        for name, product in PRODUCTS.items()
        for number, path in enumerate(problem.paths(start))
    }


def conserved(report: Report, problem: Problem, scale: float) -> None:
    """Largest drifts to the first level, of the flow with error bars, and of both descents."""
    start = problem.start(0, scale)
    watched = balances(problem, start)
    flow = gflow.simulate(
        start, problem.objective, t1=problem.t1, rtol=RTOL, observables=watched,
        save=gflow.save.observables(), stop=gflow.stop.loss_below(problem.levels[0]),
    )  # fmt: skip
    rules = {
        "SGD": {"learning_rate": problem.descent.sgd},
        "Adam": {"optimizer": optax.adam(problem.descent.adam)},
    }
    descents = {key: descended(problem, start, watched, **rule) for key, rule in rules.items()}
    for name in PRODUCTS:
        own = [key for key in watched if key.startswith(name)]
        size = max(np.max(np.abs(flow.observables[key][0])) for key in own)
        bar = max(np.max(np.asarray(flow.error[key])) for key in own)
        beside = ", ".join(
            f"{key} {_drift(run, own, problem.levels[0]) / size:.2g}"
            for key, run in descents.items()
        )
        report.add(
            f"{name}.balance", 0.0, _drift(flow, own) / size, RTOL, float(bar / size), paper=PAPER,
            text=f"largest drift of the balance of {name} of all heads over its size, to loss "
            f"{problem.levels[0]:g}; {beside}",
        )  # fmt: skip


def _drift(run: gflow.Trajectory, keys: list[str], level: float = -np.inf) -> float:
    kept = np.asarray(run.loss) >= level
    return float(
        max(np.max(np.abs((x := np.asarray(run.observables[key])[kept]) - x[0])) for key in keys)
    )
