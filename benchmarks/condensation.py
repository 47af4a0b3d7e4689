"""Condensation and rank collapse: cost against ε, against raw weights, and of large widths.

The tanh transformer on 512 sequences of 10 tokens, from weights of size ε through its escape
(`gflow.escape`) and its plateau (`gflow.simulate`) until attention saturates, with error bars of
the escape and without those of the plateau. Steps of Diffrax on the raw weights are counted at
ε = 1e-3, with atol = rtol·ε, over the flow time that the escape takes. Errors of weights are at
one time there and at one norm for the escape, which is what it is asked for.
"""

import math
import time
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import gflow
from theory import condensation as co

EXAMPLES, TOKENS, OUTER, RTOL = 512, 10, 0.2, 1e-8
SOLVERS = {"Tsit5": diffrax.Tsit5, "Dopri8": diffrax.Dopri8}


def problem(d: int, exponent: float):
    """Data, and a start of size 10^−exponent."""
    task = gflow.tasks.attention_labels(EXAMPLES, TOKENS, d, key=jax.random.key(4))
    model = gflow.models.LastTokenTransformer.small(
        d, d, log_epsilon=-exponent * math.log(10.0), key=jax.random.key(0)
    )
    return task, model


def run(quick: bool, say) -> dict[str, Any]:
    """All four comparisons; `quick` leaves out the widths that take long."""
    d = 8 if quick else 16
    sizes = size_of_the_start(d, say)
    raw = against_raw(8, say)
    large = whole(d if quick else 64, say)
    return {"width": d, "sizes": sizes, "raw": raw, "large": large,
            "times": blow_up_times((64,) if quick else (64, 256, 1024), say)}  # fmt: skip


def settled(task, model, rtol: float) -> tuple[int, gflow.Trajectory, float]:
    """From the start until the outer weights have settled: steps, the last run, σ₁(F) there."""
    start = gflow.escape(model, task.objective, level=OUTER, rtol=rtol)
    end = 2.0 / (OUTER * float(task.strength))
    run = gflow.simulate(start.final, task.objective, t1=end, rtol=rtol, error_bars=False)
    outer = (np.asarray(w.value) for w in (run.final.value, run.final.inner, run.final.readout))
    F = co.key_query_matrix(np.asarray(task.inputs), np.asarray(task.labels), *outer)
    steps = counted(start.statistics) + counted(run.statistics)
    return steps, run, float(np.linalg.norm(F, 2))


def size_of_the_start(d: int, say) -> list[dict[str, Any]]:
    """Steps and seconds of both stages, compiled before."""
    rows = []
    _, run, rate = settled(*problem(d, 8), RTOL)
    for exponent in (2, 2, 8, 100):  # the first compiles
        task, model = problem(d, exponent)
        start, first = timed(lambda m=model, t=task: gflow.escape(
            m, t.objective, level=OUTER, rtol=RTOL))  # fmt: skip
        t1 = run.t[-1] + exponent * math.log(10.0) / rate
        traj, second = timed(lambda s=start, t=task, t1=t1: gflow.simulate(
            s.final, t.objective, t1=t1, rtol=RTOL, error_bars=False))  # fmt: skip
        rows.append({
            "exponent": exponent,
            "escape_steps": counted(start.statistics), "escape_seconds": first,
            "plateau_steps": counted(traj.statistics), "plateau_seconds": second,
            "successful": start.successful and traj.successful,
            "kq": float(np.linalg.norm(traj.final.kq.value)),
        })  # fmt: skip
        say(f"ε = 1e-{exponent}: {rows[-1]}")
    return rows[1:]


class Raw(eqx.Module):
    """−∇L of plain weights."""

    objective: Any
    static: Any

    def __call__(self, t, weights, args):
        def loss(weights):
            return self.objective(eqx.combine(weights, self.static))

        return jax.tree.map(jnp.negative, jax.grad(loss)(weights))


def against_raw(d: int, say) -> list[dict[str, Any]]:
    """Steps to the end of an escape at ε = 1e-3, and the error of the weights there."""
    exponent = 3
    task, model = problem(d, exponent)
    best = gflow.escape(model, task.objective, level=OUTER, rtol=1e-12)
    true = np.asarray(best.final.inner.value)
    rows = []
    for rtol in (1e-6, RTOL):
        out = gflow.escape(model, task.objective, level=OUTER, rtol=rtol)
        error = float(abs(out.t[-1] - best.t[-1]) / best.t[-1])
        rows.append({"method": "gflow.escape", "rtol": rtol, "steps": counted(out.statistics),
                     "time_error": error, "weight_error": distance(out.final, true)})  # fmt: skip
        say(str(rows[-1]))
    plain = gflow.to_factors(model)
    weights, static = eqx.partition(plain, eqx.is_inexact_array)
    term = diffrax.ODETerm(Raw(task.objective, static))
    for name, solver in SOLVERS.items():
        for rtol in (1e-6, RTOL, 1e-10, 1e-12, 1e-13):
            controller = diffrax.PIDController(rtol=rtol, atol=rtol * 10.0**-exponent)
            sol = diffrax.diffeqsolve(
                term, solver(), 0.0, float(best.t[-1]), None, weights, max_steps=100_000,
                stepsize_controller=controller, throw=False,
            )  # fmt: skip
            end = eqx.combine(jax.tree.map(lambda x: x[-1], sol.ys), static)
            rows.append({"method": f"Diffrax {name}, raw weights", "rtol": rtol,
                         "steps": int(sol.stats["num_steps"]), "time_error": None,
                         "weight_error": distance(end, true)})  # fmt: skip
            say(str(rows[-1]))
    return rows


def distance(model, true) -> float:
    return float(np.linalg.norm(np.asarray(model.inner.value) - true) / np.linalg.norm(true))


def whole(d: int, say) -> dict[str, Any]:
    """Seconds from nothing to saturated attention at ε = 1e-8, compilation included."""
    began = time.perf_counter()
    task, model = problem(d, 8)
    steps, run, rate = settled(task, model, 1e-7)
    t1 = run.t[-1] + 8 * math.log(10.0) / rate
    traj = gflow.simulate(run.final, task.objective, t1=t1, rtol=1e-7, error_bars=False)
    row = {"width": d, "seconds": time.perf_counter() - began,
           "steps": steps + counted(traj.statistics),
           "kq": float(np.linalg.norm(traj.final.kq.value))}  # fmt: skip
    say(f"both stages: {row}")
    return row


def blow_up_times(widths, say) -> list[dict[str, Any]]:
    """Seconds of `blow_up_time` for a Gaussian start."""
    rows = []
    for d in widths:
        rng = np.random.default_rng(d)
        start = rng.standard_normal(d), rng.standard_normal((d, d)), rng.standard_normal(d)
        found, seconds = timed(lambda s=start: co.blow_up_time(*s))
        rows.append({"width": d, "seconds": seconds, "time": found * math.sqrt(d)})
        say(f"T*√d: {rows[-1]}")
    return rows


def timed(call) -> tuple[Any, float]:
    began = time.perf_counter()
    out = call()
    return out, time.perf_counter() - began


def counted(statistics: dict[str, Any]) -> int:
    return statistics["accepted"] + statistics["rejected"]


def asked(part: dict[str, Any]) -> tuple[list[tuple[str, float, float]], ...]:
    """(name, bound, measured) of all that must be at most the bound, and at least."""
    if "sizes" not in part:
        return [], []
    most = [
        ("condensation: seconds of both stages, width 64", 120.0, part["large"]["seconds"]),
    ] if part["large"]["width"] == 64 else []  # fmt: skip
    most += [("condensation: seconds of blow_up_time, width 1024", 5.0, row["seconds"])
             for row in part["times"] if row["width"] == 1024]  # fmt: skip
    ours = next(r for r in part["raw"] if r["method"] == "gflow.escape" and r["rtol"] == RTOL)
    raw = [row for row in part["raw"] if row["method"] != "gflow.escape"]
    least = []
    for what, chosen in (
        ("at one rtol", [r for r in raw if r["rtol"] == RTOL]),
        ("at one error", [r for r in raw if r["weight_error"] <= ours["weight_error"]]),
    ):
        for name in SOLVERS:
            steps = [r["steps"] for r in chosen if name in r["method"]]
            ratio = min(steps) / ours["steps"] if steps else math.inf
            text = f"condensation: steps of {name} on raw weights over gflow.escape, {what}"
            least.append((text, 10.0, ratio))
    return most, least


def tables(part: dict[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, head and rows of the comparisons."""
    if "sizes" not in part:
        return []

    def number(x):
        return "–" if x is None else f"{x:.3g}"

    sizes = [
        [f"1e-{row['exponent']}", str(row["escape_steps"]), number(row["escape_seconds"]),
         str(row["plateau_steps"]), number(row["plateau_seconds"])]
        for row in part["sizes"]
    ]  # fmt: skip
    raw = [
        [row["method"], f"{row['rtol']:g}", str(row["steps"]), number(row["weight_error"])]
        for row in part["raw"]
    ]
    times = [[str(row["width"]), number(row["seconds"]), number(row["time"])]
             for row in part["times"]]  # fmt: skip
    large = part["large"]
    return [
        (f"Condensation: both stages of a tanh transformer, width {part['width']}",
         ["ε", "escape, steps", "s", "plateau, steps", "s"], sizes),
        ("Condensation: to the end of an escape from ε = 1e-3, width 8",
         ["method", "rtol", "steps", "error of W1"], raw),
        ("Condensation: the blow-up time", ["width", "s", "T*√d"], times),
        ("Condensation: both stages, compilation included", ["width", "steps", "s"],
         [[str(large["width"]), str(large["steps"]), number(large["seconds"])]]),
    ]  # fmt: skip
