"""Trajectories on disk: NetCDF through xarray, with the settings that made them."""

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import numpy as np

_SCALARS = ("log_alpha", "status", "successful", "method", "log_alpha_conflict")
_PACKAGES = ("gflow", "jax", "jaxlib", "diffrax", "equinox", "optax")


def versions() -> dict[str, str]:
    """Installed versions of the packages a result depends on."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def to_dataset(trajectory: Any):
    """Observables and error bars as an `xarray.Dataset` over the dimension `t`."""
    import xarray as xr

    def variable(name: str, array: np.ndarray):
        dims = ["t", *(f"{name}.axis{i}" for i in range(1, array.ndim))]
        return xr.Variable(dims, array)

    data = {"loss": variable("loss", trajectory.loss)}
    data["descent"] = variable("descent", trajectory.descent)
    data.update({n: variable(n, a) for n, a in trajectory.observables.items()})
    for n, a in trajectory.error.items():
        base = variable(n, a)
        data[f"error.{n}"] = base
    coords: dict[str, Any] = {"t": trajectory.t}
    if trajectory.log_alpha < 0:
        coords["tau"] = ("t", trajectory.tau)
    attrs = {name: getattr(trajectory, name) for name in _SCALARS}
    attrs["successful"] = int(attrs["successful"])
    attrs["statistics"] = json.dumps(trajectory.statistics)
    attrs["versions"] = json.dumps(versions())
    return xr.Dataset(data, coords, attrs)


def save(trajectory: Any, path: str | Path) -> None:
    """Write the dataset and every leaf's state."""
    import xarray as xr

    dataset = to_dataset(trajectory)
    for name, leaf in trajectory.leaves.items():
        for key, array in leaf.items():
            dims = ["t", *(f"{name}.{key}.axis{i}" for i in range(1, array.ndim))]
            dataset[f"state.{name}.{key}"] = xr.Variable(dims, array)
    if trajectory.refined is not None:
        dataset["refined.loss"] = xr.Variable(["t"], trajectory.refined["loss"])
        for name, leaf in trajectory.refined["leaves"].items():
            for key, array in leaf.items():
                dims = ["t", *(f"{name}.{key}.axis{i}" for i in range(1, array.ndim))]
                dataset[f"refined.{name}.{key}"] = xr.Variable(dims, array)
    dataset.attrs["observables"] = json.dumps(list(trajectory.observables))
    dataset.attrs["leaves"] = json.dumps({n: list(x) for n, x in trajectory.leaves.items()})
    dataset.to_netcdf(path, engine="h5netcdf")


def load(path: str | Path) -> dict[str, Any]:
    """The fields of a saved trajectory."""
    import xarray as xr

    with xr.open_dataset(path, engine="h5netcdf") as dataset:
        data = dataset.load()
    keys = json.loads(data.attrs["leaves"])
    refined = None
    if "refined.loss" in data:
        refined = {
            "loss": data["refined.loss"].values,
            "leaves": {
                n: {k: data[f"refined.{n}.{k}"].values for k in ks} for n, ks in keys.items()
            },
        }
    names = json.loads(data.attrs["observables"])
    fields: dict[str, Any] = {name: data.attrs[name] for name in _SCALARS}
    fields["successful"] = bool(fields["successful"])
    fields["log_alpha"] = float(fields["log_alpha"])
    return fields | {
        "t": data["t"].values,
        "loss": data["loss"].values,
        "descent": data["descent"].values,
        "observables": {n: data[n].values for n in names},
        "error": {n: data[f"error.{n}"].values for n in ["loss", *names] if f"error.{n}" in data},
        "leaves": {n: {k: data[f"state.{n}.{k}"].values for k in ks} for n, ks in keys.items()},
        "statistics": json.loads(data.attrs["statistics"]),
        "refined": refined,
    }
