"""Arrays of many runs, each of its own shape, in one NetCDF file with a checksum.

Under a name lie the numbers of all runs one after the other, and under `name.shape` a row of
lengths for each run, −1 beyond its axes. A run that lacks the name has a row of −2.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from ..results._names import read_name, written_name

#: One run: numbers and strings by name.
Row = dict[str, np.ndarray]

_NOT_THERE = -2


def packed(rows: list[Row], attrs: dict[str, Any]) -> bytes:
    """The file as bytes."""
    import xarray as xr

    data = {}
    for name in dict.fromkeys(n for row in rows for n in row):
        arrays = [row.get(name) for row in rows]
        axes = max(np.ndim(x) for x in arrays if x is not None)
        shapes = np.full((len(rows), max(axes, 1)), -1)
        for i, array in enumerate(arrays):
            if array is None:
                shapes[i] = _NOT_THERE
            else:
                shapes[i, : array.ndim] = array.shape
        flat = np.concatenate([x.reshape(-1) for x in arrays if x is not None])
        key = written_name(name)
        data[key] = xr.Variable(f"{key}.entry", flat.astype(object) if _text(flat) else flat)
        data[f"{key}.shape"] = xr.Variable(["run", f"{key}.axis"], shapes)
    attrs = attrs | {"names": json.dumps(list(data)), "sha256": _checksum(data)}
    return bytes(xr.Dataset(data, attrs=attrs).to_netcdf(engine="h5netcdf"))


def opened(path: Path) -> tuple[Any, dict[str, Any]]:
    """The dataset, not yet read, and its attributes. **Raises:** what h5py does."""
    import h5py
    import xarray as xr

    with h5py.File(path):  # h5netcdf leaves a broken object behind where this fails
        pass
    data = xr.open_dataset(path, engine="h5netcdf")
    return data, dict(data.attrs)


def intact(data: Any, attrs: dict[str, Any]) -> bool:
    """Whether everything is as it was written."""
    names = json.loads(attrs["names"])
    return (
        all(n in data for n in names) and _checksum({n: data[n] for n in names}) == attrs["sha256"]
    )


def names_in(data: Any) -> list[str]:
    return [read_name(n) for n in data.variables if f"{n}.shape" in data.variables]


def unpacked(data: Any, name: str) -> list[np.ndarray | None]:
    """What each run has under a name, None where it has nothing."""
    key = written_name(name)
    shapes, flat = data[f"{key}.shape"].values, data[key].values
    found, at = [], 0
    for row in shapes:
        if (row == _NOT_THERE).any():
            found.append(None)
            continue
        shape = tuple(int(n) for n in row if n >= 0)
        size = int(np.prod(shape))
        found.append(flat[at : at + size].reshape(shape))
        at += size
    return found


def rows_of(data: Any, runs: int) -> list[Row]:
    """All that the runs of a file have."""
    rows: list[Row] = [{} for _ in range(runs)]
    for name in names_in(data):
        for row, array in zip(rows, unpacked(data, name), strict=True):
            if array is not None:
                row[name] = array.astype(str) if array.dtype.kind == "O" else array
    return rows


def _text(array: np.ndarray) -> bool:
    return array.dtype.kind in "UO"


def _checksum(data: Any) -> str:
    found = hashlib.sha256()
    for name in sorted(data):
        values = np.asarray(data[name].values)
        found.update(name.encode())
        if _text(values):
            found.update(json.dumps([str(x) for x in values.reshape(-1)]).encode())
        else:
            found.update(f"{values.dtype.kind}{values.dtype.itemsize}{values.shape}".encode())
            found.update(np.ascontiguousarray(values).tobytes())
    return found.hexdigest()
