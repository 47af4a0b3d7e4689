"""Error against time and against gradient evaluations, at tolerances 10⁻³ … 10⁻¹¹.

Here the times compared are uniform and cross the jumps, so that the error of a jump's time
counts in full.
"""

import math
from typing import Any

from .accuracy import error, reference
from .alternatives import TOLERANCES
from .clock import interleaved
from .contenders import LIMIT, SHOWN, contenders
from .grids import alpha_name
from .problems import MAIN, problem

CASES = ((MAIN, 16), (MAIN, 300), (MAIN, 1_000_000), ("softmax", 16), ("diabetes", 16))


def run(quick: bool, say) -> dict[str, Any]:
    """`rows`: one a problem, method and tolerance."""
    rows = []
    for name, exponent in (("zhao", 16),) if quick else CASES:
        case = problem(name).at(exponent, across=True)
        say(f"work-precision: {name} at {alpha_name(exponent)}")
        truth = reference(case)
        for contender in contenders(case, bars=False):
            if contender.name not in SHOWN:
                continue
            for tolerance in TOLERANCES[:3] if quick else TOLERANCES:
                solution = contender.solve(tolerance, LIMIT)
                if not solution.claims:
                    break
                seconds, cpu_seconds = _warm_seconds(contender, tolerance, solution.seconds)
                off = error(solution, truth)
                rows.append(
                    {
                        "problem": name,
                        "exponent": exponent,
                        "method": contender.name,
                        "tolerance": tolerance,
                        "error": off if math.isfinite(off) else None,
                        "seconds": seconds,
                        "cpu_seconds": cpu_seconds,
                        "evaluations": solution.evaluations,
                        "reference_difference": truth.difference,
                    }
                )
                if seconds > LIMIT / 4:
                    break
    return {"rows": rows}


def _warm_seconds(contender, tolerance: float, first: float) -> tuple[float, float]:
    """Wall and CPU time: least of three further runs, or of one where a run takes seconds."""
    runs = {contender.name: lambda: contender.solve(tolerance, None)}
    taken = interleaved(runs, 3 if first < 2.0 else 1)[contender.name]
    return min(taken.wall), min(taken.cpu)
