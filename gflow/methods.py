"""Which solver a flow is given and why, and what is refused."""

import os
import sys
from typing import Any

import diffrax
import jax
import jax.numpy as jnp

from .coordinates import LogCoordinates
from .flow import Flow
from .solvers import Rodas5P


def choose(flow: Flow, solver: Any, members: int | None = None) -> diffrax.AbstractAdaptiveSolver:
    logarithmic = any(isinstance(c, LogCoordinates) for c in flow.coordinates)
    if solver is None:
        return Rodas5P(pivot=False) if logarithmic else diffrax.Tsit5()
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


def check_rtol(rtol: float, flow: Flow) -> None:
    eps = float(jnp.finfo(flow.dtype).eps)
    if not 64 * eps <= rtol < 1:
        raise ValueError(
            f"rtol = {rtol}: choose a number from {64 * eps:.1e} (64 roundings) to below 1."
        )


def check_memory(run: Any, flow: Flow, solver: Any) -> None:
    """Refuse what cannot fit: the Jacobians of an implicit method, the record of a round."""
    numbers = sum(x[0].size for x in jax.tree.leaves(run.first))
    size = flow.size if not run.batched else flow.size // len(run.status)
    dense = isinstance(solver, diffrax.AbstractImplicitSolver | Rodas5P)
    each = numbers * run.attempts * (4 if run.companion is not None else 2)
    each += 4 * size**2 if dense else 16 * size
    needed = each * run.width * jnp.dtype(flow.dtype).itemsize
    free = _free_memory()
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
