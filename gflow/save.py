"""What a run keeps: `gflow.simulate(model, objective, t1=..., save=...)`.

A run records every step it takes; `save=times` adds flow times. It keeps the weights, forces and
states of all of them, which of a large model, or at many times, is more than the numbers that one
is after:

```python
watched = {"rank": gflow.observables.effective_rank("kq")}
run = gflow.simulate(model, objective, t1=1e4, observables=watched, save=gflow.save.observables())
```

keeps loss, descent and observables (with error bars) at every step, and the weights at a few of
them, where something happens. Stages, comparison, `model(t=...)` and plots go on from there.
"""

import dataclasses
from collections.abc import Sequence

from jaxtyping import ArrayLike

__all__ = ["Save", "observables"]


def __dir__() -> list[str]:
    return __all__


#: Steps of which an observables-only run keeps the weights, unless something happens at more.
CHECKPOINTS = 64


@dataclasses.dataclass(frozen=True)
class Save:
    """Flow times to record besides every step, and whether the weights of all are kept."""

    times: ArrayLike | Sequence[float] | None = None
    weights: bool = True


def observables(times: ArrayLike | Sequence[float] | None = None) -> Save:
    """Loss, descent and observables at every step and at `times`, weights at checkpoints only."""
    return Save(times, weights=False)


def wanted(save: ArrayLike | Sequence[float] | Save | None) -> Save:
    """What is given as `save`: times, a `Save`, or nothing."""
    return save if isinstance(save, Save) else Save(save)
