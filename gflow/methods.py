"""Which solver a flow is given, and why."""

from typing import Any

import diffrax

from .coordinates import LogCoordinates
from .flow import Flow
from .solvers import Rodas5P


def choose(flow: Flow, solver: Any) -> diffrax.AbstractAdaptiveSolver:
    logarithmic = any(isinstance(c, LogCoordinates) for c in flow.coordinates)
    if solver is None:
        return Rodas5P() if logarithmic else diffrax.Tsit5()
    if not isinstance(solver, diffrax.AbstractAdaptiveSolver):
        raise ValueError(
            f"solver = {solver!r} has no error estimate. Pass an adaptive Diffrax solver "
            "(diffrax.Tsit5(), diffrax.Kvaerno5(), gflow.solvers.Rodas5P()) or None."
        )
    implicit = isinstance(solver, diffrax.AbstractImplicitSolver | Rodas5P)
    if implicit and not logarithmic:
        raise ValueError(
            f"{type(solver).__name__} on raw weights damps the escape from a saddle that it "
            "should follow, and reports success. Use gflow.Hadamard leaves (log coordinates), "
            "or an explicit method such as diffrax.Tsit5()."
        )
    return solver


def describe(flow: Flow, solver: Any, rtol: float) -> str:
    kinds = sorted({type(c).__name__.removesuffix("Coordinates").lower() for c in flow.coordinates})
    return f"{type(solver).__name__} in {' and '.join(kinds)} coordinates, rtol={rtol:g}"
