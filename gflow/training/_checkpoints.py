"""A run of discrete steps that is on disk as far as it has come, and goes on from there."""

import os
import warnings
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jaxtyping import PyTree

from ..results._resolver import joined
from ..results._trajectory import Trajectory

#: Makes so many more steps from a model, going on with a run if there is one before.
Part = Callable[[PyTree, int, Trajectory | None], Trajectory]

#: Two losses of the same weights differ by less.
_SAME = 1e-9


def in_parts(part: Part, model: PyTree, steps: int, every: int, path: Path) -> Trajectory:
    """`steps` steps from `model`, the file at `path` replaced after each `every`.

    `model` is the one that is trained. Where the file is there the run goes on from it.

    **Raises:** ValueError for a file of another run.
    """
    whole = Trajectory.load(path, like=model) if path.exists() else None
    if whole is not None and whole.training is None:
        raise ValueError(f"{path} is no run of gflow.descend: give checkpoint= another path.")
    while whole is None or (whole.successful and _made(whole) < steps):
        before = whole
        count = min(every, steps - (0 if before is None else _made(before)))
        more = part(model if before is None else before.final, count, before)
        if before is not None:
            _check_same(before, more, path)
        whole = more if before is None else _appended(before, more)
        if whole.successful:
            _replace(whole, path)
        elif before is not None:
            warnings.warn(
                f"gflow.descend: {path} still has the run up to step {_made(before)}.",
                stacklevel=4,
            )
    return whole


def _made(run: Trajectory) -> int:
    return 0 if run.training is None else run.training.made


def _check_same(before: Trajectory, more: Trajectory, path: Path) -> None:
    ends = float(before.loss[-1]), float(more.loss[0])
    if before.method != more.method:
        found = f"was trained by {before.method!r}, and this run by {more.method!r}"
    elif not np.isclose(*ends, rtol=_SAME, atol=0.0):
        found = f"ends at a loss of {ends[0]:.9g}, where this objective has {ends[1]:.9g}"
    else:
        return
    raise ValueError(
        f"{path} {found}: it is the checkpoint of another run. Give checkpoint= another path, or "
        "delete the file to start anew."
    )


def _appended(one: Trajectory, two: Trajectory) -> Trajectory:
    """Both as one run; the first record of `two` is the last of `one`."""
    after = jax.tree.map(lambda x: x[1:], two.own_records())
    steps = one.statistics["steps"] + two.statistics["steps"]
    seconds = one.statistics["seconds"] + two.statistics["seconds"]
    return Trajectory.from_records(
        model=one.like,
        t=np.concatenate([one.t, two.t[1:]]),
        records=joined([one.own_records(), after]),
        refined=None,
        log_alpha=two.log_alpha,
        log_alpha_conflict=two.log_alpha_conflict,
        order=two.order,
        status=two.status,
        method=two.method,
        statistics=two.statistics | {"steps": steps, "seconds": seconds},
        counts_steps=two.counts_steps,
        resolver=None,
        training=two.training,
    )


def _replace(run: Trajectory, path: Path) -> None:
    """The file as a whole or not at all."""
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        run.save(new)
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)
