"""Stages of many runs side by side, matched by what switches."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from .._arguments import instance
from .._display import Displayed, Summary, Table
from ._labels import switch_label
from ._stages import MeasuredStage


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class AlignedStages(Displayed):
    """Times of the stages of many runs, a column for everything that switches.

    `labels[k]` is what switches, as a stage's `label`. In row i of `t`, `tau` and `error` (flow
    time) stands the stage of run i that has this label, NaN where the run has none. Columns are
    in order of their median time. `numpy.nanmean(aligned.tau, axis=0)` is a mean over runs
    that mixes no two stages; `numpy.isfinite(aligned.t).sum(axis=0)` says over how many.
    """

    labels: list[str]
    t: Float[np.ndarray, "runs stages"]
    tau: Float[np.ndarray, "runs stages"]
    error: Float[np.ndarray, "runs stages"]

    def _summary(self) -> Summary:
        rows = []
        for label, column in zip(self.labels, self.t.T, strict=True):
            times = column[np.isfinite(column)]
            ends = (np.min(times), np.median(times), np.max(times))
            rows.append([label, str(len(times)), *(f"{x:.6g}" for x in ends)])
        head = ["switches", "runs", "earliest t", "median t", "latest t"]
        return Summary(f"Stages of {len(self.t)} runs", [], [Table(head, rows)])


def align_stages(runs: Iterable[Any]) -> AlignedStages:
    """Match the stages of many runs, over seeds or α, by what switches in them.

    **Arguments:** `runs`: trajectories (a `Batch` as well), or lists of their stages.

    A weight that becomes active for the second time in a run has a column of its own, with
    ` (2)` after its label. Stages that merge in one run and not in another are different stages.
    Exchangeable parts are not identified: heads or hidden units that learn each other's mode in
    another seed count as others, and a mode of a matrix is only its rank in size.

    **Raises:** ValueError where there is no run.

    ```python
    aligned = gflow.align_stages(gflow.simulate_batch(models, objective, tau1=4.0))
    print(aligned)
    dict(zip(aligned.labels, np.nanmean(aligned.tau, axis=0)))
    ```
    """
    if not isinstance(runs, Iterable) or isinstance(runs, str | dict):
        raise ValueError(f"align_stages was given {runs!r:.100}: pass trajectories in a list.")
    found = [named_stages(_stages(run)) for run in runs]
    if not found:
        raise ValueError("align_stages was given no run: pass trajectories or lists of stages.")
    labels = list(dict.fromkeys(label for stages in found for label in stages))

    def table(field: str) -> np.ndarray:
        rows = [[getattr(s[n], field) if n in s else np.nan for n in labels] for s in found]
        return np.array(rows, float).reshape(len(found), len(labels))

    t = table("t")
    medians = [float(np.median(column[np.isfinite(column)])) for column in t.T]
    order = np.argsort(medians, kind="stable").astype(int)
    return AlignedStages(
        [labels[k] for k in order], t[:, order], table("tau")[:, order], table("error")[:, order]
    )


def _stages(run: Any) -> list[MeasuredStage]:
    if isinstance(run, list):
        what = "lists hold what .stages() finds"
        return [instance("a stage", stage, MeasuredStage, what) for stage in run]
    if not hasattr(run, "stages"):
        raise ValueError(f"{run!r:.100} has no stages: pass trajectories or what .stages() finds.")
    return run.stages()


def named_stages(stages: Sequence[Any]) -> dict[str, Any]:
    """Stages, measured or predicted, by what switches and for which time it does."""
    named: dict[str, Any] = {}
    for stage in stages:
        label = again = switch_label(stage.activated, stage.deactivated)
        count = 1
        while again in named:
            count += 1
            again = f"{label} ({count})"
        named[again] = stage
    return named
