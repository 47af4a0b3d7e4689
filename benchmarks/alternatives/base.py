"""What every method is asked and what it answers."""

import dataclasses
import importlib
import time
from collections.abc import Callable

import numpy as np

from ..formulations import Formulation

#: Tolerances of the sweep, loosest first.
TOLERANCES = tuple(10.0**-k for k in range(3, 12))


@dataclasses.dataclass(frozen=True)
class Tolerance:
    """Relative and absolute; None leaves a library's own default."""

    rtol: float | None
    atol: float | None


class TimeLimit(Exception):
    """The right-hand side was called after the deadline."""


@dataclasses.dataclass(eq=False)
class Solution:
    """What a method returned.

    - `weights`: effective weights at the asked times, None where there are not all.
    - `claims`: whether the method itself reports success.
    - `evaluations`, `jacobians`: of the force; −1 where the library does not tell.
    - `message`: why it failed.
    """

    weights: np.ndarray | None
    claims: bool
    evaluations: int = -1
    jacobians: int = 0
    message: str = ""
    seconds: float = float("nan")


@dataclasses.dataclass(frozen=True)
class Method:
    """An alternative: `run(formulation, times, tolerance, limit)` in some coordinates.

    `limit` is a wall time in seconds, or None for timed runs, which are known to end.
    `library` is what has to be installed; `applies` says for which formulations it was
    written; `default_rtol` is what the library takes when nothing is asked;
    `has_tolerance` is false for a method with a fixed step.
    """

    name: str
    library: str
    coordinates: str
    run: Callable[[Formulation, np.ndarray, Tolerance, float | None], Solution]
    applies: Callable[[Formulation], bool] = lambda formulation: True
    default_rtol: float = 1e-3
    has_tolerance: bool = True

    @property
    def installed(self) -> bool:
        try:
            importlib.import_module(self.library)
        except ImportError:
            return False
        return True

    def __call__(self, formulation, times, tolerance, limit=None) -> Solution:
        """Run, with exceptions and incomplete answers turned into failures."""
        began = time.perf_counter()
        try:
            with np.errstate(all="ignore"):
                solution = self.run(formulation, times, tolerance, limit)
        except TimeLimit:
            solution = Solution(None, False, message=f"time limit of {limit:g} s")
        except Exception as error:  # whatever a library raises is its way to say it failed
            solution = Solution(None, False, message=f"{type(error).__name__}: {error}"[:200])
        solution.seconds = time.perf_counter() - began
        if solution.weights is not None and len(solution.weights) != len(times):
            solution.weights = None
        if solution.weights is None and solution.claims:
            solution.claims, solution.message = False, "stopped before the end"
        return solution


def guarded(rhs: Callable, limit: float | None) -> Callable:
    """`rhs`, which raises TimeLimit once `limit` seconds have passed."""
    if limit is None:
        return rhs
    deadline = time.perf_counter() + limit

    def watched(t, y):
        if time.perf_counter() > deadline:
            raise TimeLimit
        return rhs(t, y)

    return watched


def relative_to_start(formulation: Formulation, tolerance: float) -> Tolerance:
    """The tolerance of a user who knows the problem.

    Raw factors: relative, with an absolute part far below the smallest start (10⁻³⁰⁰, or
    less where that is not far below). Dual coordinates: absolute, as y is a logarithm;
    the relative part stays at the rounding level that SciPy insists on.
    """
    if formulation.absolute:
        return Tolerance(100 * np.finfo(float).eps, tolerance)
    return Tolerance(tolerance, min(1e-300, 1e-6 * formulation.scale))
