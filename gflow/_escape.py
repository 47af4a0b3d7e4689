"""The escape from a saddle of order three and more, from weights of any size."""

import math
import time
import warnings
from typing import Any

import diffrax
import numpy as np
from jaxtyping import PyTree

from ._arguments import count, number
from .flow._build import (
    build_flow,
    traced_observables,
)
from .flow._flow import (
    Flow,
    Objective,
)
from .flow._order import order_of
from .flow._prepare import log_alpha_of
from .integrate._choose import check_memory, check_rtol
from .integrate._clock import Clocked
from .integrate._conditions import conditions, with_readings
from .integrate._departing import Departing
from .integrate._outcome import trajectory_of
from .integrate._round import BLOCK
from .integrate._run import Rounds
from .integrate._status import message
from .results._trajectory import Trajectory
from .solvers import Dopri8
from .stop import norm_above


def escape(
    model: PyTree,
    objective: Objective,
    *,
    level: float,
    rtol: float = 1e-8,
    observables: Any = None,
    error_bars: bool = True,
    max_steps: int = 10_000,
    progress: bool = False,
    solver: diffrax.AbstractAdaptiveSolver | None = None,
) -> Trajectory:
    r"""Gradient flow away from a saddle of order ≥ 3, until a plain weight has norm `level`.

    Where three or more small factors meet, weights of size ε take a time ε^{−1} or longer to
    grow, and then grow from ε to O(1) in a small part of it. Here every `Scaled` leaf (and
    plain array) is followed as its direction and the logarithm of its Frobenius norm, in the
    clock dr = κ dt of the relative speed, so that an ε of 1e-100 costs little more than one of
    1e-2; `Factored` and `Hadamard` leaves keep their own coordinates in the same clock. From
    `level` ≪ 1 on, `gflow.simulate(out.final, objective, …)` takes over. Weights that are
    `Scaled` with `units` need no escape: `gflow.simulate` follows them through this saddle and all
    that come after it.

    **Arguments:** `model`, `objective`, `observables`, `error_bars`, `progress` as for
    `gflow.simulate`; `level` above the norms of the start and below where the weights come to
    rest; `rtol`: relative error of weights and of times. `solver`: by default
    `diffrax.Dopri8()`; stability bounds its steps in r, so that methods of low order gain nothing.

    **Returns:** a `Trajectory`, with the clock r of every step in `.clock` and log‖W‖ of every leaf
    in `.observables["leaf.log_norm"]`; error bars are at equal r. `.remaining` is the flow time to
    the end, precise where the digits of t are used up; `.at_norm(level)` a norm on the way.
    `.final` stands at time zero, with its plain weights `Scaled` to a norm of one: it is continued
    with all digits.

    **Raises:** ValueError for bad input, a model without plain weights, one of zero norm, no
    force, and weights so small that forces underflow (for three factors, ε below 1e-146).

    ```python
    model = gflow.models.LastTokenTransformer.small(16, 16, log_epsilon=-230.26, key=key)
    start = gflow.escape(model, objective, level=0.05)
    traj = gflow.simulate(start.final, objective, t1=1e4)       # t = 0 at start.final
    ```
    """
    began = time.perf_counter()
    flow = build_flow(model, objective)
    check_rtol(rtol, flow)
    max_steps = count("max_steps", max_steps, "the most steps tried")
    level = number("level", level, "the norm at which the escape ends")
    solver = Dopri8() if solver is None else solver
    if not isinstance(solver, diffrax.AbstractERK):
        raise ValueError(
            f"solver = {solver!r}: the escape is followed by an explicit Runge–Kutta method with "
            "an error estimate, such as diffrax.Dopri8() or diffrax.Tsit5()."
        )
    names = _plain_leaves(flow)
    _check_level(names, level)
    wished = conditions(norm_above(level, *names))
    field = Clocked.of(flow)
    run = Rounds(
        field,
        solver=solver,
        rtol=rtol,
        observables=traced_observables(with_readings(observables, wished), model, field),
        start=0.0,
        end=None,
        error_bars=error_bars,
        conditions=wished,
        lookout=Departing(math.log(level)),
        attempts=BLOCK,  # beyond the level steps are many and of no use
    )
    check_memory(run, field, solver)
    _check_forces(run, names)
    run.go(max_steps, progress)
    method = (
        f"{type(solver).__name__} in polar coordinates and the clock of the relative speed, "
        f"rtol={rtol:g}"
    )
    scale = log_alpha_of(model)
    trajectory = trajectory_of(run, 0, model, *scale, method, order_of(flow, model))
    trajectory.statistics["seconds"] = time.perf_counter() - began
    if not trajectory.successful:
        why = message(trajectory.status, trajectory.cause)
        warnings.warn(f"gflow.escape: {why}.", stacklevel=2)
    return trajectory


def _plain_leaves(flow: Flow) -> dict[str, np.ndarray]:
    """The plain weights, whose norms set the clock."""
    weights = {
        name: np.asarray(c.value(c.start()))
        for name, c in zip(flow.names, flow.coordinates, strict=True)
        if c.chart.plain
    }
    if not weights:
        raise ValueError(
            f"None of the leaves {', '.join(flow.names)} is a plain weight, whose norm could set "
            "the clock of an escape. Make the weights that start small gflow.Scaled; for products "
            "of two factors gflow.simulate needs no escape."
        )
    for name, weight in weights.items():
        if not np.any(weight):
            raise ValueError(
                f"Leaf {name!r} is zero: it has no direction, which polar coordinates need. Start "
                "it at a small random value, or use gflow.simulate."
            )
    return weights


def _check_level(weights: dict[str, np.ndarray], level: float) -> None:
    largest = {name: np.max(np.abs(x)) for name, x in weights.items()}
    # squares of tiny entries would vanish
    start = max(float(np.linalg.norm(x / largest[n]) * largest[n]) for n, x in weights.items())
    if not (math.isfinite(level) and level > start):
        raise ValueError(
            f"level = {level}: it must be a finite norm above that of the largest plain weight at "
            f"the start, {start:.6g}."
        )


def _check_forces(run: Rounds, names: Any) -> None:
    """**Raises:** ValueError where the forces on all plain weights are zero, or one underflows."""
    leaves = run.first["leaves"]
    sizes = {name: float(np.max(np.abs(leaves[name]["force"]))) for name in names}
    limits = np.finfo(float)
    floor = float(limits.tiny / limits.eps)
    low = {name: size for name, size in sizes.items() if 0.0 < size < floor}
    if low or not any(sizes.values()):
        name, size = next(iter((low or sizes).items()))
        raise ValueError(
            f"The force on {name!r} is {size:g} at the start, below {floor:.0e}: either the start "
            "is at rest, or the product of the other factors underflows, which three factors of "
            "size ε do below ε = 1e-146. Start elsewhere, or at a larger ε."
        )
