"""Trajectories written to disk: NetCDF through xarray, with all that made them.

A file holds what the run recorded, its error bars, its stages with their bars as they were found
with the flow at hand, its settings and a fingerprint of its start, data and decay. It does not
hold the model, which `like` gives back and which is compared with what is written here.
"""

import importlib.metadata
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from .._arguments import file_path
from .._time_unit import unit_name
from .._version import __version__
from ..coordinates._base import chart_name
from ..flow._decay import sampled
from ..parameters._base import Constant, is_parameter, known_times, trained_leaves
from ._names import written_name
from ._record import Record
from ._stages import MeasuredStage

#: Of the layout of a file.
FORMAT = 5
SCALARS = ("log_alpha", "order", "status", "cause", "method", "log_alpha_conflict", "counts_steps")
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
    attrs = {name: getattr(trajectory, name) for name in SCALARS}
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
    names = {n: written_name(n) for n in [*dataset.variables, *dataset.dims]}
    return dataset.rename({n: name for n, name in names.items() if name != n})


def _json(value: Any) -> str:
    return json.dumps(value, default=lambda x: x.item())  # of NumPy's numbers


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
