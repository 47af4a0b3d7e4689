r"""What matrices cost: the turning gauge against plain factors, the exact solution, and Diffrax.

The networks are ½‖W − Σ‖², W = A Bᵀ, dense, from balanced factors; Σ has singular values
3, 2, 1.5, 1.2, 1 at width 5 and 2 … ½ in equal steps at width 64. The head is softmax attention
with d = 8 and four columns on 32 sequences of 8 tokens. Everything that is compared is timed in
turns, and ratios are of the fastest of several runs.

A cost per step is wall time over attempted steps, with one solver and the same number of
attempts for all: of `gflow.simulate`, and of the compiled loop alone, without what is recorded.
"""

import math
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix

import gflow
from gflow.internal import ATTEMPTS, KEPT, Resting, Rounds, build_flow, divide, march, united
from gflow.models import DeepLinear, FactoredLinear, SoftmaxAttention
from theory import exact_linear

from .clock import Taken, interleaved
from .grids import LOG10

#: Columns in their gauge; plain factors that watch what they lose; bare arrays, which do not.
KINDS = ("gauge", "plain factors", "bare arrays")

#: Attempts of every run whose steps are compared.
STEPS = {"network 5": 2048, "head 8": 1024, "network 64": 512}
BATCH = 64

WIDTH, TIMES, RTOL, HORIZON = 64, 1000, 1e-10, 30.0


class Distance(eqx.Module):
    """½‖W − Σ‖² of a model that has the matrix W."""

    target: jax.Array

    def __call__(self, model):
        matrix = model.product if isinstance(model, DeepLinear) else model.matrix
        return 0.5 * jnp.sum((matrix - self.target) ** 2)


class BareHead(eqx.Module):
    """Softmax attention in four plain arrays."""

    kq: tuple[jax.Array, jax.Array]
    vo: tuple[jax.Array, jax.Array]

    def __call__(self, x):
        kq, vo = (jnp.matmul(a, b.T) for a, b in (self.kq, self.vo))
        return jax.nn.softmax(x @ kq @ x.T, axis=-1) @ (x @ vo)


def orthogonal(rng, n: int) -> np.ndarray:
    return np.linalg.qr(rng.standard_normal((n, n)))[0]


def network(width: int, log_alpha: float) -> tuple[FactoredLinear, Distance]:
    """Balanced O(1) factors at α, and a target whose every mode they can learn."""
    rng = np.random.default_rng(0)
    u, v, p, q, turn = (orthogonal(rng, width) for _ in range(5))
    sizes = np.array([3.0, 2.0, 1.5, 1.2, 1.0]) if width == 5 else np.linspace(2.0, 0.5, width)
    root = np.diag(rng.uniform(0.5, 1.5, width))
    left, right = p @ root @ turn, q @ root @ turn
    # a square product of full width keeps the sign of its determinant
    if np.prod([np.linalg.slogdet(x)[0] for x in (left, right, u, v)]) < 0:
        u[:, -1] *= -1.0
    weight = gflow.Factored(left, right, log_scale=log_alpha)
    return FactoredLinear(weight), Distance(jnp.asarray((u * sizes) @ v.T))


def head(log_alpha: float) -> tuple[SoftmaxAttention, gflow.objectives.SquaredLoss]:
    """A head of d = 8 and four columns, taught by one of its form."""
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.standard_normal((32, 8, 8)))
    kq, vo = (0.5 * rng.standard_normal((8, 2)) @ rng.standard_normal((2, 8)) for _ in range(2))
    targets = jax.vmap(SoftmaxAttention(gflow.Frozen(kq), gflow.Frozen(vo)))(x)
    pairs = [(rng.standard_normal((8, 4)), rng.standard_normal((8, 4))) for _ in range(2)]
    kq, vo = (gflow.Factored(*pair, log_scale=log_alpha) for pair in pairs)
    return SoftmaxAttention(kq, vo), gflow.objectives.SquaredLoss(x, targets)


def problem(name: str, log_alpha: float) -> tuple[Any, Any]:
    kind, size = name.split()
    return network(int(size), log_alpha) if kind == "network" else head(log_alpha)


def in_kind(model: Any, kind: str) -> Any:
    """The same model in its gauge, in plain factors or in bare arrays."""
    if kind == "gauge":
        return model
    plain = gflow.to_factors(model)
    if kind == "plain factors":
        return plain
    if isinstance(plain, FactoredLinear):
        return bare_network(plain)
    return BareHead(*((w.left, w.right) for w in (plain.kq, plain.vo)))


def bare_network(plain: Any) -> DeepLinear:
    return DeepLinear((plain.weight.right.T, plain.weight.left))


def run(quick: bool, say) -> dict[str, Any]:
    """`costs`, `steps`, `exact`, `batch` and `memory`."""
    say("gauge: cost of a step")
    names = ("network 5",) if quick else tuple(STEPS)
    results: dict[str, Any] = {"costs": [row for name in names for row in costs(name, quick)]}
    if quick:
        return results
    say("gauge: steps against α")
    results["steps"] = [steps(exponent) for exponent in (6, 20, 60, 100)]
    say(f"gauge: {WIDTH} × {WIDTH}, exact and integrated")
    results["exact"] = exact(say)
    say("gauge: many seeds")
    results["batch"] = batch()
    say("gauge: memory")
    results["memory"] = memory()
    return results


# --- (a) a step -----------------------------------------------------------------------


def costs(name: str, quick: bool) -> list[dict[str, Any]]:
    """Seconds a step of each kind: of single runs, of batches and of the loop alone."""
    attempts = 64 if quick else STEPS[name]
    model, objective = problem(name, -3 * LOG10)
    models = {kind: in_kind(model, kind) for kind in KINDS}
    ways: dict[str, Callable[[Any, Any], Callable[[], int]]] = {
        "single": partial(_single, attempts)
    }
    if not quick:
        ways["loop"] = _loop
    if not quick and name != f"network {WIDTH}":
        ways["batch"] = partial(_batch, min(attempts, 256))
    rows = []
    for way, prepare in ways.items():
        runs: dict[str, Callable[[], Any]] = {k: prepare(m, objective) for k, m in models.items()}
        done = {kind: run() for kind, run in runs.items()}
        times = interleaved(runs, 2 if quick else 9)
        rows += [
            {
                "problem": name,
                "way": way,
                "kind": kind,
                "attempts": done[kind],
                **{key: x / done[kind] for key, x in _seconds(times[kind]).items()},
            }
            for kind in KINDS
        ]
    return rows


def _seconds(taken: Taken) -> dict[str, float]:
    cpu = taken.medians["cpu_seconds"]
    return {"seconds": min(taken.wall), "median": taken.medians["seconds"], "cpu_seconds": cpu}


def quiet(call: Callable, *args, **options) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # stopped at max_steps, as asked
        return call(*args, **options)


_PLAIN = {"solver": diffrax.Tsit5(), "error_bars": False}


def _single(attempts: int, model: Any, objective: Any) -> Callable[[], int]:
    def go() -> int:
        run = quiet(gflow.simulate, model, objective, t1=1e6, max_steps=attempts, **_PLAIN)
        return run.statistics["accepted"] + run.statistics["rejected"]

    return go


def _batch(attempts: int, model: Any, objective: Any) -> Callable[[], int]:
    models = jax.tree.map(lambda x: jnp.stack([x] * BATCH) if eqx.is_array(x) else x, model)

    def go() -> int:
        run = quiet(gflow.simulate_batch, models, objective, t1=1e6, max_steps=attempts, **_PLAIN)
        return run.statistics["accepted"] + run.statistics["rejected"]

    return go


def _loop(model: Any, objective: Any) -> Callable[[], int]:
    flow = build_flow(model, objective)
    solver = _PLAIN["solver"]
    first = Rounds(
        flow,
        solver=solver,
        rtol=1e-8,
        observables={},
        start=0.0,
        end=[1e6],
        error_bars=False,
        lookout=Resting(1e-2),
    )
    pace = jax.tree.map(lambda x: jnp.asarray(x[0]), first.pace)
    parts, fixed = divide(flow, False, True)

    @eqx.filter_jit
    def advance(parts, fixed, tolerance, pace):
        def build(parts):
            return united(parts, fixed)

        far = jnp.asarray(1e6)
        return march(build, parts, solver, tolerance, 0.0 * far, far, pace, attempts=ATTEMPTS).tried

    def go() -> int:
        tried = advance(parts, fixed, first.tolerance, pace)
        return int(jnp.sum(tried))

    return go


# --- (b) steps ------------------------------------------------------------------------


def steps(exponent: int) -> dict[str, Any]:
    """Attempts of the 5 × 5 network until all five modes are learned, at default settings."""
    model, objective = network(5, -exponent * LOG10)
    run = gflow.simulate(model, objective, t1=2.4 * exponent + 20.0, error_bars=False)
    counts = {key: run.statistics[key] for key in ("accepted", "rejected")}
    return {"exponent": exponent, **counts, "loss": float(run.loss[-1])}


# --- (c), (d) a wide network ----------------------------------------------------------


def field(t, y, target):
    w1, w2 = y
    rest = target - w2 @ w1
    return w2.T @ rest, rest @ w1.T


@eqx.filter_jit
def by_hand(w1, w2, target, rtol, saveat, norm) -> diffrax.Solution:
    """What a user of Diffrax writes for (W₁, W₂)' = (W₂ᵀR, RW₁ᵀ)."""
    atol = rtol * jnp.maximum(jnp.max(jnp.abs(w1)), jnp.max(jnp.abs(w2)))
    return diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        diffrax.Tsit5(),
        t0=0.0,
        t1=HORIZON,
        dt0=None,
        y0=(w1, w2),
        args=target,
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol, norm=norm),
        saveat=saveat,
        max_steps=100_000,
    )


def _product(t, y, args):
    return y[1] @ y[0]


def exact(say) -> dict[str, Any]:
    """The product at `TIMES` times, by closed form, gflow and Diffrax, with errors."""
    model, objective = network(WIDTH, -3 * LOG10)
    bare = in_kind(model, "bare arrays")
    w1, w2 = (np.asarray(w) for w in bare.weights)
    times = np.linspace(0.0, HORIZON, TIMES + 1)[1:]
    truth = exact_linear.two_layer(w1, w2, np.asarray(objective.target), times)
    end, at_times = (
        diffrax.SaveAt(t1=True, fn=_product),
        diffrax.SaveAt(ts=jnp.asarray(times), fn=_product),
    )
    rms = optimistix.rms_norm

    def flow(model, save, solver=None):
        return gflow.simulate(
            model, objective, t1=HORIZON, rtol=RTOL, save=save, solver=solver, error_bars=False
        )

    def hand(saveat, norm):
        rtol, target = jnp.asarray(RTOL), objective.target
        return jax.block_until_ready(by_hand(w1, w2, target, rtol, saveat, norm))

    tsit5 = diffrax.Tsit5()
    runs: dict[str, Callable[[], Any]] = {
        "two_layer": lambda: exact_linear.two_layer(w1, w2, np.asarray(objective.target), times),
        "gflow, gauge, saved": lambda: flow(model, times),
        "gflow, arrays, saved": lambda: flow(bare, times),
        "Diffrax, saved": lambda: hand(at_times, rms),
        "gflow, gauge, Tsit5": lambda: flow(model, None, tsit5),
        "gflow, arrays, Tsit5": lambda: flow(bare, None, tsit5),
        "Diffrax": lambda: hand(end, rms),
        "Diffrax, max norm": lambda: hand(end, optimistix.max_norm),
    }
    rows = []
    for name, once in runs.items():
        say(f"gauge: {name}")
        result = once()
        rows.append({"method": name, **_read(result, name, times, truth)})
    taken = interleaved(runs, 3)
    rows = [row | _seconds(taken[row["method"]]) for row in rows]
    return {"width": WIDTH, "times": TIMES, "rtol": RTOL, "t1": HORIZON, "rows": rows}


def _read(result: Any, name: str, times: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """Steps, and the largest error of the product at the times it was asked for."""
    if isinstance(result, np.ndarray):
        return {"steps": 0, "error": 0.0}
    saved = name.endswith("saved")
    if isinstance(result, gflow.Trajectory):
        assert result.successful, result.status
        count = result.statistics["accepted"] + result.statistics["rejected"]
        at = np.searchsorted(result.t, times) if saved else [-1]
        if "weight" in result.observables:
            products = result.observables["weight"][at]
        else:
            first, second = (result.observables[f"weights.{i}"][at] for i in (0, 1))
            products = second @ first
    else:
        count, products = int(result.stats["num_steps"]), np.asarray(result.ys)
    return {
        "steps": count,
        "error": float(np.max(np.abs(products - (truth if saved else truth[-1:])))),
    }


# --- (e) many seeds -------------------------------------------------------------------


def batch() -> dict[str, Any]:
    """`BATCH` Gaussian starts of four columns in the 5 × 5 network at 1e-20.

    Without error bars: with them two batched QR decompositions of jaxlib 0.10.1 may wait for
    each other on a CPU, for ever.
    """
    log_alpha, t1 = -20 * LOG10, 68.0
    objective = network(5, log_alpha)[1]

    def make(key):
        return FactoredLinear.small((5, 5), 4, log_alpha=log_alpha, key=key)

    models = eqx.filter_vmap(make)(jax.random.split(jax.random.key(0), BATCH))
    members = [jax.tree.map(lambda x, i=i: x[i], models) for i in range(BATCH)]
    tsit5 = diffrax.Tsit5()

    def loop(solver):
        return [
            gflow.simulate(m, objective, t1=t1, solver=solver, error_bars=False) for m in members
        ]

    def together():
        return gflow.simulate_batch(models, objective, t1=t1, error_bars=False)

    runs: dict[str, Callable[[], Any]] = {
        "batch": together,
        "batch, all members read": lambda: list(together()),
        "loop": lambda: loop(None),
        "loop, Tsit5": lambda: loop(tsit5),
    }
    done = {name: once() for name, once in runs.items()}
    ends = [np.array([run.loss[-1] for run in done[name]]) for name in ("batch", "loop")]
    taken = interleaved(runs, 3)
    rows = [{"method": name, **_seconds(x)} for name, x in taken.items()]
    useful = done["batch"].statistics["useful_work"]
    return {
        "size": BATCH,
        "rows": rows,
        "useful_work": useful,
        "failed": len(done["batch"].failed),
        "difference": float(np.max(np.abs(ends[0] - ends[1]))),
    }


# --- (f) memory -----------------------------------------------------------------------


def memory() -> list[dict[str, Any]]:
    """What a Trajectory holds and what the process needed, at several numbers of steps."""
    rows = []
    for width, counts in ((5, (512, 1024, 2048)), (WIDTH, (1024, 4096))):
        for count in counts:
            for bars in (False, True):
                found = _in_a_process(width, count, bars)
                rows.append({"width": width, "steps": count, "error_bars": bars, **found})
    return rows


def _in_a_process(width: int, count: int, bars: bool) -> dict[str, Any]:
    command = f"from benchmarks.gauge import weigh; weigh({width}, {count}, {bars})"
    here = Path(__file__).parents[1]
    out = subprocess.run(
        [sys.executable, "-c", command],
        capture_output=True,
        text=True,
        check=True,
        cwd=here,
        timeout=600,
    )
    stored, state, peak, before = out.stdout.split()
    return {
        "stored": int(stored),
        "state": int(state),
        "peak": int(peak),
        "peak_of_setup": int(before),
    }


def weigh(width: int, count: int, bars: bool) -> None:
    """Print bytes stored, of one state, and at the peak with and without a long run."""
    jax.config.update("jax_enable_x64", True)
    model, objective = network(width, -3 * LOG10)
    options = {"t1": 1e6, "solver": diffrax.Tsit5(), "error_bars": bars}

    quiet(gflow.simulate, model, objective, max_steps=8, **options)
    before = most_resident()
    run = quiet(gflow.simulate, model, objective, max_steps=count, **options)
    assert run.statistics["accepted"] > 0.5 * count
    state = build_flow(model, objective).start().nbytes
    print(stored(run), state, most_resident(), before)


def most_resident() -> int:
    """Peak of this process in bytes; `ru_maxrss` would count the one that started it as well."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return 1024 * int(line.split()[1])
    raise RuntimeError("/proc/self/status has no VmHWM: memory is measured on Linux only.")


def stored(run: gflow.Trajectory) -> int:
    """Bytes of the arrays of a trajectory, each once."""
    fields = (run.t, run.loss, run.descent, run.observables, run.error, run.leaves, run.refined)
    arrays = [x for x in jax.tree.leaves(fields) if isinstance(x, np.ndarray)]
    return sum({x.__array_interface__["data"][0]: x.nbytes for x in arrays}.values())


# --- what was asked -------------------------------------------------------------------


def asked(part: dict[str, Any]) -> tuple[list[tuple[str, float, float]], ...]:
    """(name, bound, measured) of all that must be at most the bound, and at least."""
    if "costs" not in part:
        return [], []
    most, least = [], []
    for row in ratios(part["costs"]):
        bound = {"single": 1.3, "batch": 1.6}.get(row["way"])
        if bound is not None:
            name = (
                f"cost per step, gauge over the cheapest plain form, {row['problem']}, {row['way']}"
            )
            most.append((name, bound, row["over_cheapest"]))
    if "steps" in part:
        counts = {row["exponent"]: row["accepted"] + row["rejected"] for row in part["steps"]}
        name = "steps of the 5 × 5 network at 1e-100 over those at 1e-6, rtol 1e-8"
        most.append((name, 3.0, counts[100] / counts[6]))
    if "exact" in part:
        taken = {row["method"]: row["seconds"] for row in part["exact"]["rows"]}
        flows = min(taken["gflow, gauge, saved"], taken["gflow, arrays, saved"])
        least.append(
            (
                f"gflow over two_layer, width {WIDTH}, {TIMES} times",
                20.0,
                flows / taken["two_layer"],
            )
        )
        for kind in ("arrays", "gauge"):
            name = f"gflow in {kind} over Diffrax by hand, width {WIDTH}, Tsit5"
            most.append((name, 1.2, taken[f"gflow, {kind}, Tsit5"] / taken["Diffrax"]))
    if "memory" in part:
        name = f"bytes a trajectory of width {WIDTH} holds over what it may, 4096 steps"
        (held,) = (
            r["stored"]
            for r in part["memory"]
            if r["width"] == WIDTH and r["error_bars"] and r["steps"] == 4096
        )
        most.append((name, 1.0, held / (8 * KEPT)))
    return most, least


def ratios(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of every problem and way, the gauge over each plain form and over the cheaper."""
    out = []
    for name, way in dict.fromkeys((row["problem"], row["way"]) for row in rows):
        own = {r["kind"]: r["seconds"] for r in rows if (r["problem"], r["way"]) == (name, way)}
        over = {kind: own["gauge"] / own[kind] for kind in KINDS[1:]}
        out.append(
            {"problem": name, "way": way, "seconds": own, "over": over,
             "over_cheapest": max(over.values())}
        )  # fmt: skip
    return out


Table = tuple[str, list[str], list[list[str]]]


def tables(part: dict[str, Any]) -> list[Table]:
    """Title, head and rows of every table there is data for."""
    if "costs" not in part:
        return []

    def number(x):
        return f"{x:.3g}"

    head = [
        "problem",
        "way",
        *(f"{kind}, µs a step" for kind in KINDS),
        *(f"over {k}" for k in KINDS[1:]),
    ]
    body = [
        [row["problem"], row["way"], *(number(1e6 * row["seconds"][k]) for k in KINDS),
         *(number(row["over"][k]) for k in KINDS[1:])]
        for row in ratios(part["costs"])
    ]  # fmt: skip
    out = [("Matrices: cost of a step", head, body)]
    if "steps" in part:
        keys = ("accepted", "rejected")
        body = [[f"1e-{row['exponent']}", *(str(row[k]) for k in keys)] for row in part["steps"]]
        out.append(("Matrices: steps of the 5 × 5 network", ["α", *keys], body))
    if "exact" in part:
        body = [
            [
                row["method"],
                str(row["steps"]),
                number(1e3 * row["seconds"]),
                number(1e3 * row.get("cpu_seconds", math.nan)),
                number(row["error"]),
            ]
            for row in part["exact"]["rows"]
        ]
        title = f"Matrices: width {WIDTH}, rtol {RTOL:g}, at {TIMES} times where saved"
        out.append((title, ["method", "steps", "ms", "CPU ms", "error"], body))
    if "batch" in part:
        keys = ("seconds", "cpu_seconds")
        body = [
            [r["method"], *(number(r.get(k, math.nan)) for k in keys)]
            for r in part["batch"]["rows"]
        ]
        out.append((f"Matrices: {BATCH} seeds", ["method", "s", "CPU s"], body))
    if "memory" in part:
        keys = ("width", "steps", "error_bars", "stored", "state", "peak_of_setup", "peak")
        body = [
            [*(str(row[k]) for k in keys[:3]), *(number(row[k] / 1e6) for k in keys[3:]),
             number(row["stored"] / row["steps"] / row["state"])]
            for row in part["memory"]
        ]  # fmt: skip
        head = [*keys[:3], *(f"{k}, MB" for k in keys[3:]), "states stored a step"]
        out.append(("Matrices: memory", head, body))
    return out
