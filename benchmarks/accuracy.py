r"""What is right: references from two unrelated solvers, errors, and the verdicts.

The reference of a case is gflow at rtol 10⁻¹² (10⁻¹¹, 10⁻¹⁰ where t itself is too large
for 10⁻¹²). Its independent check is SciPy in coordinates gflow does not use: Radau at
10⁻¹² in the dual coordinates written by hand, or DOP853 where the flow is not stiff. Radau
starts anew at every time compared, y back at 0: SciPy allows no relative tolerance below
100 roundings, which is 10⁻⁷ of a y of 10⁶. The difference of the two is reported with
every number that rests on them.
"""

import dataclasses
import enum
import math
import warnings

import numpy as np
from scipy import integrate

import gflow

from .alternatives import Solution, scipy_loops
from .alternatives.base import relative_to_start
from .formulations import dual
from .problems import Case

#: An answer is right when no weight is off by more than this at any time compared.
RIGHT = 1e-6

#: Above this (horizon) × (rate of the fastest mode) an explicit check takes minutes.
_STIFF = 3e4


class Verdict(enum.StrEnum):
    """What a run is worth to somebody who believes its status."""

    RIGHT = "right"
    INEXACT = "inexact"  # off by more than RIGHT, but not beyond what was asked for
    LIE = "lie"  # wrong, and the solver said success
    FAILED = "failed"  # exception, status, time limit


@dataclasses.dataclass(frozen=True)
class Reference:
    """Weights (times, p), where they come from, and how far the check is from them."""

    weights: np.ndarray
    source: str
    check: str
    difference: float


def error(solution: Solution, reference: Reference) -> float:
    """Largest |θ − θ_ref| over times and weights; inf where there is no finite answer."""
    if solution.weights is None or not np.all(np.isfinite(solution.weights)):
        return math.inf
    return float(np.max(np.abs(solution.weights - reference.weights)))


def classify(claims: bool, off: float, rtol: float) -> Verdict:
    """The verdict on a run that asked for `rtol`, ended `off` by, and says it succeeded.

    A tolerance is local: that the run loses three digits to accumulation is nobody's lie,
    as long as 1 % is left of weights that are O(1).
    """
    if not claims:
        return Verdict.FAILED
    if off <= RIGHT:
        return Verdict.RIGHT
    return Verdict.INEXACT if off <= min(1000 * rtol, 0.01) else Verdict.LIE


def flow_weights(case: Case, rtol: float, *, error_bars: bool = False, **options) -> Solution:
    """`gflow.simulate` of a case, as the user calls it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # unfinished runs: `claims` says so
        try:
            run = gflow.simulate(
                case.model,
                case.problem.objective,
                t1=case.t1,
                rtol=rtol,
                save=None if case.end_only else case.times,
                error_bars=error_bars,
                **options,
            )
        except ValueError as refused:  # a tolerance below the rounding of log|weight|
            return Solution(None, False, message=str(refused))
    at = np.searchsorted(run.t, case.times)
    complete = run.successful and np.array_equal(run.t[at], case.times)
    evaluations, jacobians = _work(run)
    return Solution(
        case.problem.read(run)[at] if complete else None,
        complete,
        evaluations,
        jacobians,
        "" if complete else run.status,
    )


def _work(run: gflow.Trajectory) -> tuple[int, int]:
    """Evaluations of the force and of its Jacobian; −1 where the run does not tell."""
    counts = run.statistics
    attempts = counts["accepted"] + counts["rejected"]
    if "evaluations" in counts:
        return counts["evaluations"], 0
    if run.method.startswith("Rodas5P"):
        return 8 * attempts, attempts
    if run.method.startswith("Tsit5") and counts.get("stiff_steps", 0) == 0:
        return 6 * attempts, 0
    return -1, 0


_REFERENCES: dict[tuple, Reference] = {}


def reference(case: Case) -> Reference:
    """The reference of a case, computed once."""
    if case.key not in _REFERENCES:
        _REFERENCES[case.key] = _reference(case)
    return _REFERENCES[case.key]


def _reference(case: Case) -> Reference:
    for rtol in (1e-12, 1e-11, 1e-10):
        solution = flow_weights(case, rtol, max_steps=30_000)
        if solution.claims:
            break
    else:
        raise RuntimeError(f"{case.problem.name}: no reference: {solution.message}")
    reference = Reference(solution.weights, f"gflow, rtol {rtol:g}", "", math.nan)
    check = _check_explicit(case) if _mild(case) else _check_restarted(case)
    label = "SciPy DOP853, 1e-12" if _mild(case) else "SciPy Radau, dual, restarted, 1e-12"
    return dataclasses.replace(reference, check=label, difference=error(check, reference))


def _mild(case: Case) -> bool:
    return case.raw is not None and case.t1 * 2.0 / case.raw.stable_step < _STIFF


def _check_explicit(case: Case) -> Solution:
    methods = {m.name: m for m in scipy_loops.METHODS}
    formulation = case.raw if case.dual is None else case.dual
    return methods["SciPy DOP853"](formulation, case.times, relative_to_start(formulation, 1e-12))


def _check_restarted(case: Case) -> Solution:
    here, start, weights = case.dual, 0.0, []
    with np.errstate(over="ignore"):
        for time in case.times:
            result = integrate.solve_ivp(
                here.rhs,
                (start, time),
                here.start,
                method="Radau",
                jac=here.jacobian,
                rtol=100 * np.finfo(float).eps,
                atol=1e-12,
            )
            if not result.success:
                return Solution(None, False, message=result.message)
            y, start = result.y[:, -1], time
            weights.append(here.weights(y))
            here = dual(here.landscape, here.factors.after(y))
    return Solution(np.stack(weights), True)
