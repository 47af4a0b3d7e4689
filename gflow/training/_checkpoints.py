"""A run of discrete steps that is on disk as far as it has come, and goes on from there."""

import dataclasses
import hashlib
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ..results._resolver import joined
from ..results._trajectory import Trajectory

#: Makes so many more steps from a model, going on with a run if there is one before.
Part = Callable[[PyTree, int, Trajectory | None], Trajectory]

#: Steps, or times, at which a schedule is looked at.
_PROBES = (0, 1, 7, 31, 211, 1009, 10_007)

#: Two losses of the same weights differ by less.
_SAME = 1e-9


def in_parts(
    part: Part, model: PyTree, steps: int, every: int, path: Path, settings: str
) -> Trajectory:
    """`steps` steps from `model`, the file at `path` replaced after each `every`.

    `model` is the one that is trained, `settings` the `digest` of how. Where the
    file is there the run goes on from it.

    **Raises:** ValueError for a file of another run.
    """
    whole = Trajectory.load(path, like=model) if path.exists() else None
    if whole is not None:
        if whole.training is None:
            raise ValueError(f"{path} is no run of gflow.descend: give checkpoint= another path.")
        if whole.training.settings != settings:
            _refuse(path, "was trained with another key, minibatch, decay or learning rate")
    while whole is None or (whole.successful and _made(whole) < steps):
        before = whole
        count = min(every, steps - (0 if before is None else _made(before)))
        more = part(model if before is None else before.final, count, before)
        if before is not None:
            _check_same(before, more, path)
        whole = more if before is None else _appended(before, more)
        if whole.training is not None:
            signed = dataclasses.replace(whole.training, settings=settings)
            whole = dataclasses.replace(whole, training=signed)
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
    _refuse(path, found)


def digest(*settings: Any) -> str:
    """Of numbers, keys, functions of a step or a time (at some of them), mappings of these."""
    return hashlib.sha256(repr([_numbers(x) for x in settings]).encode()).hexdigest()[:16]


def _numbers(x: Any) -> Any:
    if isinstance(x, Mapping):
        return sorted((str(name), _numbers(value)) for name, value in x.items())
    if callable(x):
        try:
            return [np.asarray(x(jnp.asarray(step))).item() for step in _PROBES]
        except TypeError:  # a sampler: a function of more things
            return getattr(x, "__qualname__", type(x).__qualname__)
    if isinstance(x, jax.Array) and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    return None if x is None else np.asarray(x).tolist()


def _refuse(path: Path, found: str) -> NoReturn:
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
