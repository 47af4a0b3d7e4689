"""Weight decay: a sweep over 64 rates beside SciPy, and Optax training beside a loop by hand.

The sweep is ½‖A Bᵀ − D‖² + (λ/2)(‖A‖² + ‖B‖²), D = diag(.2 … 1), from one dense 5 × 5 start
at 64 values of λ up to t = 40: `gflow.simulate_batch` in one compiled call, and a loop over
SciPy's solvers with the field written in NumPy. All are asked for 10⁻⁸, and their errors are
measured against DOP853 at 10⁻¹³. The training is AdamW on a softmax head with factored
weights: `gflow.descend`, with its records, and a compiled loop of Optax updates that keeps
nothing but the last weights.
"""

import math
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.integrate import odeint, solve_ivp

import gflow

from .clock import Taken, interleaved
from .gauge import head
from .grids import LOG10

DECAYS, WIDTH, HORIZON, RTOL = 64, 5, 40.0, 1e-8
STEPS, RECORDED = 2000, 100


class Pair(eqx.Module):
    """W = left @ rightᵀ in plain arrays."""

    left: jax.Array
    right: jax.Array


class Distance(eqx.Module):
    """½‖A Bᵀ − D‖²."""

    target: jax.Array

    def __call__(self, model: Pair) -> jax.Array:
        return 0.5 * jnp.sum((model.left @ model.right.T - self.target) ** 2)


def run(quick: bool, say) -> dict[str, Any]:
    """`sweep` and `training`: rows of method, seconds, median and error."""
    say("decay: sweep")
    rows = sweep(8 if quick else DECAYS, 1 if quick else 5)
    say("decay: training")
    return {"sweep": rows, "training": training(200 if quick else STEPS, 2 if quick else 9)}


def sweep(count: int, repetitions: int) -> list[dict[str, Any]]:
    """Seconds for each λ, and the largest error of the products at the end."""
    rng = np.random.default_rng(0)
    start = 0.5 * rng.standard_normal((2, WIDTH, WIDTH))
    target = np.diag(np.linspace(0.2, 1.0, WIDTH))
    decays = np.linspace(0.0, 1.2, count)
    pair = Pair(*(jnp.asarray(np.broadcast_to(x, (count, WIDTH, WIDTH))) for x in start))
    objective = Distance(jnp.asarray(target))

    def field(t, y, decay):
        a, b = y.reshape(2, WIDTH, WIDTH)
        rest = target - a @ b.T
        return np.concatenate([(rest @ b).ravel(), (rest.T @ a).ravel()]) - decay * y

    def product(y):
        a, b = np.reshape(y, (2, WIDTH, WIDTH))
        return a @ b.T

    def gflow_sweep():
        batch = gflow.simulate_batch(
            pair, objective, t1=HORIZON, decay=decays, rtol=RTOL, error_bars=False
        )
        ends = [(r.observables["left"][-1], r.observables["right"][-1]) for r in batch]
        return np.stack([product(np.stack(x)) for x in ends])

    def by_ivp(method, rtol):
        def one(decay):
            out = solve_ivp(
                field, (0.0, HORIZON), start.ravel(), method, args=(decay,), rtol=rtol,
                atol=1e-4 * rtol,
            )  # fmt: skip
            return product(out.y[:, -1])

        return np.stack([one(x) for x in decays])

    def by_odeint():
        def one(decay):
            y = odeint(
                field, start.ravel(), [0.0, HORIZON], (decay,), tfirst=True, rtol=RTOL,
                atol=1e-4 * RTOL,
            )  # fmt: skip
            return product(y[-1])

        return np.stack([one(x) for x in decays])

    runs: dict[str, Callable[[], np.ndarray]] = {
        "gflow.simulate_batch": gflow_sweep,
        "SciPy odeint": by_odeint,
        "SciPy DOP853": partial(by_ivp, "DOP853", RTOL),
        "SciPy LSODA": partial(by_ivp, "LSODA", RTOL),
    }
    truth = by_ivp("DOP853", 1e-13)
    errors = {name: float(np.max(np.abs(once() - truth))) for name, once in runs.items()}
    return _rows(interleaved(runs, repetitions), count, errors)


def training(steps: int, repetitions: int) -> list[dict[str, Any]]:
    """Seconds a step of AdamW, and how far the losses at the end are apart."""
    model, objective = head(-2 * LOG10)
    optimizer = optax.adamw(1e-3, weight_decay=0.1)
    start = gflow.to_factors(model)
    arrays, rest = eqx.partition(start, eqx.is_inexact_array)

    def loss(arrays, objective):
        return objective(eqx.combine(arrays, rest))

    @eqx.filter_jit
    def loop(arrays, objective, steps):
        def step(_, carry):
            arrays, memory = carry
            gradient = jax.grad(loss)(arrays, objective)
            updates, memory = optimizer.update(gradient, memory, arrays)
            return eqx.apply_updates(arrays, updates), memory

        arrays, _ = jax.lax.fori_loop(0, steps, step, (arrays, optimizer.init(arrays)))
        return loss(arrays, objective)

    def by_hand():
        return float(loop(arrays, objective, jnp.asarray(steps)))

    def descended():
        run = gflow.descend(
            model, objective, optimizer=optimizer, steps=steps, save_every=steps // RECORDED
        )
        return float(run.loss[-1])

    runs: dict[str, Callable[[], float]] = {"gflow.descend": descended, "Optax loop": by_hand}
    ends = {name: once() for name, once in runs.items()}
    errors = {name: abs(end - ends["Optax loop"]) for name, end in ends.items()}
    return _rows(interleaved(runs, repetitions), steps, errors)


def _rows(times: dict[str, Taken], count: int, errors: dict[str, float]) -> list[dict[str, Any]]:
    return [
        {
            "method": name,
            "seconds": min(taken.wall) / count,
            "median": statistics.median(taken.wall) / count,
            "cpu_seconds": taken.medians["cpu_seconds"] / count,
            "error": errors[name],
        }
        for name, taken in times.items()
    ]


def asked(part: dict[str, Any]) -> tuple[list[tuple[str, float, float]], ...]:
    """(name, bound, measured) of all that must be at most the bound, and at least."""
    if not part:
        return [], []
    sweep, training = (
        {row["method"]: row["seconds"] for row in part[name]} for name in ("sweep", "training")
    )
    ours = sweep.pop("gflow.simulate_batch")
    most = [
        (
            "gflow.descend over an Optax loop, a step of AdamW on a head",
            1.1,
            training["gflow.descend"] / training["Optax loop"],
        )
    ]
    least = [
        ("fastest of SciPy over gflow, a value of λ in a sweep of 64", 20.0,
         min(sweep.values()) / ours),
    ]  # fmt: skip
    return most, least


def tables(part: dict[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, head and rows of the two comparisons."""
    out = []
    keys = ("seconds", "median", "cpu_seconds")
    for name, unit, factor in (("sweep", "ms a value of λ", 1e3), ("training", "µs a step", 1e6)):
        rows = [
            [r["method"], *(f"{factor * r.get(k, math.nan):.3g}" for k in keys),
             f"{r['error']:.1e}"]
            for r in part.get(name, ())
        ]  # fmt: skip
        if rows:
            out.append((f"Weight decay: {name}", ["method", unit, "median", "CPU", "error"], rows))
    return out
