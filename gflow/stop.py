r"""Conditions that end a run: `gflow.simulate(model, objective, t1=1e6, stop=...)`.

A run ends where the first of them is met. That moment is found by solving again between the two
steps beside it, to the tolerance of the run; it is the last recorded one, the status is
`Status.stopped`, `traj.cause` names the condition, and its error bar is in `traj.statistics`
("stop_error"; NaN without error bars). What is read is recorded as the observable "stop" ("stop.0",
"stop.1" of several). A number that crosses its level and comes back within one step is not seen.

```python
run = gflow.simulate(model, objective, t1=1e6, stop=gflow.stop.loss_below(1e-6))
norm = lambda model: jnp.linalg.norm(model.weight.value)
run = gflow.simulate(model, objective, t1=1e6, stop=gflow.stop.above(norm, 0.9))
```

`traj.crossing(condition)` finds the same moment on a run that went on.

A run without an end whose minimum is at infinity ends where its direction rests, to 0.01 radians
or to the tolerance of `direction_rests`.
"""

import dataclasses
import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, PyTree

from ._arguments import number
from .observables import norm

__all__ = [
    "DirectionRests",
    "Ending",
    "Stop",
    "above",
    "below",
    "direction_rests",
    "loss_below",
    "norm_above",
]


def __dir__() -> list[str]:
    return __all__


@dataclasses.dataclass(frozen=True)
class Stop:
    """Ends a run where a number read off the model crosses `level`, upwards where `rising`.

    `read` is a function of the model, as observables are; None reads the loss.
    """

    read: Callable[[PyTree], ArrayLike] | None
    level: float
    rising: bool
    name: str

    def __post_init__(self) -> None:
        level = number("level", self.level, "the level at which a run ends")
        if not math.isfinite(level):
            raise ValueError(f"level = {level}: a run ends where a finite level is crossed.")

    def met(self, value: np.ndarray) -> np.ndarray:
        """Whether it holds at these values."""
        return value >= self.level if self.rising else value <= self.level


@dataclasses.dataclass(frozen=True)
class DirectionRests:
    """Ends a run to infinity where no weight is farther than `tolerance` from its direction."""

    tolerance: float

    def __post_init__(self) -> None:
        tolerance = number("tolerance", self.tolerance, "an angle in radians")
        if not 0.0 < tolerance < math.pi:
            raise ValueError(f"tolerance = {tolerance}: an angle between 0 and π, in radians.")


#: What a run can be ended by.
Ending = Stop | DirectionRests


def loss_below(level: float) -> Stop:
    """Where the data loss has come down to `level`."""
    return Stop(None, level, False, f"the loss came down to {level:g}")


def below(read: Callable[[PyTree], ArrayLike], level: float) -> Stop:
    """Where `read(model)`, a number, has come down to `level`."""
    return Stop(read, level, False, f"{_called(read)} came down to {level:g}")


def above(read: Callable[[PyTree], ArrayLike], level: float) -> Stop:
    """Where `read(model)`, a number, has risen to `level`."""
    return Stop(read, level, True, f"{_called(read)} rose to {level:g}")


def norm_above(level: float, *leaves: str) -> Stop:
    """Where the largest Frobenius norm among these leaves has risen to `level`."""
    if not leaves:
        raise ValueError("norm_above needs the names of the leaves whose norm is meant.")
    read = [norm(leaf) for leaf in leaves]

    def largest(model: PyTree) -> ArrayLike:
        return jnp.max(jnp.stack([one(model) for one in read]))

    return Stop(largest, level, True, f"the largest norm of {', '.join(leaves)} rose to {level:g}")


def direction_rests(tolerance: float = 1e-2) -> DirectionRests:
    """Where a run to a minimum at infinity is within `tolerance` radians of its direction there.

    For runs without an end. Every weight's angle to the direction of what it still gains is
    measured, with the error of that direction (`traj.heading`), once the loss has fallen like a
    power of t for a thousandfold of time. Directions arrive like 1/log t: half the tolerance takes
    the square of the time, and times end at 1e300. A weight that is dormant all the while is not
    seen.
    """
    return DirectionRests(tolerance)


def _called(read: object) -> str:
    name = getattr(read, "__name__", type(read).__name__)
    return "the function given" if name == "<lambda>" else name
