"""Flows without a finite minimum: late times, many seeds, and one run of the published size.

`late`: two linear layers from an equiangular start (a closed form) and separators of random data
(against gflow at rtol 10⁻¹³), up to t = 10¹²: steps of gflow and of Diffrax's solvers, each at the
tolerance of a ladder at which its error comes closest to gflow's. `words`: the transformer of
2410.09605, 57 344 weights, to t = 300. `seeds`: 256 networks in one call over that of single ones.
"""

import math
import statistics
import warnings
from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import gflow
from theory import cross_entropy

from .clock import interleaved

END, CLASSES, MEMBERS = 1e12, 5, 256
LADDER = tuple(10.0**-k for k in range(5, 13))
MOST = 100_000


class Separator(eqx.Module):
    weight: jax.Array

    def __call__(self, x):
        return self.weight @ x


def run(quick: bool, say) -> dict[str, Any]:
    """`late`, `words` and `seeds`."""
    say("infinity: late times")
    found: dict[str, Any] = {"late": late(2 if quick else 7)}
    say("infinity: co-occurrence")
    found["words"] = words(quick)
    say("infinity: seeds")
    found["seeds"] = seeds(8 if quick else MEMBERS, 1 if quick else 5)
    return found


def _problems() -> dict[str, tuple[Any, Any]]:
    first, second = cross_entropy.etf_start(CLASSES, 0.05, CLASSES, key=jax.random.key(0))
    network = gflow.models.DeepLinear((first, second))
    rng = np.random.default_rng(1)
    inputs = rng.normal(size=(8, 4))
    labels = np.sign(inputs @ rng.normal(size=4))
    return {
        "two layers": (
            network, gflow.objectives.CrossEntropy(np.eye(CLASSES), np.arange(CLASSES)),
        ),
        "separator": (
            Separator(jnp.zeros(4)), gflow.objectives.MarginLoss(inputs, labels, loss="logistic"),
        ),
    }  # fmt: skip


def late(repetitions: int) -> list[dict[str, Any]]:
    """Steps, error and seconds by problem and method."""
    rows = []
    for problem, (model, objective) in _problems().items():
        exact = gflow.simulate(model, objective, t1=END, rtol=1e-13, error_bars=False)

        def error(weights, exact=exact):
            pairs = zip(weights, exact.observables.values(), strict=True)
            off = [np.max(np.abs(np.asarray(w) - x[-1])) for w, x in pairs]
            return float(max(off) / max(np.max(np.abs(x[-1])) for x in exact.observables.values()))

        def ours(model=model, objective=objective):
            return gflow.simulate(model, objective, t1=END, error_bars=False)

        found = ours()
        least = error(x[-1] for x in found.observables.values())
        steps = found.statistics["accepted"] + found.statistics["rejected"]
        calls: dict[str, Callable] = {"gflow": ours}
        numbers = {"gflow": (steps, least, 1e-8)}
        for solver in (diffrax.Tsit5(), diffrax.Dopri8(), diffrax.Kvaerno5()):
            name = type(solver).__name__
            tried = []
            for rtol in LADDER:
                call = _diffrax(model, objective, solver, rtol)
                taken, weights, arrived = call()
                if arrived:
                    tried.append((abs(math.log(error(weights) / least)), rtol, call))
            if not tried:
                rows.append({"problem": problem, "method": name, "steps": None})
                continue
            _, rtol, call = min(tried, key=lambda x: x[0])
            taken, weights, _ = call()
            calls[name], numbers[name] = call, (taken, error(weights), rtol)
        times = interleaved(calls, repetitions)
        rows += [
            {"problem": problem, "method": name, "steps": steps, "error": off, "rtol": rtol,
             **times[name].medians}
            for name, (steps, off, rtol) in numbers.items()
        ]  # fmt: skip
    return rows


def _diffrax(model: Any, objective: Any, solver: Any, rtol: float) -> Callable:
    """Steps tried, weights at the end, and whether it got there."""
    arrays, rest = eqx.partition(model, eqx.is_inexact_array)

    def field(t, arrays, args):
        return jax.tree.map(
            jnp.negative, jax.grad(lambda a: objective(eqx.combine(a, rest)))(arrays)
        )

    @eqx.filter_jit
    def solved(arrays):
        return diffrax.diffeqsolve(
            diffrax.ODETerm(field), solver, 0.0, END, 1e-3, arrays, max_steps=MOST, throw=False,
            stepsize_controller=diffrax.PIDController(rtol=rtol, atol=rtol),
        )  # fmt: skip

    def call():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = solved(arrays)
        weights = [x[-1] for x in jax.tree.leaves(found.ys)]
        return int(found.stats["num_steps"]), weights, found.result == diffrax.RESULTS.successful

    return call


def words(quick: bool) -> dict[str, Any]:
    """Steps, weights and seconds of a second run, at the published size."""
    n, length, d, m, units = (12, 4, 32, 16, 32) if quick else (60, 5, 64, 128, 256)
    task = gflow.tasks.word_cooccurrence(n, length, d, key=jax.random.key(0), distinct=False)

    def once():
        model = gflow.models.PooledTransformer.small(
            d, m, units, log_epsilon=0.0, key=jax.random.key(0)
        )
        return gflow.simulate(
            model, task.objective, t1=300.0, rtol=1e-6, error_bars=False,
            save=gflow.save.observables(),
        )  # fmt: skip

    found = once()
    times = interleaved({"gflow": once}, 1 if quick else 3)["gflow"].medians
    counts = {name: found.statistics[name] for name in ("accepted", "rejected")}
    return {"weights": 3 * m * d + units * m, **counts, "method": found.method, **times}


def seeds(members: int, repetitions: int) -> dict[str, Any]:
    """Seconds a member in one call, and of a single run, to t = 10¹²."""
    objective = gflow.objectives.CrossEntropy(np.eye(CLASSES), np.arange(CLASSES))
    sizes = np.geomspace(1e-8, 1e-1, members)

    def model(i: int) -> gflow.models.DeepLinear:
        start = cross_entropy.etf_start(CLASSES, float(sizes[i]), CLASSES, key=jax.random.key(i))
        return gflow.models.DeepLinear(start)

    single = [model(i) for i in range(members)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *single)

    def together():
        return gflow.simulate_batch(stacked, objective, t1=END, error_bars=False)

    def alone():
        return [gflow.simulate(one, objective, t1=END, error_bars=False) for one in single[::32]]

    batch = together()
    alone()
    exact = cross_entropy.etf_logit(CLASSES, sizes, END)
    found = [np.trace(np.asarray(run.final.product)) / (CLASSES - 1.0) for run in batch]
    times = interleaved({"together": together, "alone": alone}, repetitions)
    seconds = {name: statistics.median(x.cpu) for name, x in times.items()}
    return {
        "members": members,
        "error": float(np.max(np.abs(np.array(found) / exact - 1.0))),
        "seconds": seconds["together"],
        "each": seconds["together"] / members,
        "alone": seconds["alone"] / len(single[::32]),
    }


def asked(part: dict[str, Any]) -> tuple[list[tuple[str, float, float]], ...]:
    """(name, bound, measured) of all that must be at most the bound, and at least."""
    if not part:
        return [], []
    most = [
        (f"steps to t = 1e12, {row['problem']}", 300.0, float(row["steps"]))
        for row in part["late"]
        if row["method"] == "gflow"
    ]
    words, many = part["words"], part["seeds"]
    if words["weights"] > 50_000:
        most += [
            ("steps of the published co-occurrence run", 105.0, float(words["accepted"])),
            ("its seconds, warm", 20.0, float(words["seconds"])),
        ]
    most.append((f"a member of {many['members']} over a single run", 1.0,
                 many["each"] / many["alone"]))  # fmt: skip
    return most, []


def tables(part: dict[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, head and rows of the late times."""
    if not part:
        return []
    rows = [
        [row["problem"], row["method"], *(
            ["-"] * 4 if row["steps"] is None else
            [f"{row['rtol']:.0e}", str(row["steps"]), f"{row['error']:.1e}",
             f"{1e3 * row['cpu_seconds']:.1f}"]
        )]
        for row in part["late"]
    ]  # fmt: skip
    title = "To t = 1e12 at about one error: steps, and milliseconds of CPU time"
    return [(title, ["problem", "method", "rtol", "steps", "error", "ms"], rows)]
