"""Run what a sweep lacks."""

import concurrent.futures
import functools
import gc
import hashlib
import re
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from .._arguments import count
from ..save import Save
from ..stop import Ending
from ._chunk import Job, run_chunk, succeeded
from ._opened import Sweep
from ._plan import Plan, planned
from ._progress import Progress, Told
from ._ragged import Row
from ._store import Store, established

#: Runs that make one file and advance together.
CHUNK = 256


def sweep(
    build: Callable[..., tuple[PyTree, ...]],
    grid: Mapping[str, Iterable[bool | int | float | str | np.generic | None]],
    *,
    out: str | Path,
    seeds: int | Sequence[int] = 1,
    t1: float | None = None,
    tau1: float | None = None,
    decay: float = 0.0,
    rtol: float = 1e-8,
    observables: Any = None,
    curves: Sequence[str] = ("loss",),
    save: Save | None = None,
    stop: Ending | Sequence[Ending] | None = None,
    error_bars: bool = True,
    max_steps: int = 100_000,
    chunk: int = CHUNK,
    retry_failed: bool = False,
    progress: bool | Told = True,
    process_id: int | None = None,
    num_processes: int | None = None,
) -> Sweep:
    r"""Simulate every combination of settings, for every seed, and keep the results in a folder.

    Called again after it was stopped, by whatever, it computes what is missing and nothing else:
    the numbers in the end are those of an uninterrupted sweep, bit for bit on the same machine.

    **Arguments:**

    - `build`: `build(**settings, seed=seed)` returns `(model, objective)`, or with a table of this
      run's own `t1`, `tau1`, `t0` or `decay` as a third. It makes its keys, `jax.random.key(seed)`.
      Runs whose models and objectives have equal shapes and constants share a compiled call;
      what differs between runs belongs in arrays.
    - `grid`: names and values of the settings; all combinations are run, the last name fastest,
      and within each the seeds.
    - `out`: a folder, made if it is not there.
    - `seeds`: how many (0, 1, …), or which.
    - `t1`, `tau1`, `decay`, `rtol`, `observables`, `save`, `stop`, `error_bars`, `max_steps`: as
      for `simulate_batch`, for all runs. `curves`: what is kept at every step, "loss", "descent" or
      names of observables.
    - `chunk`: the runs of one file, which advance together; what a kill may lose.
    - `retry_failed`: run again what has failed.
    - `progress`: a bar on standard error if that is a terminal; or a function that is told a
      `SweepProgress` after every chunk.
    - `process_id`, `num_processes`: this process takes every `num_processes`-th chunk from
      `process_id` on. By default those of `jax.distributed`, where it has been initialised.
      Processes need a common folder and nothing else. In each, chunks go to all local devices.

    A run that fails is kept with its reason (`Sweep.failed`) and stops nothing; one that `build` or
    `simulate_batch` refuses is a failure as well, unless it is the first for `build`, or all of the
    first chunk for `simulate_batch`.

    **Returns:** the `Sweep`, as `open_sweep(out)` does; times in it are flow times t and τ.

    **Raises:** ValueError for bad input, for a folder that cannot be written, is no sweep, or holds
    a sweep with another grid, other settings, or another start of its first run.

    ```python
    def build(log10_alpha, seed):
        key = jax.random.key(seed)
        weight = gflow.Hadamard.small(10, log10_alpha=log10_alpha, key=key)
        return gflow.models.DiagonalLinear(weight), objective

    runs = gflow.sweep(build, {"log10_alpha": [-8, -16]}, seeds=64, tau1=4.0, out="seeds")
    runs.stages()["tau"].median("seed")
    ```
    """
    if not callable(build):
        raise ValueError(f"build = {build!r:.100} cannot be called: give a function of settings.")
    plan = planned(grid, seeds, chunk)
    share = _share(plan, process_id, num_processes)
    names = (curves,) if isinstance(curves, str) else tuple(curves)
    options = {
        "t1": t1, "tau1": tau1, "decay": decay, "rtol": rtol, "observables": observables,
        "save": save, "stop": stop, "error_bars": error_bars,
        "max_steps": count("max_steps", max_steps, "the most steps of a run"),
    }  # fmt: skip
    job = Job(build, options, names)
    store = established(out, _about(job, plan))
    mine = set(share)
    finished = [k for k in store.finished() if k in mine]
    for k in finished:
        with store.reading(k):  # what is cut off or foreign is told before anything is run
            pass
    failed = _retried(store, job, finished) if retry_failed else 0
    done = sum(len(plan.members(k)) for k in finished)
    missing = [k for k in share if k not in set(finished)]
    bar = Progress(progress, sum(len(plan.members(k)) for k in share), done, failed)
    try:
        for k, rows in _computed(job, plan, missing):
            _check_first(store, k, rows)
            began = time.perf_counter()
            store.write(k, rows)
            failures = sum(not succeeded(row) for row in rows)
            bar.add(len(rows), failures, time.perf_counter() - began)
    finally:
        bar.close()
    return Sweep(store)


def _share(plan: Plan, process_id: int | None, num_processes: int | None) -> range:
    """The chunks of this process."""
    if (process_id is None) != (num_processes is None):
        raise ValueError(
            f"process_id = {process_id}, num_processes = {num_processes}: give both or neither."
        )
    own = jax.process_index() if process_id is None else process_id
    of = jax.process_count() if num_processes is None else num_processes
    of = count("num_processes", of, "the number of processes")
    if isinstance(own, bool) or not isinstance(own, int) or not 0 <= own < of:
        raise ValueError(f"process_id = {own!r}: an integer from 0 to {of - 1}.")
    return range(own, plan.chunks, of)


def _about(job: Job, plan: Plan) -> dict[str, Any]:
    """What makes two sweeps one."""
    options = {k: _described(x) for k, x in job.options.items()}
    try:
        model, objective, own = job.start(plan, 0)
    except Exception as error:
        settings, seed = plan.settings(0)
        said = ", ".join(f"{k}={x!r}" for k, x in {**settings, "seed": seed}.items())
        raise ValueError(
            f"The first run, build({said}), cannot be made: {type(error).__name__}: {error}"
        ) from error
    start = _digest((model, objective)) + (f" {own}" if own else "")
    name = getattr(job.build, "__qualname__", type(job.build).__qualname__)
    return {
        "grid": plan.grid,
        "seeds": plan.seeds,
        "chunk": plan.chunk,
        "settings": options | {"curves": list(job.curves)},
        "build": name.rpartition(".")[2],
        "start": start,
    }


def _described(x: Any) -> Any:
    """A setting as JSON: numbers as they are, the rest as it shows itself."""
    if isinstance(x, np.generic):
        x = x.item()
    if x is None or isinstance(x, bool | int | float | str):
        return x
    if isinstance(x, Mapping):
        return {str(k): _described(v) for k, v in x.items()}
    if isinstance(x, list | tuple):
        return [_described(v) for v in x]
    if isinstance(x, functools.partial) or not hasattr(x, "__qualname__"):
        return re.sub(r" at 0x[0-9a-f]+", "", repr(x))
    return x.__qualname__


def _digest(tree: PyTree) -> str:
    """Of all numbers and constants of a start."""
    found = hashlib.sha256()
    for path, x in jax.tree_util.tree_flatten_with_path(tree)[0]:
        found.update(jax.tree_util.keystr(path).encode())
        if isinstance(x, jax.Array) and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            x = jax.random.key_data(x)
        if isinstance(x, jax.Array | np.ndarray):
            found.update(f"{x.dtype}{x.shape}".encode() + np.asarray(x).tobytes())
        else:
            found.update(str(_described(x)).encode())
    return found.hexdigest()


def _computed(job: Job, plan: Plan, chunks: list[int]) -> Iterator[tuple[int, list[Row]]]:
    """The rows of chunks, spread over the devices of this process."""
    devices = jax.local_devices()[: len(chunks)]

    def on(device: Any, k: int) -> tuple[int, list[Row]]:
        with jax.default_device(device):
            rows = run_chunk(job, plan, plan.members(k))
        gc.collect()  # runs and their flows know each other, and would pile up chunk after chunk
        return k, rows

    with warnings.catch_warnings():
        # what has failed is kept with its reason
        warnings.filterwarnings("ignore", r"gflow\.simulate_batch:", UserWarning)
        alone = chunks[:1] if len(devices) > 1 else chunks  # the first compiles for the others
        yield from (on(devices[0], k) for k in alone)
        if len(devices) < 2 or len(chunks) < 2:
            return
        waiting = iter(chunks[1:])
        with concurrent.futures.ThreadPoolExecutor(len(devices)) as pool:
            going = {pool.submit(on, d, k): d for d, k in zip(devices, waiting, strict=False)}
            while going:
                done, _ = concurrent.futures.wait(
                    going, return_when=concurrent.futures.FIRST_COMPLETED
                )
                for one in done:
                    device = going.pop(one)
                    if (k := next(waiting, None)) is not None:
                        going[pool.submit(on, device, k)] = device
                    yield one.result()


def _check_first(store: Store, k: int, rows: list[Row]) -> None:
    """**Raises:** ValueError where no run of the first chunk can be run, for one reason.

    That is a mistake in what was asked for, so that a store with nothing else in it is none.
    """
    reasons = {str(row["reason"]) for row in rows if str(row["status"]) == "refused"}
    if k == 0 and len(reasons) == 1 and all(str(row["status"]) == "refused" for row in rows):
        store.abandon()
        raise ValueError(f"None of the first {len(rows)} runs can be run: {reasons.pop()}")


def _retried(store: Store, job: Job, finished: list[int]) -> int:
    """Run again what has failed in these chunks; returns how many fail again."""
    still = 0
    for k in finished:
        rows = store.rows(k)
        again = [i for i, row in enumerate(rows) if not succeeded(row)]
        if not again:
            continue
        members = store.plan.members(k)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"gflow\.simulate_batch:", UserWarning)
            found = run_chunk(job, store.plan, [members[i] for i in again])
        for i, row in zip(again, found, strict=True):
            rows[i] = row
        store.write(k, rows)
        still += sum(not succeeded(row) for row in found)
    return still
