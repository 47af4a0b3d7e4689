"""What it costs to read a run: error bars, stages, a comparison; and the stages of a batch.

Every reading is of a trajectory that nothing was read of before, warm, in turns with the run it
reads.
"""

from functools import partial
from typing import Any

import gflow
import theory

from .batch import stacked
from .clock import Taken
from .grids import alpha_name
from .problems import MAIN, Case, problem

EXPONENTS = (16, 100)
MEMBERS = 120

RUN, BARE, STAGES, COMPARE = "default run", "run without error bars", "stages", "compare"
BATCH, ALL_STAGES = f"batch of {MEMBERS}", f"stages of {MEMBERS} members"

#: (what, over what, at most so many times its CPU time).
ASKED = (
    (STAGES, RUN, 0.3),
    (COMPARE, RUN, 0.5),
    (RUN, BARE, 1.6),
    (ALL_STAGES, BATCH, 0.5),
)


def run(quick: bool, say) -> dict[str, Any]:
    """`rows`: α, what was done, wall and CPU seconds."""
    rows = []
    for exponent in (4,) if quick else EXPONENTS:
        case = problem("zhao" if quick else MAIN).at(exponent)
        say(f"reading: a run at {alpha_name(exponent)}")
        taken = single(case, 2 if quick else 15)
        say(f"reading: a batch at {alpha_name(exponent)}")
        taken |= batch(case, 4 if quick else MEMBERS, 1 if quick else 5)
        label = {"problem": case.problem.name, "exponent": exponent}
        rows += [{**label, "what": name, **x.medians} for name, x in taken.items()]
    return {"rows": rows}


def single(case: Case, repetitions: int) -> dict[str, Taken]:
    """A run with and without error bars, its stages, and its comparison."""
    objective = case.problem.objective
    prediction = theory.gradual_rank.predict(case.model, objective)
    go = partial(gflow.simulate, case.model, objective, t1=case.t1)
    bare = partial(go, error_bars=False)
    taken = {name: Taken() for name in (RUN, BARE, STAGES, COMPARE)}
    for turn in range(repetitions + 1):
        if turn == 1:  # what was compiled before is no matter
            taken = {name: Taken() for name in taken}
        first: Any = taken[RUN].timing(go)
        taken[BARE].timing(bare)
        taken[STAGES].timing(first.stages)
        taken[COMPARE].timing(partial(theory.compare, go(), prediction))
    return taken


def batch(case: Case, members: int, repetitions: int) -> dict[str, Taken]:
    """Many members integrated, and the stages of all of them."""
    models = stacked(case, members)
    go = partial(gflow.simulate_batch, models, case.problem.objective, t1=case.t1)
    taken = {name: Taken() for name in (BATCH, ALL_STAGES)}
    for turn in range(repetitions + 1):
        if turn == 1:
            taken = {name: Taken() for name in taken}
        runs: Any = taken[BATCH].timing(go)
        taken[ALL_STAGES].timing(runs.stages)
    return taken


def asked(part: dict[str, Any]) -> tuple[list[tuple[str, float, float | None]], ...]:
    """(name, bound, measured) of all that must be at most the bound, and at least."""
    taken = {(row["exponent"], row["what"]): row["cpu_seconds"] for row in part.get("rows", ())}
    most = []
    for exponent in EXPONENTS:
        for what, over, bound in ASKED:
            pair = [taken.get((exponent, name)) for name in (what, over)]
            ratio = None if None in pair else pair[0] / pair[1]
            name = f"{what} over {over}, CPU, p = 10, {alpha_name(exponent)}"
            most.append((name, bound, ratio))
    return most, []


def tables(part: dict[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, head and rows."""
    rows = [
        [row["problem"], alpha_name(row["exponent"]), row["what"],
         *(f"{1e3 * row[key]:.3g}" for key in ("seconds", "cpu_seconds"))]
        for row in part.get("rows", ())
    ]  # fmt: skip
    head = ["problem", "α", "what", "ms", "CPU ms"]
    return [("Reading a run", head, rows)] if rows else []
