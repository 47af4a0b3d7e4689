"""Many runs as one band: what most seeds do."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from gflow import Trajectory
from gflow.plot import COLOURS, new_axes, time_axis

#: Times at which runs are compared.
_GRID = 600


def band(
    runs: Sequence[Trajectory],
    observable: str | Callable[[Trajectory], Float[np.ndarray, " times"]] = "loss",
    ax=None,
    quantiles: tuple[float, float, float] = (0.1, 0.5, 0.9),
    label: str | None = None,
    colour: str = COLOURS[0],
):
    """Quantiles over runs against τ: the middle one as a line, between the others a band.

    At every time the runs that have come there are ordered anew, by straight lines between
    recorded steps. τ is flow time where a run does not know its α.

    **Arguments:** `runs`: a `gflow.Batch` or trajectories. `observable`: "loss", a recorded
    observable that is one number, or run ↦ one number a recorded time. `quantiles`: lower edge,
    line and upper edge. `label`: by default the name and the quantiles.

    **Raises:** ValueError for no run, quantiles that are not in order, and for what is not one
    number a time.

    ```python
    theory.plot.band(gflow.simulate_batch(models, objective, tau1=4.0))
    ```
    """
    low, middle, high = quantiles
    if not 0.0 <= low <= middle <= high <= 1.0:
        raise ValueError(
            f"quantiles = {quantiles}: three shares in order, such as (0.1, 0.5, 0.9)."
        )
    if not len(runs):
        raise ValueError("band was given no run: pass a gflow.Batch or trajectories in a list.")
    ax = new_axes(ax)
    known = all(run.log_alpha < 0 for run in runs)
    times = [run.tau if known else run.t for run in runs]
    values = [_numbers(run, observable) for run in runs]
    every = np.sort(np.concatenate(times))
    grid = np.unique(np.interp(np.linspace(0, 1, _GRID), np.linspace(0, 1, len(every)), every))
    rows = [
        np.interp(grid, t, x, left=np.nan, right=np.nan) for t, x in zip(times, values, strict=True)
    ]
    bottom, line, top = np.nanquantile(np.array(rows), quantiles, axis=0)
    name = observable if isinstance(observable, str) else observable.__name__
    said = f"{name}: {middle:.0%}, {low:.0%} to {high:.0%} of {len(runs)} runs"
    ax.fill_between(grid, bottom, top, color=colour, alpha=0.25, lw=0.0)
    for edge in (bottom, top):
        ax.plot(grid, edge, color=colour, lw=0.5)
    ax.plot(grid, line, color=colour, lw=1.5, label=said if label is None else label)
    ax.set(xlabel=time_axis(runs[0])[1] if known else "flow time $t$", ylabel=name)
    ax.legend(frameon=False, fontsize="x-small")
    return ax


def _numbers(run: Trajectory, observable) -> np.ndarray:
    if callable(observable):
        found = np.asarray(observable(run), float)
    elif observable == "loss":
        found = run.loss
    elif observable in run.observables:
        found = np.asarray(run.observables[observable], float)
    else:
        raise ValueError(
            f"These runs did not record {observable!r}; they have "
            f"{', '.join(map(repr, ('loss', *run.observables)))}."
        )
    if found.shape != run.t.shape:
        raise ValueError(
            f"A band is of one number a time; here there is an array of shape {found.shape} for "
            f"{run.t.size} times. Pass a function of the run, such as "
            "lambda run: run.observables['w'][:, 0]."
        )
    return found
