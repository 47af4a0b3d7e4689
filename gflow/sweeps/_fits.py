"""Times and powers fitted over the scales of a sweep, on labelled arrays."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from .._arguments import number
from ._lines import Line, lines

#: Share of the largest by which values that are meant to be equal may differ.
_ROUNDING = 1e-9


def varied(log_alpha: xr.DataArray, asking: str) -> str:
    """The one setting along which α differs. **Raises:** ValueError where there is none."""
    most = float(abs(log_alpha).max())
    dims = [str(n) for n in log_alpha.dims]
    spans = {n: float((log_alpha.max(n) - log_alpha.min(n)).max()) for n in dims}
    differs = [n for n, span in spans.items() if span > _ROUNDING * most]
    if len(differs) != 1 or differs == ["seed"]:
        said = " and ".join(map(repr, differs)) or "nothing"
        raise ValueError(f"{asking}: α must differ along one setting, here along {said}.")
    return differs[0]


def fitted_offsets(
    stages: xr.Dataset, log_alpha: xr.DataArray, confidence: float, units: tuple[str, str]
) -> xr.Dataset:
    """See `Sweep.offsets`; `units` are those of T and of C."""
    along = varied(log_alpha, "offsets")
    off = abs(stages["t"] / stages["tau"] / -log_alpha - 1.0)
    if float(off.max()) > 1e-6:
        raise ValueError(
            "offsets: t/τ of these runs is not log(1/α), as at saddles of order three and more."
        )
    line = _fitted(-log_alpha, stages["t"], stages["error"], along, confidence)
    per_log, time = units
    names = {"T": per_log, "C": time, "T_error": per_log, "C_error": time, "misfit": time}
    return _named(line, names)


def fitted_exponents(
    array: xr.DataArray, x: xr.DataArray, along: str, confidence: float
) -> xr.Dataset:
    """See `Sweep.exponents`; `x` is positive."""
    if along not in array.dims:
        raise ValueError(f"The array has dimensions {list(array.dims)} and no {along!r}.")
    size = abs(array.astype(float))
    y = xr.apply_ufunc(np.log, size.where(size > 0.0))
    line = _fitted(x, y, xr.zeros_like(y), along, confidence)
    names = ("exponent", "log_factor", "exponent_error", "log_factor_error", "misfit")
    return _named(line, dict.fromkeys(names, "1"))


def log_of(values: xr.DataArray) -> xr.DataArray:
    """The logarithm of a setting. **Raises:** ValueError unless its values are positive."""
    if values.dtype.kind not in "if" or not float(values.min()) > 0.0:
        raise ValueError(f"along = {values.name!r}: not all of {list(values.values)} have a log.")
    return xr.apply_ufunc(np.log, values.astype(float))


def _fitted(
    x: xr.DataArray, y: xr.DataArray, error: xr.DataArray, along: str, confidence: float
) -> Sequence[xr.DataArray]:
    """The parts of a `Line`, with the dimensions of `y` but `along`."""
    level = number("confidence", confidence, "a share of all fits")
    if not 0.0 < level < 1.0:
        raise ValueError(f"confidence = {confidence}: between 0 and 1.")
    rest = [d for d in y.dims if d != along]
    together = (a.broadcast_like(y).transpose(*rest, along).values for a in (x, y, error))
    rows = [np.asarray(a, float) for a in together]
    line: Line = lines(*(a.reshape(-1, a.shape[-1]) for a in rows), level)
    coords = {n: c for n, c in y.coords.items() if along not in c.dims}
    return [xr.DataArray(part.reshape(rows[0].shape[:-1]), coords, rest) for part in line]


def _named(parts: Sequence[xr.DataArray], units: dict[str, str]) -> xr.Dataset:
    named = zip(units.items(), parts, strict=True)
    return xr.Dataset({name: part.assign_attrs(units=unit) for (name, unit), part in named})
