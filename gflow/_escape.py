"""The escape from a saddle of order three and more, from weights of any size."""

import dataclasses
import functools
import math
import time
import warnings
from typing import Any, NamedTuple

import diffrax
import numpy as np
from jaxtyping import PyTree

from .flow._flow import Flow, Objective, build_flow
from .integrate._choose import check_rtol
from .integrate._clock import Clocked
from .integrate._departure import Departure
from .integrate._path import Path, first_row, log_largest
from .integrate._status import Status, message


class Passage(NamedTuple):
    """Flow time `t` and its bar `error`, the time `remaining` to the end, and the `model`."""

    t: float
    error: float
    remaining: float
    model: Any


@dataclasses.dataclass(eq=False)
class Escape:
    """What `gflow.escape` returns.

    - `t`: flow time at every step; `loss`, `log_norm[name]` at these times.
    - `remaining`: flow time from every step to the end, precise where the digits of t are used up.
    - `error`: bars by step halving, of "t", "loss" and "leaf.log_norm" of every leaf, at equal r.
    - `weights(name)`, `model(i)`: at every step. `at_norm(level)`: at a norm on the way.
    - `final`: the model at `level`, its time set to zero and its plain weights `Scaled` to a
      norm of one, to be continued by `gflow.simulate` with all digits.
    - `status` (a `gflow.Status`), `cause`, `successful`, `method`, `statistics`: how it was
      computed.
    """

    t: np.ndarray
    loss: np.ndarray
    log_norm: dict[str, np.ndarray]
    error: dict[str, np.ndarray]
    status: Status
    method: str
    statistics: dict[str, Any]
    path: Path = dataclasses.field(repr=False)
    cause: str = ""

    @property
    def successful(self) -> bool:
        """Whether it came to the norm asked for."""
        return self.status.successful

    @property
    def log_largest(self) -> np.ndarray:
        """The logarithm of the norm of the largest plain weight at every step."""
        return _largest(self.log_norm)

    @property
    def final(self) -> PyTree:
        """The model at the end."""
        return self.model(-1)

    @functools.cached_property
    def remaining(self) -> np.ndarray:
        """Flow time from every step to the end, each step made again in eight."""
        widths = np.diff(self.path.r)
        lapses = np.array([self.path.lapse(i, h) for i, h in enumerate(widths)])
        return np.append(np.cumsum(lapses[::-1])[::-1], 0.0)

    def model(self, i: int) -> PyTree:
        """The model at step i."""
        return self.path.model(self.path.point(range(len(self.t))[i]))

    def weights(self, name: str) -> np.ndarray:
        """The effective weight of a leaf at every step: (steps, …)."""
        names = self.path.field.flow.names
        if name not in names:
            raise ValueError(f"No leaf {name!r} was trained; there are {', '.join(names)}.")
        return np.stack([self.path.weight(i, name) for i in range(len(self.t))])

    def at_norm(self, level: float) -> Passage:
        """When the largest plain weight last rises to norm `level`: a re-solve of that step.

        **Raises:** ValueError for a level outside the run.
        """
        log_norm = self.log_largest
        log_level = math.log(level) if level > 0 else -math.inf
        below = np.flatnonzero(log_norm[:-1] < log_level)
        if not below.size or log_level > log_norm[-1] + 1e-12:
            raise ValueError(
                f"level = {level}: the largest plain weight went from norm "
                f"{math.exp(log_norm[0]):.6g} to {math.exp(log_norm[-1]):.6g}; ask for one on "
                "the way."
            )
        i = int(below[-1])
        r, point, _ = self.path.crossing(i, log_level)
        lapse = self.path.lapse(i, r - self.path.r[i])
        # at equal norm, from the two bars at equal r
        rise = (log_norm[i + 1] - log_norm[i]) / (self.remaining[i] - self.remaining[i + 1])
        off = max(np.max(self.error[f"{name}.log_norm"][i : i + 2]) for name in self.log_norm)
        return Passage(
            float(self.t[i] + lapse),
            float(np.max(self.error["t"][i : i + 2]) + off / rise),
            float(self.remaining[i] - lapse),
            self.path.model(point),
        )


def escape(
    model: PyTree,
    objective: Objective,
    *,
    level: float,
    rtol: float = 1e-8,
    max_steps: int = 10_000,
    solver: diffrax.AbstractAdaptiveSolver | None = None,
) -> Escape:
    r"""Gradient flow away from a saddle of order ≥ 3, until a plain weight has norm `level`.

    Where three or more small factors meet, weights of size ε take a time ε^{−1} or longer to
    grow, and then grow from ε to O(1) in a small part of it. Here every `Scaled` leaf (and
    plain array) is followed as its direction and the logarithm of its Frobenius norm, in the
    clock dr = κ dt of the relative speed, so that an ε of 1e-100 costs little more than one of
    1e-2; `Factored` and `Hadamard` leaves keep their own coordinates in the same clock. From
    `level` ≪ 1 on, `gflow.simulate(escape.final, objective, …)` takes over.

    **Arguments:** `model`, `objective` as for `gflow.simulate`; `level` above the norms of
    the start and below where the weights come to rest; `rtol`: relative error of weights and
    of times. `solver`: by default `diffrax.Dopri8()`; stability bounds its steps in r, so
    that methods of low order gain nothing.

    **Returns:** an `Escape`; its error bars repeat every step as two halves.

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
    solver = diffrax.Dopri8() if solver is None else solver
    if not isinstance(solver, diffrax.AbstractERK):
        raise ValueError(
            f"solver = {solver!r}: the escape is followed by an explicit Runge–Kutta method with "
            "an error estimate, such as diffrax.Dopri8() or diffrax.Tsit5()."
        )
    _check_sizes(flow)
    field = Clocked.of(flow)
    row, forces = first_row(field)
    start = log_largest(row)
    if not (math.isfinite(level) and level > 0 and start < math.log(level)):
        raise ValueError(
            f"level = {level}: it must be a finite norm above that of the largest plain weight at "
            f"the start, {math.exp(start):.6g}."
        )
    _check_forces({name: float(x) for name, x in forces.items()})
    run = Departure(Path(field, solver, model, [0.0], {0: (field.start(), field.frame())}), rtol)
    ending = run.go(math.log(level), max_steps)
    if not ending.status.successful:
        warnings.warn(f"gflow.escape: {message(*ending)}.", stacklevel=2)
    counts = {"accepted": run.accepted, "rejected": run.rejected, "rounds": run.rounds}
    return Escape(
        **run.columns(),
        status=ending.status,
        cause=ending.cause,
        method=f"{type(solver).__name__} in polar coordinates and the clock of the relative "
        f"speed, rtol={rtol:g}",
        statistics=counts | {"seconds": time.perf_counter() - began},
        path=run.path,
    )


def _largest(log_norm: dict[str, np.ndarray]) -> np.ndarray:
    return np.max(np.stack(list(log_norm.values())), axis=0)


def _check_sizes(flow: Flow) -> None:
    raw = {name: c for name, c in zip(flow.names, flow.coordinates, strict=True) if c.chart.plain}
    if not raw:
        raise ValueError(
            f"None of the leaves {', '.join(flow.names)} is a plain weight, whose norm could set "
            "the clock of an escape. Make the weights that start small gflow.Scaled; for products "
            "of two factors gflow.simulate needs no escape."
        )
    for name, c in raw.items():
        if not np.any(np.asarray(c.start())):
            raise ValueError(
                f"Leaf {name!r} is zero: it has no direction, which polar coordinates need. Start "
                "it at a small random value, or use gflow.simulate."
            )


def _check_forces(sizes: dict[str, float]) -> None:
    """Of the largest force on every leaf that sets the clock."""
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
