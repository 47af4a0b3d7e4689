"""A vision transformer of ten thousand weights on a thousand digits: flow, observables, training.

Gradients of Tsit5 are counted on a part of the way, where it is held down less than later on.
"""

import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np
import optax

import gflow
from gflow import observables

from .clock import interleaved

RTOL = 1e-4
#: Seconds to t = 100, share of Tsit5's gradients, of training that observables take, of a loop.
SECONDS, FEWER, WATCHED, LOOP = 300.0, 5.0, 0.1, 1.1


def problem(quick: bool):
    """The model, its task, and weights that are trained."""
    task = gflow.tasks.digits(examples=40 if quick else 1024)
    d = 4 if quick else 24
    model = gflow.models.VisionTransformer(
        (8, 8), patch=4, classes=10, d=d, heads=2, head_width=d // 2, hidden=2 * d,
        layers=1 if quick else 2, key=jax.random.key(0),
    )  # fmt: skip
    weights = sum(x.size for x in jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array)))
    return model, task, weights


def run(quick: bool, say) -> dict[str, Any]:
    """`flows` of both methods, and `training`: seconds of loops of Adam."""
    model, task, weights = problem(quick)
    whole, part = (2.0, 1.0) if quick else (100.0, 20.0)
    flows = []
    for name, solver, t1 in (
        ("chosen", None, whole),
        ("RKC2", gflow.solvers.RKC2(), part),
        ("Tsit5", gflow.solvers.Tsit5(), part),
    ):
        say(f"transformers: {name} to t = {t1:g}")
        began, used = time.perf_counter(), time.process_time()
        flow = gflow.simulate(
            model, task.objective, t1=t1, rtol=RTOL, error_bars=False, solver=solver,
            save=gflow.save.observables(),
        )  # fmt: skip
        counts = flow.statistics
        tried = counts["accepted"] + counts["rejected"]
        flows.append({
            "method": name, "t": t1, "weights": weights, "loss": float(flow.loss[-1]),
            "gradients": int(counts.get("evaluations", 6 * tried if name == "Tsit5" else 0)),
            "steps": int(tried), "seconds": time.perf_counter() - began,
            "cpu_seconds": time.process_time() - used,
        })  # fmt: skip
    return {"flows": flows, "training": _training(model, task, quick, say)}


def _training(model: Any, task: Any, quick: bool, say) -> dict[str, float]:
    """Seconds of Adam: a compiled loop by hand, `descend`, and `descend` with observables."""
    steps = 20 if quick else 200
    say(f"transformers: {steps} steps of Adam")
    optimizer = optax.adam(1e-3)
    watched = {
        f"{name} {k}": observables.stable_rank(product(f"layers.{k}.attention", since=model))
        for k in range(len(model.layers))
        for name, product in (
            ("kq", observables.key_query), ("vo", observables.value_output),
        )
    }  # fmt: skip
    arrays, static = eqx.partition(model, eqx.is_inexact_array)

    @jax.jit
    def by_hand(arrays):
        def step(carry, _):
            arrays, state = carry
            loss, slope = jax.value_and_grad(lambda a: task.objective(eqx.combine(a, static)))(
                arrays
            )
            update, state = optimizer.update(slope, state, arrays)
            return (optax.apply_updates(arrays, update), state), loss

        return jax.lax.scan(step, (arrays, optimizer.init(arrays)), None, length=steps)

    def descended(seen: Any) -> Callable[[], object]:
        return lambda: gflow.descend(
            model, task.objective, optimizer=optimizer, steps=steps, observables=seen,
            save_every=max(steps // 20, 1),
        )  # fmt: skip

    runs = {
        "by hand": lambda: jax.block_until_ready(by_hand(arrays)),
        "descend": descended(None),
        "descend, ranks": descended(watched),
    }
    for once in runs.values():
        once()
    return {
        name: float(np.median(taken.cpu))
        for name, taken in interleaved(runs, 1 if quick else 5).items()
    }


def asked(part: dict[str, Any]) -> tuple[list[tuple[str, float, float | None]], ...]:
    """(name, bound, measured) of all that must be at most the bound, and at least."""
    flows = {row["method"]: row for row in part.get("flows", [])}
    training = part.get("training", {})

    def over(one: str, other: str) -> float | None:
        return training[one] / training[other] if training else None

    watched = over("descend, ranks", "descend")
    most = [
        ("s of a vision transformer's flow to t = 100", SECONDS,
         flows["chosen"]["seconds"] if flows else None),
        ("descend over a hand-written loop, a step of a vision transformer", LOOP,
         over("descend", "by hand")),
        ("observables' share of training a vision transformer", WATCHED,
         None if watched is None else watched - 1.0),
    ]  # fmt: skip
    fewer = flows["Tsit5"]["gradients"] / flows["RKC2"]["gradients"] if flows else None
    return most, [("gradients of Tsit5 over RKC2's, a vision transformer", FEWER, fewer)]


def tables(part: dict[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, head and rows."""
    head = ["method", "weights", "t", "steps", "gradients", "s", "CPU s", "loss"]
    rows = [
        [r["method"], str(r["weights"]), f"{r['t']:g}", str(r["steps"]),
         str(r["gradients"]) if r["gradients"] else "not counted",
         f"{r['seconds']:.3g}", f"{r['cpu_seconds']:.3g}", f"{r['loss']:.6g}"]
        for r in part.get("flows", ())
    ]  # fmt: skip
    trained = [[name, f"{seconds:.3g}"] for name, seconds in part.get("training", {}).items()]
    found = [("Flow of a vision transformer", head, rows)] if rows else []
    return [*found, ("Training it", ["loop", "CPU s"], trained)] if trained else found
