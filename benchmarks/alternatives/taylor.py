r"""heyoka: Taylor series of the flow to the order that the tolerance asks for, compiled by LLVM.

The expressions have the numbers of H and b in them; what differs from start to start is a
parameter, so that a problem is compiled once for each tolerance. heyoka measures errors
against the largest component of the state, or against 1 where that is smaller: raw factors
are therefore held over the largest one of the start.

In dual coordinates a dormant weight is e^{2y} times something tiny, which no coefficient of
the series shows, however far it is followed. No step is longer than what keeps the rest of the
series of that exponential below the tolerance, at the largest force there is at the start.
"""

import math
import time
from functools import cache

import numpy as np

from ..landscapes import Quadratic
from .base import Method, Solution

#: Larger systems take minutes to compile.
LARGEST = 100

#: From this many weights on the compiled code is loops, not one long line.
LONG = 20

#: heyoka's own tolerance is the rounding of a float.
DEFAULT = float(np.finfo(float).eps)

STEP_LIMIT = 20_000_000


def _force(hk, landscape: Quadratic, theta: list) -> list:
    """b − Hθ of expressions."""
    return [
        hk.sum([hk.expression(float(b)), *(-float(h) * x for h, x in zip(row, theta, strict=True))])
        for row, b in zip(landscape.hessian, landscape.linear, strict=True)
    ]


@cache
def compiled(landscape: Quadratic, coordinates: str, tolerance: float):
    """The integrator of all starts of a problem."""
    import heyoka as hk

    p, par = len(landscape.linear), hk.par
    u, v = (hk.make_vars(*(f"{name}{i}" for i in range(p))) for name in "uv")
    if coordinates == "raw":
        theta = [(par[0] * a) * (par[0] * b) for a, b in zip(u, v, strict=True)]
        g = _force(hk, landscape, theta)
        system = [(a, f * b) for a, b, f in zip([*u, *v], [*v, *u], [*g, *g], strict=True)]
    else:
        logs = [(2.0 * (par[i] + u[i]), 2.0 * (par[p + i] - u[i])) for i in range(p)]
        theta = [0.25 * hk.exp(a) - 0.25 * hk.exp(b) for a, b in logs]
        system = list(zip(u, _force(hk, landscape, theta), strict=True))
    return hk.taylor_adaptive(
        system, np.ones(len(system)), tol=tolerance, compact_mode=p > LONG,
        pars=np.zeros(1 if coordinates == "raw" else 2 * p),
    )  # fmt: skip


def forget() -> None:
    """Compile anew, whatever was compiled before."""
    compiled.cache_clear()
    try:
        from heyoka import llvm_state
    except ImportError:
        return
    llvm_state.clear_memcache()
    llvm_state.set_diskcache_enabled(False)


def _growth(order: int, tolerance: float) -> float:
    """The largest x for which the rest of the series of eˣ is below the tolerance."""
    return math.exp((math.log(tolerance) + math.lgamma(order + 2)) / (order + 1))


def _run(formulation, times, tolerance, limit):
    landscape, factors = formulation.landscape, formulation.factors
    asked = tolerance.atol if formulation.absolute else tolerance.rtol
    asked, longest = DEFAULT if asked is None else asked, math.inf
    kind = "dual" if formulation.absolute else "raw"
    integrator = compiled(landscape, kind, asked)
    if formulation.absolute:
        integrator.pars[:] = np.concatenate([factors.log_s, factors.log_d])
        integrator.state[:], size = formulation.start, 1.0
        speed = float(np.max(np.abs(formulation.rhs(0.0, formulation.start))))
        longest = _growth(integrator.order, asked) / (2.0 * speed)
    else:
        size = float(np.max(np.abs(formulation.start)))
        integrator.pars[0], integrator.state[:] = size, formulation.start / size
    integrator.time = 0.0
    options = {} if limit is None else {"callback": _watch(limit)}
    outcome, *_, states = integrator.propagate_grid(
        grid=np.concatenate([[0.0], times]), max_steps=STEP_LIMIT, max_delta_t=longest, **options
    )
    done = len(states) == len(times) + 1 and bool(np.all(np.isfinite(states)))
    weights = formulation.weights(size * states[1:])
    return Solution(weights, done, message="" if done else str(outcome))


def _watch(limit: float):
    """Goes on until the time is over; not there when a run is timed."""
    deadline = time.perf_counter() + limit
    return lambda integrator: time.perf_counter() < deadline


def _applies(formulation) -> bool:
    landscape = formulation.landscape
    return isinstance(landscape, Quadratic) and len(landscape.linear) <= LARGEST


METHODS = [
    Method("heyoka", "heyoka", "raw", _run, _applies, DEFAULT),
    Method("dual, heyoka", "heyoka", "dual", _run, _applies, DEFAULT),
]
