"""Which solver a flow is given and why, and what is refused."""

import math
import os
import sys
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from .._arguments import number
from ..flow._flow import Flow
from ..kinks._treatments import Sides
from ..solvers import RKC2, ROCK4, Dopri8, Rodas5P, Switching, Tsit5
from ._units import UnitFlow

#: Up to this many state components a Rosenbrock step, with its dense Jacobian, is the cheapest for
#: a stiff stretch.
DENSE = 160

#: Relative tolerance from which on order 8 is cheaper than order 5 on raw weights. Of logarithms
#: it is at any: their steps are long, and there are fewest of them.
TIGHT = 1e-7

#: Relative tolerance above which order 2 is the cheapest for a long stiff stretch of raw weights:
#: the finishing stages of ROCK4 reject steps there that those of RKC2 take.
LOOSE = 2e-5

#: The interval of stability of Dopri8 on the negative real axis.
_INTERVAL = 5.2

#: Steps held down in a row before a batch takes the Rosenbrock method, whose matrices of many
#: members cost more the larger they are; fewer than there are in a round.
_MOST_PATIENCE = 24


def choose(
    flow: Flow, solver: Any, rtol: float, members: int | None = None
) -> diffrax.AbstractAdaptiveSolver:
    """The solver given, if it is adaptive, or the one that suits the coordinates.

    Logarithms are stiff on every plateau, for a time that grows with log(1/α), and not in the
    transitions, which take most of the steps: these are followed by Dopri8 (raw weights at loose
    tolerances by Tsit5) and what is stiff by Rodas5P, beyond `DENSE` by ROCK4 (raw weights at
    looser ones by RKC2). A batch of up to
    `DENSE` logarithms takes Rodas5P throughout, whose matrices need no pivots there; one of columns
    is more patient with the explicit method than a single run. Units take Rodas5P with scaled rows.
    """
    if isinstance(flow, UnitFlow):
        return Rodas5P(scaled=True)
    logarithms = [c for c in flow.coordinates if c.chart.logarithmic]
    logarithmic, columns = bool(logarithms), not all(c.chart.symmetric for c in logarithms)
    if solver is None:
        batched, size = members is not None, flow.size // (members or 1)
        # of logarithms the matrix of a step is similar to a symmetric one and needs no pivots
        rosenbrock = Rodas5P(pivot=columns or not logarithmic)
        if batched and logarithmic and not columns and size <= DENSE:
            return rosenbrock
        if isinstance(flow.kinks, Sides) and not logarithmic:  # no stiffness of kinks is left
            return Dopri8() if rtol <= TIGHT else Tsit5()
        # the finishing stages of ROCK4 amplify rounding, which float32 cannot afford
        fourth = jnp.finfo(flow.dtype).eps < 1e-12 and (logarithmic or rtol <= LOOSE)
        stiff = rosenbrock if size <= DENSE else ROCK4() if fourth else RKC2()
        waits: Any = {}
        if batched and len(logarithms) == len(flow.coordinates) and stiff is rosenbrock:
            waits = {"patience": min(3 + size // 3, _MOST_PATIENCE), "unstable": math.inf}
        if rtol <= TIGHT or logarithmic:
            return Switching(Dopri8(), stiff, interval=_INTERVAL, **waits)
        return Switching(Tsit5(), stiff)
    if not isinstance(solver, diffrax.AbstractAdaptiveSolver):
        raise ValueError(
            f"solver = {solver!r} has no error estimate. Pass an adaptive Diffrax solver "
            "(diffrax.Tsit5(), diffrax.Dopri8(), diffrax.Kvaerno5(), gflow.solvers.Rodas5P(), "
            "gflow.solvers.ROCK4(), gflow.solvers.RKC2()) or None."
        )
    return solver


_IMPLICIT = (diffrax.AbstractImplicitSolver, Rodas5P)


def _methods(solver: Any) -> tuple[Any, ...]:
    return (solver.explicit, solver.stiff) if isinstance(solver, Switching) else (solver,)


def _name(solver: Any) -> str:
    return " with ".join(type(s).__name__ for s in _methods(solver))


def describe(flow: Flow, solver: Any, rtol: float, counts: dict[str, Any]) -> str:
    """The method in words, with the share of each of two that took turns."""
    kinds = sorted({c.chart.__name__.removesuffix("Coordinates").lower() for c in flow.coordinates})
    name = _name(solver)
    if isinstance(solver, Switching) and counts:
        stiff = int(np.sum(counts["stiff_steps"]))
        total = stiff + int(np.sum(counts["explicit_steps"]))
        first, second = (type(s).__name__ for s in _methods(solver))
        name = f"{first}, and {second} where stiff ({stiff} of {total} steps),"
    return f"{name} in {' and '.join(kinds)} coordinates, rtol={rtol:g}"


def better_method(flow: Flow, solver: Any, rtol: float, reach: list[float]) -> str | None:
    """Advice, when stability and not accuracy set the steps in most of the rounds."""
    held = sum(r > 2.0 for r in reach)
    if len(reach) < 2 or 2 * held <= len(reach):
        return None
    best = _name(choose(flow, None, rtol))
    return (
        f"the steps of {_name(solver)} were held down by stability, not accuracy (h·ρ > 2, with ρ "
        f"the largest relaxation rate, after {held} of {len(reach)} rounds). The result stands; "
        f"solver=None takes {best}, which does not mind."
    )


#: Roundings of a log-size may be so many times rtol: beyond that no step passes.
_BELOW = 10.0


def check_rtol(rtol: float, flow: Flow) -> None:
    eps = float(jnp.finfo(flow.dtype).eps)
    if not 64 * eps <= number("rtol", rtol, "the relative tolerance") < 1:
        raise ValueError(
            f"rtol = {rtol}: choose a number from {64 * eps:.1e} (64 roundings) to below 1."
        )
    for name, c in zip(flow.names, flow.coordinates, strict=True):
        log = np.asarray(c.log_sizes())
        farthest = np.max(np.abs(log), where=np.isfinite(log), initial=0.0)
        rounding = float(np.spacing(farthest.astype(flow.dtype)))
        if rounding > _BELOW * rtol:
            raise ValueError(
                f"Leaf {name!r} starts at log-sizes of {farthest:.4g}, which floats hold to "
                f"{rounding:.2g}, while rtol = {rtol:g} is asked of log|weight|. Take a larger "
                "rtol or a larger α (log_alpha = −1e6 is at the limit α → 0 in all but name)."
            )


def check_memory(run: Any, flow: Flow, solver: Any) -> None:
    """Refuse what cannot fit: the Jacobians of an implicit method, the record of a round."""
    numbers = sum(x[0].size for x in jax.tree.leaves(run.first))
    size = flow.size // (len(run.status) if run.batched else 1)
    dense = any(isinstance(s, _IMPLICIT) for s in _methods(solver))
    each = numbers * run.attempts * (4 if run.companion is not None else 2)
    each += 4 * size**2 if dense else 16 * size
    needed = each * run.width * jnp.dtype(flow.dtype).itemsize
    free = _free_memory() if needed > 2**28 else None
    if free is not None and needed > free:
        raise ValueError(
            f"This run needs about {needed / 2**30:.3g} GiB ({run.width} at once, {size} state "
            f"components each{', with their Jacobian' if dense else ''}), and {free / 2**30:.3g} "
            "GiB are free. Pass a smaller width, error_bars=False, fewer observables"
            + (", or solver=gflow.solvers.ROCK4() (no Jacobian)." if dense else ".")
        )


def _free_memory() -> int | None:
    """Bytes free on the device, where it tells."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        stats = device.memory_stats() or {}
        return stats["bytes_limit"] - stats["bytes_in_use"] if "bytes_limit" in stats else None
    if sys.platform.startswith("linux"):
        with open("/proc/meminfo") as file:
            fields = dict(line.split(":") for line in file)
        return int(fields["MemAvailable"].split()[0]) * 1024
    pages = os.sysconf_names.get("SC_PHYS_PAGES")
    return None if pages is None else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
