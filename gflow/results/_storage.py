"""Trajectories on disk: NetCDF through xarray, with all that made them.

A file holds what the run recorded, its error bars, its stages with their bars as they were found
with the flow at hand, its settings and a fingerprint of its start, data and decay. It does not
hold the model, which `like` gives back and which is compared with what is written here.
"""

import contextlib
import functools
import importlib.metadata
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from .._arguments import file_path
from .._stacking import member
from .._time_unit import unit_name
from .._version import __version__
from ..coordinates._base import chart_name, chart_named
from ..coordinates._record import LeafRecord
from ..flow._decay import sampled
from ..integrate._status import Status
from ..parameters._base import Constant, is_parameter, known_times, leaf_name, trained_leaves
from ..parameters._elapsed import remember
from ..training._memory import Training
from ._fingerprint import Fingerprint, start_factors
from ._record import Record
from ._stages import MeasuredStage

#: Of the layout of a file.
FORMAT = 5
_SCALARS = ("log_alpha", "order", "status", "cause", "method", "log_alpha_conflict", "counts_steps")
_PACKAGES = ("jax", "jaxlib", "diffrax", "equinox", "optax")
_TIME = "flow time"
#: Times at which a decay λ(t) is written down.
_SAMPLES = 129


def versions() -> dict[str, str]:
    """Installed versions of the packages a result depends on."""
    found = {"gflow": __version__}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def settings_of(trajectory: Record) -> dict[str, Any]:
    """Tolerance, solver and decay by leaf: λ, or λ(t) at times through the run."""
    resolver = trajectory.resolver
    if resolver is None:
        return {}
    flow, times = resolver.flow, np.linspace(trajectory.t[0], trajectory.t[-1], _SAMPLES)

    def described(rate: Any) -> Any:
        if rate is None:
            return 0.0
        if isinstance(rate, Constant):
            return float(rate.value)
        values = sampled(rate, jnp.asarray(times, flow.dtype))
        return {"t": times.tolist(), "decay": np.asarray(values).tolist()}

    rates = zip(flow.names, flow.decay, strict=True)
    return {
        "rtol": float(resolver.rtol),
        "solver": type(resolver.solver).__name__,
        "error_bars": trajectory.refined is not None,
        "dtype": str(np.dtype(flow.dtype)),
        "prng": str(jax.config.jax_default_prng_impl),  # type: ignore[attr-defined]
        "decay": {name: described(rate) for name, rate in rates},
    }


def described_model(model: PyTree) -> dict[str, Any]:
    """The class of a model and the kind and shape of everything in it that is trained."""
    leaves = {}
    for name, leaf in trained_leaves(model).items():
        kind = type(leaf).__name__ if is_parameter(leaf) else "array"
        shape = leaf.value.shape if is_parameter(leaf) else np.shape(leaf)
        leaves[name] = {"kind": kind, "shape": list(shape)}
    return {"class": f"{type(model).__module__}.{type(model).__qualname__}", "leaves": leaves}


def to_dataset(trajectory: Record, settings: dict[str, Any]):
    """Observables and error bars as an `xarray.Dataset` over the dimension `t`."""
    import xarray as xr

    def variable(name: str, array: np.ndarray, units: str = "1"):
        return xr.Variable(_dims(trajectory, name, np.shape(array)), array, {"units": units})

    data = {"loss": variable("loss", trajectory.loss)}
    if trajectory.clock is not None:
        data["clock"] = variable("clock", trajectory.clock)
    if trajectory.lapses is not None:
        data["lapse"] = variable("lapse", trajectory.lapses, _TIME)
    data["descent"] = variable("descent", trajectory.descent, f"1/({_TIME})")
    data.update({n: variable(n, a) for n, a in trajectory.observables.items()})
    data.update({f"error.{n}": variable(n, a) for n, a in trajectory.error.items()})
    coords: dict[str, Any] = {"t": xr.Variable("t", trajectory.t, {"units": _TIME})}
    if trajectory.log_alpha < 0:
        coords["tau"] = xr.Variable(
            "t", trajectory.tau, {"units": unit_name(trajectory.order).replace("α", "alpha")}
        )
    attrs = {name: getattr(trajectory, name) for name in _SCALARS}
    attrs["status"] = trajectory.status.name
    attrs["counts_steps"] = int(trajectory.counts_steps)
    attrs["clocked"] = int(trajectory.clock is not None)
    attrs["statistics"] = _json(trajectory.statistics)
    attrs["settings"] = _json(settings)
    attrs["versions"] = json.dumps(versions())
    return xr.Dataset(data, coords, attrs)


def _dims(trajectory: Record, name: str, shape: tuple[int, ...], key: str = "value") -> list[str]:
    """One dimension for an axis of a leaf, whatever of the leaf it is an axis of."""
    leaf = name if name in trajectory.leaves else name.rpartition(".")[0]
    if leaf in trajectory.leaves:
        like = np.shape(trajectory.leaves[leaf]["value"])
        own = [f"{leaf}.axis{i}" for i in range(1, len(like))]
        if name.endswith(".log_singular"):
            return ["t", *own[:-2], f"{leaf}.mode"]
        if shape == like[: len(shape)] and (len(shape) == len(like) or key == "value"):
            return ["t", *own[: len(shape) - 1]]
    suffix = "" if key == "value" else f".{key}"
    return ["t", *(f"{name}{suffix}.axis{i}" for i in range(1, len(shape)))]


def save(trajectory: Record, path: str | Path, kept: dict[str, Any]) -> None:
    """Write the dataset, every leaf's state, and what is `kept`: stages, settings, fingerprint.

    **Raises:** ValueError where a file cannot be written.
    """
    path = _new_file(path)
    try:
        _document(trajectory, kept).to_netcdf(path, engine="h5netcdf")
    except OSError as error:
        raise ValueError(f"A run cannot be saved as {path}: {error}.") from error


def save_all(
    trajectories: Sequence[Record],
    path: str | Path,
    kept: Sequence[dict[str, Any]],
    statistics: dict[str, Any],
) -> None:
    """Write many runs to one file, a group each. **Raises:** as `save`."""
    import xarray as xr

    path = _new_file(path)
    pairs = zip(trajectories, kept, strict=True)
    groups = {f"member{i}": _document(*pair) for i, pair in enumerate(pairs)}
    root = xr.Dataset(attrs={"gflow_batch": len(groups), "statistics": _json(statistics)})
    try:
        xr.DataTree.from_dict({"/": root, **groups}).to_netcdf(path, engine="h5netcdf")
    except OSError as error:
        raise ValueError(f"A batch cannot be saved as {path}: {error}.") from error


def _new_file(path: str | Path) -> Path:
    path = file_path(path)
    if path.is_dir() or not path.parent.is_dir():
        what = "is a folder" if path.is_dir() else f"is in {path.parent}, which is no folder"
        raise ValueError(f"A run cannot be saved as {path}: it {what}. Give a path like run.nc.")
    return path


def _document(trajectory: Record, kept: dict[str, Any]):
    """All of a run as one dataset, under names that NetCDF takes."""
    import xarray as xr

    dataset = to_dataset(trajectory, kept["settings"])
    records = {"state": trajectory.leaves}
    if trajectory.refined is not None:
        records["refined"] = trajectory.refined["leaves"]
        for key in ("t", "lapse", "loss"):
            if key in trajectory.refined:
                dataset[f"refined.{key}"] = xr.Variable(["t"], trajectory.refined[key])
    lead = "t"
    if trajectory.checkpoints is not None:
        lead = "checkpoint"
        dataset["checkpoints"] = xr.Variable(lead, trajectory.checkpoints)
    for prefix, leaves in records.items():
        for name, leaf in leaves.items():
            for key, array in leaf.arrays.items():
                dims = [lead, *_dims(trajectory, name, np.shape(array), key)[1:]]
                dataset[f"{prefix}.{name}.{key}"] = xr.Variable(dims, array)
    stages = kept["stages"]
    for i, stage in enumerate(stages):
        for key, array in _stage_arrays(stage).items():
            dims = [f"stage{i}.{key}.axis{k}" for k in range(np.ndim(array))]
            dataset[f"stage{i}.{key}"] = xr.Variable(dims, array)
    written = {
        "observables": list(trajectory.observables),
        "leaves": {n: list(x) for n, x in trajectory.leaves.items()},
        "charts": {n: chart_name(x.chart) for n, x in trajectory.leaves.items()},
        "model": kept["made_of"],
        "fingerprint": kept["fingerprint"].to_dict(),
        "stages": [_stage_numbers(s) for s in stages],
    }
    if trajectory.training is not None:
        written["training"] = trajectory.training.numbers()
        for i, array in enumerate(trajectory.training.arrays):
            dims = [f"training{i}.axis{k}" for k in range(array.ndim)]
            dataset[f"training{i}"] = xr.Variable(dims, array)
    dataset.attrs |= {key: _json(value) for key, value in written.items()}
    dataset.attrs["gflow_format"] = FORMAT
    names = {n: _written(n) for n in [*dataset.variables, *dataset.dims] if _written(n) != n}
    return dataset.rename(names)


def _json(value: Any) -> str:
    return json.dumps(value, default=lambda x: x.item())  # of NumPy's numbers


def _written(name: Any) -> str:
    """A name that is not empty and has no slash, which NetCDF takes for a group."""
    return str(name).replace("%", "%25").replace("/", "%2F") or "%"


def _read(name: Any) -> str:
    return "" if name == "%" else str(name).replace("%2F", "/").replace("%25", "%")


def _stage_numbers(stage: MeasuredStage) -> dict[str, Any]:
    times = set() if stage.model is None else set().union(
        *(known_times(x) for x in trained_leaves(stage.model).values())
    )  # fmt: skip
    return {
        "t": stage.t, "tau": stage.tau, "error": stage.error, "loss": stage.loss,
        "step": stage.step, "clock": stage.clock,
        "activated": stage.activated, "deactivated": stage.deactivated,
        "level": stage.level, "arrays": list(_stage_arrays(stage)),
        "stands at": max(times, default=math.nan),
    }  # fmt: skip


def _stage_arrays(stage: MeasuredStage) -> dict[str, np.ndarray]:
    arrays = {f"value.{n}": x for n, x in stage.value.items()}
    arrays |= {f"rank.{n}": x for n, x in stage.rank.items()}
    if stage.model is not None:
        for n, leaf in trained_leaves(stage.model).items():
            arrays |= {f"model.{i}.{n}": np.asarray(x) for i, x in enumerate(jax.tree.leaves(leaf))}
    return arrays


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
    fields: dict[str, Any] = {name: data.attrs[name] for name in _SCALARS}
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
    return data.rename({n: _read(n) for n in [*data.variables, *data.dims] if _read(n) != n})


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
