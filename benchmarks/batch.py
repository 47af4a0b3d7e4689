r"""Many seeds at once: time per trajectory against the fastest loop over single solves.

A batch is `gflow.simulate_batch` of stacked models: the same data, one random draw of the
initial factors a member. The loops are over what was fastest for one trajectory, and over
the fastest of SciPy; the batch to beat is jax.vmap of Diffrax's Dopri8 on the raw factors.
The same code runs on whatever device JAX picks.

A batch of gflow records every step of every member; that is its time. What a member costs
more when it is also read at the times compared (which the others include) is told apart.
"""

import math
import time
from functools import partial
from typing import Any

import equinox as eqx
import jax
import numpy as np

import gflow

from .accuracy import RIGHT, Verdict, error, reference
from .alternatives import TOLERANCES, Solution, Tolerance
from .alternatives.diffrax_loops import solve_batch
from .clock import interleaved
from .contenders import FLOW, OWN, Contender, contenders
from .grids import alpha_name
from .problems import MAIN, Case, problem
from .ripples import hard_member
from .single import sweep

CASES = ((MAIN, 16), (MAIN, 100), (MAIN, 1_000_000), ("softmax", 16))
SIZES = (1, 4, 32, 256)
LARGE = (1024, 4096, 16384, 65536)

#: Longest wall time of one batch, in seconds; larger ones are not tried.
LONGEST = 10.0

#: Members checked against a reference of their own, and looped over.
SAMPLE = 4


def run(quick: bool, say, *, large: bool = False) -> dict[str, Any]:
    """`batches`, `loops`, `summary` by case, and the hard member's `useful_work`."""
    if not hasattr(gflow, "simulate_batch"):
        return {"skipped": "this gflow has no simulate_batch"}
    results: dict[str, Any] = {
        "device": jax.devices()[0].device_kind,
        "platform": jax.default_backend(),
        "batches": [],
        "loops": [],
        "summary": [],
    }
    for name, exponent in (("zhao", 16),) if quick else CASES:
        say(f"batch: {name} at {alpha_name(exponent)}")
        sample = [problem(name).at(exponent, seed=seed) for seed in range(SAMPLE)]
        sizes = (4,) if quick else SIZES + (LARGE if large else ())
        loops = _loops(sample, 1 if quick else 3)
        batches = _batches(sample, sizes, 1 if quick else 3)
        results["loops"] += loops
        results["batches"] += batches
        results["summary"].append(_summary(loops, batches))
    if not quick:
        say("batch: one member 300 times harder")
        results["hard_member"] = hard_member(problem(MAIN).at(16), size=256)
    return results


def stacked(case: Case, size: int) -> Any:
    """The first `size` seeds of a problem as one model with a leading batch axis."""
    keys = jax.vmap(jax.random.key)(np.arange(size))
    return eqx.filter_vmap(partial(case.problem.model, case.log_alpha))(keys)


def _label(case: Case, method: str) -> dict[str, Any]:
    return {"problem": case.problem.name, "exponent": case.exponent, "method": method}


def _loops(sample: list[Case], repetitions: int) -> list[dict[str, Any]]:
    """Seconds a trajectory of every method, at its cheapest right tolerance for seed 0."""
    rows, chosen = [], {}
    for index, contender in enumerate(contenders(sample[0], bars=False)):
        tried = sweep(sample[0], contender)[-1]
        if tried["verdict"] != Verdict.RIGHT or tried["attempt_seconds"] > 2.0:
            continue
        peers = [contenders(case, bars=False)[index] for case in sample]
        chosen[contender.name] = partial(_solve_all, peers, tried["tolerance"])
        rows.append({**_label(sample[0], contender.name), "tolerance": tried["tolerance"]})
    times = interleaved(chosen, repetitions)
    for row in rows:
        row |= {key: x / len(sample) for key, x in times[row["method"]].medians.items()}
    return rows


def _solve_all(peers: list[Contender], tolerance: float) -> None:
    for contender in peers:
        contender.solve(tolerance, None)


def _batches(sample: list[Case], sizes: tuple[int, ...], repetitions: int) -> list[dict[str, Any]]:
    """gflow's batch and the vmapped one at every size up to what takes too long."""
    rows: list[dict[str, Any]] = []
    for size in sizes:
        last = {row["method"]: row["seconds"] for row in rows}  # a trajectory, at the size before
        slow = {name for name, seconds in last.items() if seconds * size > LONGEST}
        rows += _batch_of(sample, size, repetitions, slow)
    return rows


def _batch_of(
    sample: list[Case], size: int, repetitions: int, slow: set[str]
) -> list[dict[str, Any]]:
    """Both batches, each at its loosest tolerance that is right for every member of the
    sample."""
    case, models = sample[0], stacked(sample[0], size)
    members = {FLOW: (partial(_flow_batch, case, models), partial(_read, case, min(size, SAMPLE)))}
    if case.raw is not None:
        members["vmap, Diffrax Dopri8"] = (partial(_vmapped, case, _starts(sample, size)), list)
    rows = []
    for name, (solve, read) in members.items():
        if name in slow:
            continue
        cold = math.nan
        for tolerance in TOLERANCES:
            began = time.perf_counter()
            result = solve(tolerance)
            cold = time.perf_counter() - began if math.isnan(cold) else cold
            began = time.perf_counter()
            solutions = read(result)
            reading = (time.perf_counter() - began) / len(solutions)
            off = max(error(x, reference(c)) for x, c in zip(solutions, sample, strict=False))
            if off <= RIGHT:
                break
        else:
            continue
        taken = interleaved({name: partial(solve, tolerance)}, repetitions)[name].medians
        rows.append(
            {
                **_label(case, name),
                "size": size,
                "tolerance": tolerance,
                "error": off,
                "cold_seconds": cold,
                **{key: x / size for key, x in taken.items()},
                "reading_seconds": reading,
                "trajectories_per_second": size / taken["seconds"],
            }
        )
    return rows


def _flow_batch(case: Case, models: Any, rtol: float) -> Any:
    return gflow.simulate_batch(
        models,
        case.problem.objective,
        in_axes=(0, None),
        t1=case.t1,
        rtol=rtol,
        save=case.times,
        error_bars=False,
    )


def _read(case: Case, count: int, batch: Any) -> list[Solution]:
    """The first `count` members at the times compared."""
    solutions = []
    for trajectory in (batch[k] for k in range(count)):
        at = np.searchsorted(trajectory.t, case.times)
        complete = trajectory.successful and np.array_equal(trajectory.t[at], case.times)
        weights = case.problem.read(trajectory)[at] if complete else None
        solutions.append(Solution(weights, complete))
    return solutions


def _starts(sample: list[Case], size: int) -> np.ndarray:
    """Raw factors of the first 256 seeds, over again where more are asked for."""
    first, seeds = sample[0], range(len(sample), min(size, 256))
    cases = [*sample, *(first.problem.at(first.exponent, seed=k) for k in seeds)]
    starts = np.stack([case.raw.start for case in cases[:size]])
    return np.tile(starts, (-(-size // len(starts)), 1))[:size]


def _vmapped(case: Case, starts: np.ndarray, tolerance: float) -> list[Solution]:
    asked = Tolerance(tolerance, min(1e-300, 1e-6 * float(np.min(np.abs(starts)))))
    states, claims = solve_batch("Dopri8", case.raw, starts, case.times, asked)
    weights = case.raw.weights(states)
    return [Solution(w, bool(ok)) for w, ok in zip(weights, claims, strict=True)]


def _summary(loops: list[dict[str, Any]], batches: list[dict[str, Any]]) -> dict[str, Any]:
    """Ratios at the largest batch, and from which size on a batch is worth it."""
    own = [row for row in batches if row["method"] == FLOW]
    others = [row for row in loops if row["method"] not in OWN]
    scipy = [row for row in others if "SciPy" in row["method"]]
    largest = max(own, key=lambda row: row["size"]) if own else None
    at_256 = next((row for row in own if row["size"] == 256), largest)
    single = {row["method"]: row["seconds"] for row in loops}.get(FLOW, math.inf)
    fastest_scipy = min(scipy, key=lambda row: row["seconds"])
    cheapest_scipy = min(scipy, key=lambda row: row["cpu_seconds"])
    fastest = min(others, key=lambda row: row["seconds"])

    def break_even(seconds):
        return min((row["size"] for row in own if row["seconds"] < seconds), default=None)

    return {
        **{key: loops[0][key] for key in ("problem", "exponent")},
        "size": at_256 and at_256["size"],
        "seconds": at_256 and at_256["seconds"],
        "trajectories_per_second": largest and largest["trajectories_per_second"],
        "scipy": fastest_scipy["method"],
        "over_scipy": at_256 and fastest_scipy["seconds"] / at_256["seconds"],
        "cpu_over_scipy": at_256 and cheapest_scipy["cpu_seconds"] / at_256["cpu_seconds"],
        "alternative": fastest["method"],
        "over_alternative": at_256 and fastest["seconds"] / at_256["seconds"],
        "over_single": at_256 and single / at_256["seconds"],
        "break_even_single": break_even(single),
        "break_even_scipy": break_even(fastest_scipy["seconds"]),
    }
