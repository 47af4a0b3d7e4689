"""Trajectories read from disk: `like` gives back the model, compared with what is written."""

import contextlib
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from .._arguments import file_path
from .._stacking import member
from ..coordinates._base import chart_named
from ..coordinates._record import LeafRecord
from ..integrate._status import Status
from ..parameters._base import is_parameter, leaf_name, trained_leaves
from ..parameters._elapsed import remember
from ..training._memory import Training
from ._fingerprint import Fingerprint, start_factors
from ._names import read_name
from ._stages import MeasuredStage
from ._storage import FORMAT, SCALARS, described_model


def load(path: str | Path, like: PyTree) -> dict[str, Any]:
    """The fields of a saved trajectory; `like` is compared with what the file was made of.

    **Raises:** ValueError for what is no run in this format, and for another model.
    """
    path = file_path(path)
    return _fields_of(_checked(_opened(path), path), path, like)


def load_all(path: str | Path, like: PyTree) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The fields of every run of a saved batch, and its statistics.

    `like`: the stacked models of the batch, or the one that all members started from.

    **Raises:** ValueError for what is no batch, and as `load`.
    """
    path = file_path(path)
    root, groups = _opened_groups(path)
    found = []
    for i in range(int(root.attrs["gflow_batch"])):
        data = _checked(groups[f"/member{i}"], path)
        own = like
        if like is not None and not _one_model(like, json.loads(data.attrs["model"])):
            own = member(like, i)
        found.append(_fields_of(data, path, own))
    return found, json.loads(root.attrs["statistics"])


def _one_model(like: PyTree, model: dict[str, Any] | None) -> bool:
    """Whether the leaves have the shapes of one member, and no axis of members before them."""
    if model is None:
        return True
    try:
        given = described_model(like)["leaves"]
    except (ValueError, TypeError):  # the parts of a stacked leaf do not fit as they are
        return False
    return all(n not in given or given[n] == leaf for n, leaf in model["leaves"].items())


def _fields_of(data: Any, path: Path, like: PyTree) -> dict[str, Any]:
    attrs = {k: json.loads(data.attrs[k]) for k in (
        "leaves", "charts", "observables", "statistics", "settings", "model", "fingerprint",
        "stages",
    )}  # fmt: skip
    saved = Fingerprint.from_dict(attrs["fingerprint"])
    log_alpha = float(data.attrs["log_alpha"])
    if like is not None:
        _check_like(like, attrs["model"], saved, log_alpha, path)
    keys, names = attrs["leaves"], attrs["observables"]

    def records(prefix: str) -> dict[str, Any]:
        arrays = {n: {k: data[f"{prefix}.{n}.{k}"].values for k in ks} for n, ks in keys.items()}
        return {n: LeafRecord(x, chart_named(attrs["charts"][n])) for n, x in arrays.items()}

    refined = None
    if "refined.loss" in data:
        refined = {"loss": data["refined.loss"].values, "leaves": records("refined")}
        for key in ("t", "lapse"):
            if f"refined.{key}" in data:
                refined[key] = data[f"refined.{key}"].values
    fields: dict[str, Any] = {name: data.attrs[name] for name in SCALARS}
    fields["status"] = Status[fields["status"]]
    fields["order"] = int(fields["order"])
    fields["counts_steps"] = bool(fields["counts_steps"])
    return fields | {
        "log_alpha": log_alpha,
        "t": data["t"].values,
        "clock": data["clock"].values if int(data.attrs["clocked"]) else None,
        "lapses": data["lapse"].values if "lapse" in data else None,
        "checkpoints": data["checkpoints"].values if "checkpoints" in data else None,
        "loss": data["loss"].values,
        "descent": data["descent"].values,
        "observables": {n: data[n].values for n in names},
        "error": {
            n: data[f"error.{n}"].values for n in ["t", "loss", *names] if f"error.{n}" in data
        },
        "leaves": records("state"),
        "statistics": attrs["statistics"],
        "training": _training(data),
        "refined": refined,
        "like": like,
        "kept": {
            "settings": attrs["settings"],
            "made_of": attrs["model"],
            "fingerprint": saved,
            "stages": [_stage(data, i, x, like) for i, x in enumerate(attrs["stages"])],
        },
    }


def _training(data: Any) -> Training | None:
    if "training" not in data.attrs:
        return None
    numbers, arrays = json.loads(data.attrs["training"]), []
    while f"training{len(arrays)}" in data:
        arrays.append(data[f"training{len(arrays)}"].values)
    return Training(arrays=arrays, **numbers)


def _opened(path: Path):
    import xarray as xr

    with _readable(path), xr.open_dataset(path, engine="h5netcdf") as dataset:
        data = dataset.load()
    if "gflow_batch" in data.attrs:
        raise ValueError(f"{path} is a batch of runs: read it with gflow.Batch.load.")
    return data


def _opened_groups(path: Path) -> tuple[Any, dict[str, Any]]:
    """The root of a file of several runs, and what its groups hold."""
    import xarray as xr

    with _readable(path):
        groups = xr.open_groups(path, engine="h5netcdf")
        loaded = {name: data.load() for name, data in groups.items()}
        for data in groups.values():
            data.close()
    root = loaded.pop("/")
    if "gflow_batch" not in root.attrs:
        raise ValueError(
            f"{path} is no batch that Batch.save has written: a single run is read with "
            "gflow.Trajectory.load."
        )
    return root, loaded


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    if not path.is_file():
        raise ValueError(f"There is no file {path} to load a run from.")
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read as NetCDF ({type(error).__name__}: {error}): it is cut off or "
            "no file that Trajectory.save has written."
        ) from error


def _checked(data: Any, path: Path) -> Any:
    """A dataset of this format under its own names. **Raises:** ValueError for another."""
    found = data.attrs.get("gflow_format", 1 if "log_alpha_conflict" in data.attrs else None)
    if found is None:
        raise ValueError(f"{path} is NetCDF, but no run that Trajectory.save has written.")
    if found != FORMAT:
        raise ValueError(
            f"{path} is a run in format {found}, and this version reads format {FORMAT}. Read its "
            "arrays with xarray.open_dataset, or simulate again."
        )
    names = {n: read_name(n) for n in [*data.variables, *data.dims]}
    return data.rename({n: name for n, name in names.items() if name != n})


def _stage(data: Any, i: int, numbers: dict[str, Any], like: PyTree) -> MeasuredStage:
    arrays = {key: data[f"stage{i}.{key}"].values for key in numbers["arrays"]}

    def of(what: str) -> dict[str, np.ndarray]:
        prefix = f"{what}."
        return {k.removeprefix(prefix): x for k, x in arrays.items() if k.startswith(prefix)}

    build = None
    if like is not None and of("model"):
        build = functools.partial(_with_leaves, like, of("model"), numbers["stands at"])
    level = numbers["level"]
    if level is not None:
        level = (level[0] if level[0] == "loss" else _coordinate(level[0]), level[1])
    return MeasuredStage(
        t=numbers["t"],
        tau=numbers["tau"],
        error=numbers["error"],
        activated=[_coordinate(c) for c in numbers["activated"]],
        deactivated=[_coordinate(c) for c in numbers["deactivated"]],
        value=of("value"),
        loss=numbers["loss"],
        rank=of("rank"),
        step=numbers["step"],
        clock=numbers["clock"],
        level=level,
        build=build,
    )


def _coordinate(written: Any) -> tuple[str, tuple[int, ...]]:
    name, index = written
    return name, tuple(index)


def _with_leaves(like: PyTree, arrays: dict[str, np.ndarray], time: float) -> PyTree:
    """`like` with the arrays "i.name" in the places of those of its trained leaves."""
    trained = trained_leaves(like)

    def change(path, node):
        name = leaf_name(path)
        if name not in trained:
            return node
        _, treedef = jax.tree.flatten(node)
        found = [jnp.asarray(arrays[f"{i}.{name}"]) for i in range(treedef.num_leaves)]
        return remember(jax.tree.unflatten(treedef, found), time)

    return jax.tree_util.tree_map_with_path(change, like, is_leaf=is_parameter)


def _check_like(
    like: PyTree, model: dict[str, Any] | None, saved: Fingerprint, log_alpha: float, path: Any
) -> None:
    """**Raises:** ValueError unless `like` is the model that the run was started from."""
    if model is None:
        return
    given = described_model(like)["leaves"]
    wanted = model["leaves"]
    listed = ", ".join(f"{n}: {x['kind']} {tuple(x['shape'])}" for n, x in wanted.items())
    what = f"The run in {path} is of a {model['class']} with the trained leaves {listed}; `like`"
    if set(given) != set(wanted):
        raise ValueError(
            f"{what} has {', '.join(given) or 'none'}. Pass the model that the run was started "
            "from."
        )
    for name, leaf in wanted.items():
        other = given[name]
        if other != leaf:
            raise ValueError(
                f"{what} has {name}: {other['kind']} {tuple(other['shape'])}. Pass the model that "
                "the run was started from (of an optimiser's run gflow.to_factors of it)."
            )
    own = Fingerprint(start_factors(like, log_alpha), None, None)
    if difference := saved.difference(own, "factors"):
        raise ValueError(
            f"{what} starts elsewhere: {difference}. Pass the model that the run was started from."
        )
