"""What one would use instead of gflow, coded as well as a competent user would."""

from . import descent, diffrax_loops, scipy_loops, sundials, taylor, torch_loops
from .base import (
    TOLERANCES as TOLERANCES,
    Method as Method,
    Solution as Solution,
    TimeLimit as TimeLimit,
    Tolerance as Tolerance,
    relative_to_start as relative_to_start,
)

METHODS: list[Method] = [
    *scipy_loops.METHODS,
    *sundials.METHODS,
    *torch_loops.METHODS,
    *diffrax_loops.METHODS,
    *taylor.METHODS,
    *descent.METHODS,
]
