"""Diffrax, compiled: Tsit5 and Dopri8 on the raw factors, Kvaerno3 and 5 in dual coordinates.

A compiled loop cannot be interrupted, so a step limit stands for the time limit.
"""

import dataclasses
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .base import Method, Solution

SOLVERS = {
    "Tsit5": diffrax.Tsit5,
    "Dopri8": diffrax.Dopri8,
    "Kvaerno3": diffrax.Kvaerno3,
    "Kvaerno5": diffrax.Kvaerno5,
}

#: Diffrax has no default tolerance; this is the one of its own first example.
DEFAULT = (1e-5, 1e-5)


@eqx.filter_jit
def _solve(field, solver, start, times, rtol, atol, max_steps):
    return diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        solver,
        t0=0.0,
        t1=times[-1],
        dt0=None,
        y0=start,
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol),
        saveat=diffrax.SaveAt(ts=times),
        max_steps=max_steps,
        throw=False,
    )


@cache
def _solver(name):
    return SOLVERS[name]()


def _step_limit(size: int, implicit: bool) -> int:
    """Steps that take about as long as the time limit, for up to 50, 500 and more numbers."""
    row = (200_000, 10_000, 200) if implicit else (2_000_000, 200_000, 10_000)
    return row[0 if size < 50 else 1 if size < 500 else 2]


def _run(name, formulation, times, tolerance, limit):
    rtol, atol = DEFAULT if tolerance.rtol is None else (tolerance.rtol, tolerance.atol)
    solver = _solver(name)
    implicit = isinstance(solver, diffrax.AbstractImplicitSolver)
    arguments = [jnp.asarray(x, float) for x in (formulation.start, times, rtol, atol)]
    max_steps = _step_limit(formulation.start.size, implicit)
    solution = _solve(formulation.field, solver, *arguments, max_steps)
    claims = bool(solution.result == diffrax.RESULTS.successful)
    steps = int(solution.stats["num_steps"])
    evaluations = -1  # Newton iterations are not counted
    if not implicit:
        evaluations = 1 + steps * (solver.tableau.num_stages - int(solver.tableau.fsal))
    return Solution(
        formulation.weights(np.asarray(solution.ys)),
        claims,
        evaluations,
        steps if implicit else 0,
        "" if claims else f"stopped after {steps} steps",
    )


@eqx.filter_jit
def _solve_batch(field, solver, starts, times, rtol, atol, max_steps):
    solve = partial(_solve, field, solver, times=times, rtol=rtol, atol=atol, max_steps=max_steps)
    return jax.vmap(lambda start: solve(start=start))(starts)


def solve_batch(name, formulation, starts, times, tolerance):
    """States (batch, times, size) from `starts`, and who succeeded: jax.vmap of one solve."""
    arguments = [jnp.asarray(x, float) for x in (starts, times, tolerance.rtol, tolerance.atol)]
    max_steps = _step_limit(starts.shape[1], False)
    solution = _solve_batch(formulation.field, _solver(name), *arguments, max_steps)
    return np.asarray(solution.ys), np.asarray(solution.result == diffrax.RESULTS.successful)


class _Counted(eqx.Module):
    """A field that tells Python of each evaluation: for counting only, never timed."""

    field: Any
    tell: Callable[[Any], None] = eqx.field(static=True)

    def __call__(self, t, y, args):
        jax.debug.callback(self.tell, t)
        return self.field(t, y, args)


def count_evaluations(method: Method, formulation, times, tolerance) -> int:
    """Evaluations of the field in one run of an implicit method, which Diffrax does not report.

    A Jacobian counts as one.
    """
    calls = []
    counted = dataclasses.replace(formulation, field=_Counted(formulation.field, calls.append))
    method(counted, times, tolerance)
    jax.effects_barrier()
    return len(calls)


METHODS = [
    *(
        Method(f"Diffrax {n}", "diffrax", "raw", partial(_run, n), default_rtol=DEFAULT[0])
        for n in ("Tsit5", "Dopri8")
    ),
    *(
        Method(f"dual, Diffrax {n}", "diffrax", "dual", partial(_run, n), default_rtol=DEFAULT[0])
        for n in ("Kvaerno3", "Kvaerno5")
    ),
]
