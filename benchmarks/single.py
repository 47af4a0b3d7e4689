"""One trajectory: what it costs each method to be right, and what their defaults claim.

For each problem and α every method is tried at tolerances from 10⁻³ down until no weight
is off by more than 10⁻⁶ at the times compared. At that tolerance all that got there are
timed warm, in turns. Cold times are those of the problem's first α.
"""

import math
from collections.abc import Iterable
from typing import Any

import gflow

from .accuracy import Verdict, classify, error, reference
from .alternatives import TOLERANCES
from .contenders import LIMIT, SHOWN, SLOW, Contender, cold_seconds, contenders, timed
from .grids import EXPONENTS, alpha_name
from .problems import MAIN, PROBLEMS, Case, problem

#: Where the untuned settings are tried: six transitions, and one with a deactivation.
SETTINGS_ON = (MAIN, "zhao")


def run(quick: bool, say, names: list[str] | None = None) -> dict[str, Any]:
    """The rows of all problems: `costs`, `sweeps`, `settings`, `cold`, `steps`."""
    names = ["zhao"] if quick else names or list(PROBLEMS)
    results: dict[str, Any] = {"costs": [], "sweeps": [], "settings": [], "cold": []}
    for name in names:
        flow = problem(name)
        exponents = (4, 10_000) if quick else flow.exponents
        for exponent in exponents:
            case = flow.at(exponent)
            say(f"{name} at {alpha_name(exponent)}")
            field = [c for c in contenders(case) if not quick or c.name in SHOWN]
            if exponent == exponents[0] and not quick:
                results["cold"] += [_cold(case, c) for c in field]
            costs, sweeps = measure(case, field, 2 if quick else 5)
            results["costs"] += costs
            results["sweeps"] += sweeps
            if name in SETTINGS_ON and not quick:
                results["settings"] += settings(case, contenders(case, bars=False))
    results["steps"] = [] if quick else [_steps(exponent) for exponent in (3, *EXPONENTS)]
    return results


def _steps(exponent: int) -> dict[str, Any]:
    """Attempted steps of gflow on the main problem at its default tolerance."""
    case = problem(MAIN).at(exponent)
    run = gflow.simulate(case.model, case.problem.objective, t1=case.t1, error_bars=False)
    counts = [run.statistics[key] for key in ("accepted", "rejected")]
    return {"exponent": exponent, "steps": sum(counts)}


def _cold(case: Case, contender: Contender) -> dict[str, Any]:
    return {**_label(case, contender), "seconds": cold_seconds(contender)}


def _label(case: Case, contender: Contender) -> dict[str, Any]:
    return {
        "problem": case.problem.name,
        "exponent": case.exponent,
        "method": contender.name,
        "coordinates": contender.coordinates,
    }


def measure(case: Case, field: list[Contender], repetitions: int) -> tuple[list, list]:
    """One row a method with its loosest right tolerance and times, and one with its sweep."""
    sweeps, chosen = [], []
    best: dict[str, dict[str, Any]] = {}
    for contender in field:
        tried = sweep(case, contender)
        keys = ("tolerance", "error", "verdict")
        sweeps.append(
            {**_label(case, contender), **{key: [row[key] for row in tried] for key in keys}}
        )
        best[contender.name] = tried[-1]
        if tried[-1]["verdict"] != Verdict.RIGHT:
            continue
        tolerance = tried[-1]["tolerance"]
        chosen.append((contender, tolerance, tried[-1]["attempt_seconds"]))
        if case.problem.name == MAIN and tried[-1]["evaluations"] < 0 and repetitions >= 5:
            tried[-1]["evaluations"] = contender.count(tolerance)
    times = timed(chosen, repetitions)
    truth = reference(case)
    shared = {"off_jumps": case.off_jumps, "reference_difference": truth.difference}
    nothing = dict.fromkeys(("seconds", "cpu_seconds", "fastest", "slowest"), math.inf)
    nothing["repetitions"] = 0
    return [{**row, **shared, **times.get(name, nothing)} for name, row in best.items()], sweeps


def sweep(
    case: Case,
    contender: Contender,
    tolerances: Iterable[float] = TOLERANCES,
    limit: float = LIMIT,
) -> list[dict[str, Any]]:
    """Attempts from the loosest tolerance to the first that is right or outlasts the limit."""
    truth, tried = reference(case), []
    for tolerance in tolerances:
        solution = contender.solve(tolerance, limit)
        if not tried and solution.claims and solution.seconds > SLOW:  # or only compiled
            solution = contender.solve(tolerance, limit)
        off = error(solution, truth)
        verdict = classify(solution.claims, off, contender.asked(tolerance))
        tried.append(
            {
                **_label(case, contender),
                "tolerance": tolerance,
                "error": off,
                "verdict": verdict,
                "evaluations": solution.evaluations,
                "jacobians": solution.jacobians,
                "attempt_seconds": solution.seconds,
                "message": solution.message,
            }
        )
        if verdict == Verdict.RIGHT or solution.seconds > limit / 2:
            break
    return tried


def settings(case: Case, field: list[Contender]) -> list[dict[str, Any]]:
    """What each method claims, and whether it is so, at settings nobody tuned."""
    truth, rows = reference(case), []
    for contender in field:
        for setting in contender.settings:
            solution, asked = contender.set_to(setting, LIMIT)
            off = error(solution, truth)
            rows.append(
                {
                    **_label(case, contender),
                    "setting": setting,
                    "error": off,
                    "verdict": classify(solution.claims, off, asked),
                    "message": solution.message,
                }
            )
    return rows
