"""The runs of a chunk: built, run in one compiled call a shape, and read into rows."""

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PyTree

from .._simulate_batch import simulate_batch
from .._stacking import joined_models
from ..integrate._status import Status, message
from ..results._alignment import named_stages
from ..results._batch import Batch
from ..results._stages import MeasuredStage
from ..results._trajectory import Trajectory
from ._plan import Plan
from ._ragged import Row

Build = Callable[..., Any]

#: Arguments of `simulate_batch` that a run may have of its own.
OWN = ("t1", "tau1", "t0", "decay")


@dataclasses.dataclass(frozen=True)
class Job:
    """How every run of a sweep is made: what builds it, how it is simulated, what is kept."""

    build: Build
    options: dict[str, Any]
    curves: tuple[str, ...]

    def start(self, plan: Plan, run: int) -> tuple[PyTree, Any, dict[str, float]]:
        """Model, objective and own arguments of a run. **Raises:** ValueError for other things."""
        settings, seed = plan.settings(run)
        built = self.build(**settings, seed=seed)
        if not isinstance(built, tuple) or len(built) not in (2, 3):
            raise ValueError(
                f"build({_said(settings, seed)}) returned {type(built).__name__}: return "
                "(model, objective), or (model, objective, arguments of this run)."
            )
        model, objective, *rest = built
        own = rest[0] if rest else {}
        if not isinstance(own, Mapping) or set(own) - set(OWN):
            raise ValueError(
                f"build({_said(settings, seed)}) returned arguments {own!r:.100}: give a table of "
                f"numbers under {', '.join(OWN)}."
            )
        return model, objective, {k: float(x) for k, x in own.items()}


def run_chunk(job: Job, plan: Plan, members: Iterable[int]) -> list[Row]:
    """A row for each of these runs. One that cannot be run has a row with the reason.

    **Raises:** KeyboardInterrupt, as what was under way then is not finished.
    """
    rows: dict[int, Row] = {}
    starts = {}
    for run in (members := list(members)):
        try:
            starts[run] = job.start(plan, run)
        except Exception as error:  # build is the user's, and one run does not stop the others
            rows[run] = refused(error)
    for group in _alike(starts).values():
        rows |= _run_group(job, {run: starts[run] for run in group})
    return [rows[run] for run in members]


def refused(error: Exception) -> Row:
    """The row of a run that there is none of."""
    return {
        "status": np.array("refused"),
        "reason": np.array(f"{type(error).__name__}: {error}"),
    }


def succeeded(row: Row) -> bool:
    status = str(row["status"])
    return status != "refused" and Status[status].successful


def _said(settings: dict[str, Any], seed: int) -> str:
    return ", ".join(f"{k}={x!r}" for k, x in {**settings, "seed": seed}.items())


def _is_array(x: Any) -> bool:
    return isinstance(x, jax.Array | np.ndarray)


def _alike(starts: dict[int, Any]) -> dict[Any, list[int]]:
    """Runs by the shapes and the constants of what they start from."""
    groups: dict[Any, list[int]] = {}
    for run, (model, objective, own) in starts.items():
        leaves, form = jax.tree.flatten((model, objective))
        kinds = tuple((x.shape, str(x.dtype)) if _is_array(x) else x for x in leaves)
        key: Any = (form, kinds, tuple(sorted(own)))
        try:
            hash(key)
        except TypeError:
            key = run
        groups.setdefault(key, []).append(run)
    return groups


def _run_group(job: Job, starts: dict[int, Any]) -> dict[int, Row]:
    """One compiled call, and where it is refused one for each run."""
    try:
        batch = _batch(job, list(starts.values()))
        found = batch.stages()
        rows = [_row(r, s, job.curves) for r, s in zip(batch, found, strict=True)]
    except Exception as error:
        if len(starts) == 1:
            return {run: refused(error) for run in starts}
        rows = [_run_group(job, {run: start})[run] for run, start in starts.items()]
    return dict(zip(starts, rows, strict=True))


def _batch(job: Job, starts: list[Any]) -> Batch:
    models, objectives, owns = zip(*starts, strict=True)
    shared = all(_equal(objectives[0], other) for other in objectives[1:])
    own: dict[str, Any] = {name: np.array([x[name] for x in owns]) for name in owns[0]}
    batch = simulate_batch(
        joined_models(list(models)),
        objectives[0] if shared else joined_models(list(objectives)),
        in_axes=(0, None if shared else 0),
        **(job.options | own),
    )
    if any(status is Status.interrupted for status in batch.status):
        raise KeyboardInterrupt
    return batch


def _equal(one: Any, other: Any) -> bool:
    if one is other:
        return True
    (mine, form), (theirs, also) = (eqx.partition(x, _is_array) for x in (one, other))
    pairs = zip(jax.tree.leaves(mine), jax.tree.leaves(theirs), strict=True)
    return bool(eqx.tree_equal(form, also)) and all(x is y or _same(x, y) for x, y in pairs)


def _same(x: Any, y: Any) -> bool:
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
        x, y = jax.random.key_data(x), jax.random.key_data(y)
    return np.asarray(x).tobytes() == np.asarray(y).tobytes()


def _row(run: Trajectory, stages: list[MeasuredStage], curves: tuple[str, ...]) -> Row:
    row: Row = {
        "status": np.array(run.status.name),
        "reason": np.array("" if run.successful else message(run.status, run.cause)),
        "log_alpha": np.array(float(run.log_alpha)),
        "t": np.asarray(run.t),
    }
    if run.log_alpha < 0:
        row["tau"] = np.asarray(run.tau)
    row |= {f"curve.{name}": _curve(run, name) for name in curves}
    row |= {f"final.{n}": np.asarray(x["value"][-1]) for n, x in run.leaves.items()}
    named = named_stages(stages)
    row["stage.label"] = np.array(list(named), dtype=str)
    for key in ("t", "tau", "error", "loss"):
        row[f"stage.{key}"] = np.array([getattr(s, key) for s in named.values()], float)
    row["stage.switches"] = np.array(
        [json.dumps([s.activated, s.deactivated]) for s in named.values()], dtype=str
    )
    for n in run.leaves if stages else ():
        row[f"stage.value.{n}"] = np.stack([s.value[n] for s in named.values()])
        if n in stages[0].rank:
            row[f"stage.rank.{n}"] = np.stack([s.rank[n] for s in named.values()])
    return row


def _curve(run: Trajectory, name: str) -> np.ndarray:
    if name in ("loss", "descent"):
        return np.asarray(getattr(run, name))
    if name not in run.observables:
        raise ValueError(
            f"curves names {name!r}, which these runs do not record; they have "
            f"{', '.join(map(repr, ('loss', 'descent', *run.observables)))}."
        )
    return np.asarray(run.observables[name])
