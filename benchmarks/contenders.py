"""gflow and the alternatives that can be tried on a case, under one signature."""

import dataclasses
import time
from collections.abc import Callable
from functools import partial

import jax

from . import floor
from .accuracy import flow_weights
from .alternatives import (
    METHODS,
    Method,
    Solution,
    Tolerance,
    diffrax_loops,
    relative_to_start,
    taylor,
)
from .clock import interleaved
from .floor import FLOOR
from .problems import Case

FLOW = "gflow"
FLOW_BARS = "gflow, error bars"

#: What is not an alternative.
OWN = (FLOW, FLOW_BARS, FLOOR)

#: The curves drawn, and all that a quick run tries.
SHOWN = (
    FLOW,
    "SciPy odeint",
    "SciPy Radau",
    "SciPy DOP853",
    "Diffrax Tsit5",
    "Diffrax Dopri8",
    "dual, SciPy odeint",
    "dual, SciPy Radau",
    "dual, Diffrax Kvaerno3",
    "dual, SUNDIALS CVODE",
)

#: Longest wall time of one attempt, in seconds.
LIMIT = 20.0

#: What takes longer is not timed as often.
SLOW = 2.0

DEFAULT = "library default"

#: The settings that are tried as they are; gflow has one, its default rtol.
SETTINGS = {
    DEFAULT: lambda formulation: Tolerance(None, None),
    "1e-8, 1e-12": lambda formulation: Tolerance(1e-8, 1e-12),
    "1e-8, far below α": lambda formulation: relative_to_start(formulation, 1e-8),
}


@dataclasses.dataclass(frozen=True)
class Contender:
    """A method on a case.

    - `solve(tolerance, limit)`: integrate. `set_to(setting, limit)`: untuned, with the
      rtol that was asked for, for each of `settings`.
    - `count(tolerance)`: evaluations of the force where `solve` does not tell (slow).
    - `asked(tolerance)`: the accuracy that a run at this tolerance promises.
    """

    name: str
    coordinates: str
    solve: Callable[[float, float | None], Solution]
    set_to: Callable[[str, float | None], tuple[Solution, float]]
    count: Callable[[float], int]
    settings: tuple[str, ...] = tuple(SETTINGS)
    asked: Callable[[float], float] = lambda tolerance: tolerance


def contenders(case: Case, *, bars: bool = True) -> list[Contender]:
    """Everything installed that can start at this α, gflow first, and the floor after it."""
    found = [_flow(case, FLOW, False)]
    if bars:
        found.append(_flow(case, FLOW_BARS, True))
    if floor.missing() is None and floor.applies(case.dual):
        found.append(_floor(case))
    for method in METHODS:
        formulation = getattr(case, method.coordinates)
        if method.installed and formulation is not None and method.applies(formulation):
            found.append(_alternative(case, method, formulation))
    return found


def _flow(case: Case, name: str, bars: bool) -> Contender:
    return _own(name, "gflow", partial(flow_weights, case, error_bars=bars))


def _floor(case: Case) -> Contender:
    return _own(
        FLOOR, "logarithms", lambda tolerance: floor.solve(case.dual, case.times, tolerance)[0]
    )


def _own(name: str, coordinates: str, weights: Callable[[float], Solution]) -> Contender:
    """What is timed as a whole, and has no other settings than its tolerance."""

    def solve(tolerance, limit):
        began = time.perf_counter()
        solution = weights(tolerance)
        solution.seconds = time.perf_counter() - began
        return solution

    return Contender(
        name=name,
        coordinates=coordinates,
        solve=solve,
        set_to=lambda setting, limit: (solve(1e-8, limit), 1e-8),
        count=lambda tolerance: -1,
        settings=(DEFAULT,),
    )


def _alternative(case: Case, method: Method, formulation) -> Contender:
    def solve(tolerance, limit):
        return method(formulation, case.times, relative_to_start(formulation, tolerance), limit)

    def set_to(setting, limit):
        tolerance = SETTINGS[setting](formulation)
        asked = method.default_rtol if tolerance.rtol is None else 1e-8
        return method(formulation, case.times, tolerance, limit), asked

    def count(tolerance):
        asked = relative_to_start(formulation, tolerance)
        return diffrax_loops.count_evaluations(method, formulation, case.times, asked)

    made = Contender(method.name, method.coordinates, solve, set_to, count)
    if method.has_tolerance:
        return made
    return dataclasses.replace(made, settings=(DEFAULT,), asked=lambda step: 1.0)


def cold_seconds(contender: Contender, tolerance: float = 1e-6) -> float:
    """First call of a process, less the imports: nothing compiled beforehand."""
    jax.clear_caches()
    taylor.forget()
    floor.compiled.cache_clear()
    return contender.solve(tolerance, LIMIT).seconds


def timed(
    chosen: list[tuple[Contender, float, float]], repetitions: int
) -> dict[str, dict[str, float]]:
    """Wall and CPU times of (contender, tolerance, seconds so far), warm: medians and extremes.

    What takes more than SLOW seconds is run twice only, after the others.
    """
    rows = {}
    for slow, turns in ((False, repetitions), (True, 2)):
        runs: dict[str, Callable[[], object]] = {
            contender.name: partial(contender.solve, tolerance, None)
            for contender, tolerance, seconds in chosen
            if (seconds > SLOW) == slow
        }
        for name, x in interleaved(runs, turns).items():
            times = {"fastest": min(x.wall), "slowest": max(x.wall), "repetitions": turns}
            rows[name] = {**x.medians, **times}
    return rows
