"""The end state alone: what one trajectory costs when nothing else is asked for.

Every method is timed at the loosest tolerance, of four a decade, at which it is right at all times
compared, so that no error is hidden by a run that comes to rest; then it is asked for nothing but
the last weights. gflow records its steps all the same. Dense factors are those of a 5 × 5 network
from balanced factors, Dopri8 on the plain ones (at 1e-16 their rounding alone is about 10⁻⁶).
"""

import dataclasses
import math
from functools import cache
from typing import Any

import numpy as np

import gflow

from . import floor
from .accuracy import Verdict
from .contenders import FLOW, contenders, timed
from .floor import FLOOR
from .gauge import network
from .grids import alpha_name
from .networks import DeepLinear, MatrixFactorisation
from .problems import MAIN, Case, Problem, problem
from .single import sweep

DENSE, DOPRI, LARGE = "dense factors 5 × 5", "Diffrax Dopri8", "regression-1000"
COMPARED = (FLOW, FLOOR, DOPRI, "heyoka", "dual, heyoka")

CASES = (
    (MAIN, (2, 8, 16, 100, 1_000_000)),
    ("softmax", (2, 4, 8, 16)),
    (DENSE, (8, 16)),
    (LARGE, (100,)),
)

#: Four a decade, loosest first.
TOLERANCES = tuple(10.0 ** (-k / 4) for k in range(12, 45))

#: Longest wall time of one attempt, in seconds.
LIMIT = 4.0

#: (problem, −log₁₀ α, at most so many times the CPU time of Dopri8).
OVER_DOPRI = (
    *((MAIN, e, most) for e, most in ((2, 1.5), (8, 1.0), (16, 1.0), (100, 0.5))),
    *(("softmax", e, 1.0) for e in (2, 4, 8, 16)),
    *((DENSE, e, 1.5) for e in (8, 16)),
    (LARGE, 100, 1.0),
)  # fmt: skip


@cache
def dense() -> Problem:
    """The 5 × 5 network of `gauge`, five modes from balanced factors."""

    def raw(model):
        plain: Any = gflow.to_factors(model)
        matrices = MatrixFactorisation(np.asarray(network(5, -1.0)[1].target))
        return matrices.raw(DeepLinear(plain.weight.right.T, plain.weight.left))

    return Problem(
        name=DENSE,
        model=lambda log_alpha, key: network(5, log_alpha)[0],
        objective=network(5, -1.0)[1],
        read=lambda run: run.observables["weight"].reshape(len(run.t), -1),
        raw=raw,
        dual=lambda model: None,
        tau1=1.25,
        jumps=lambda log_alpha: (np.zeros(0), np.zeros(0)),
        exponents=(8, 16),
    )


def run(quick: bool, say) -> dict[str, Any]:
    """`rows`: problem, α, method, its tolerance and error, wall and CPU time."""
    why = floor.missing()
    if why is not None:
        say(why)
    rows = []
    for name, exponents in (("zhao", (4,)),) if quick else CASES:
        for exponent in exponents:
            say(f"ends: {name} at {alpha_name(exponent)}")
            case = (dense() if name == DENSE else problem(name)).at(exponent)
            rows += measure(case, 2 if quick else 25)
    return {"rows": rows} | ({} if why is None else {"floor": why})


def measure(case: Case, repetitions: int) -> list[dict[str, Any]]:
    """One row a method."""
    rows, chosen = {}, []
    ends = {c.name: c for c in contenders(dataclasses.replace(case, end_only=True), bars=False)}
    for contender in contenders(case, bars=False):
        if contender.name not in COMPARED:
            continue
        tried = sweep(case, contender, TOLERANCES, LIMIT)[-1]
        rows[contender.name] = {**tried, "seconds": math.inf, "cpu_seconds": math.inf}
        if tried["verdict"] == Verdict.RIGHT:
            end = ends[contender.name]
            end.solve(tried["tolerance"], None)  # may compile
            chosen.append((end, tried["tolerance"], tried["attempt_seconds"]))
    for name, times in timed(chosen, repetitions).items():
        rows[name] |= times
    return list(rows.values())


def _cpu(part: dict[str, Any], name: str, exponent: int, method: str) -> float | None:
    """CPU seconds; ∞ where the method is never right, None where it was not tried."""
    for row in part.get("rows", ()):
        if (row["problem"], row["exponent"], row["method"]) == (name, exponent, method):
            seconds = row["cpu_seconds"]
            return math.inf if row["verdict"] != Verdict.RIGHT or seconds is None else seconds
    return None


def asked(part: dict[str, Any]) -> tuple[list[tuple[str, float, float | None]], ...]:
    """(name, bound, measured) of all that must be at most the bound, and at least."""

    def ratio(over, under):
        return None if over is None or under is None else over / under

    most = []
    for name, exponent, bound in OVER_DOPRI:
        own, other = (_cpu(part, name, exponent, method) for method in (FLOW, DOPRI))
        what = f"gflow over Dopri8, CPU, end state, {name}, {alpha_name(exponent)}"
        most.append((what, bound, ratio(own, other)))
    far, near = (_cpu(part, MAIN, e, FLOW) for e in (1_000_000, 16))
    most.append(("CPU at 10^-1000000 over CPU at 1e-16, end state, p = 10", 1.5, ratio(far, near)))
    return most, []


def tables(part: dict[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, head and rows: wall and CPU time, and how many times the floor that is."""
    rows = []
    for row in part.get("rows", ()):
        if row["verdict"] != Verdict.RIGHT:
            cells = ["–", "–", "–", str(row["verdict"]), "–"]
        else:
            least = _cpu(part, row["problem"], row["exponent"], FLOOR)
            over = "–" if least is None else f"{row['cpu_seconds'] / least:.3g}"
            cells = [f"{1e3 * row[key]:.3g}" for key in ("seconds", "cpu_seconds")]
            cells += [f"{row['tolerance']:.2g}", f"{row['error']:.1e}", over]
        rows.append([row["problem"], alpha_name(row["exponent"]), row["method"], *cells])
    head = ["problem", "α", "method", "ms", "CPU ms", "rtol", "error", "over the floor"]
    return [("End state alone", head, rows)] if rows else []
