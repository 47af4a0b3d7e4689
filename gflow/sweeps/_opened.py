"""What a sweep has found, on labelled arrays: stages by what switches, curves, bands."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from jaxtyping import ArrayLike

from .._arguments import numbers
from .._display import Displayed, Summary, Table
from ..plot import COLOURS, new_axes
from ..results._alignment import named_stages
from ._fits import fitted_exponents, fitted_offsets, log_of, varied
from ._plan import Setting
from ._ragged import names_in, unpacked
from ._store import Store, existing

if TYPE_CHECKING:
    import xarray as xr


class Predicted(Protocol):
    """Stages at one α, and the time τ of each."""

    stages: Sequence[object]
    tau: Sequence[float]


#: What is written of how a sweep was simulated.
Described = Setting | list[object] | dict[str, object]
#: To read at.
Times = ArrayLike | Sequence[float]

_FLOW_TIME, _TAU = "flow time", "tau"


def open_sweep(path: str | Path) -> "Sweep":
    """Open the folder of a sweep, finished or under way. Numbers are read when asked for.

    **Raises:** ValueError for a folder that holds no sweep, or one in another format.

    ```python
    runs = gflow.open_sweep("seeds")
    print(runs)
    runs.stages()["t"].median("seed")
    ```
    """
    return Sweep(existing(path))


class Sweep(Displayed):
    """The runs of `sweep` in a folder; what is not finished yet is NaN in its arrays.

    - `grid`, `seeds`: what it is of. `settings`: how it was simulated.
    - `done`, `failed`: how many runs are stored; number of a failed run ↦ its reason.
    - `runs()`, `stages()`, `curve(name)`, `final(leaf)`: xarray datasets and arrays whose
      dimensions are the names of the grid and `seed`, with units in `attrs["units"]`.
    - `band(array)`: quantiles over seeds. `deviations(predict)`: measured stage times beside
      predicted ones. `plot(name)`: median and band of a curve for every setting.
    - `offsets()`, `exponents(array)`: T_k and C_k of stages, and powers of α, with intervals.

    Files are read one at a time, so that memory is that of the answer.
    """

    def __init__(self, store: Store):
        self._store, self._verified = store, set()

    @property
    def path(self) -> Path:
        return self._store.path

    @property
    def grid(self) -> dict[str, list[Setting]]:
        return self._store.plan.grid

    @property
    def seeds(self) -> list[int]:
        return self._store.plan.seeds

    @property
    def settings(self) -> dict[str, Described]:
        return self._store.about["settings"]

    @property
    def done(self) -> int:
        """Runs that are stored, failed ones among them."""
        return sum(len(self._store.plan.members(k)) for k in self._store.finished())

    @property
    def failed(self) -> dict[int, str]:
        """The number of every failed run and why it failed; `setting(number)` says which it is."""
        return {run: str(found["reason"]) for run, found in self._each("reason") if _why(found)}

    def setting(self, run: int) -> dict[str, Setting]:
        """The settings of run number `run`, and its seed. **Raises:** ValueError for no number."""
        if not 0 <= run < self._store.plan.runs:
            raise ValueError(f"run = {run}: a number from 0 to {self._store.plan.runs - 1}.")
        chosen, seed = self._store.plan.settings(run)
        return {**chosen, "seed": seed}

    def runs(self) -> "xr.Dataset":
        """Of every run `status`, `reason`, `log_alpha`, its last `t` and `loss`, and `stages`."""
        runs = self._store.plan.runs
        status, reason = np.full(runs, "", object), np.full(runs, "", object)
        ends = {key: np.full(runs, np.nan) for key in ("log_alpha", "t", "loss")}
        stages = np.zeros(runs, int)
        wanted = ("status", "reason", "log_alpha", "t", "curve.loss", "stage.label")
        for run, found in self._each(*wanted):
            status[run], reason[run] = str(found["status"]), str(found["reason"])
            for key, name in (("log_alpha", "log_alpha"), ("t", "t"), ("loss", "curve.loss")):
                if found[name] is not None:
                    ends[key][run] = np.asarray(found[name]).reshape(-1)[-1]
            stages[run] = 0 if found["stage.label"] is None else len(found["stage.label"])
        units = {"log_alpha": "1", "t": _FLOW_TIME, "loss": "1"}
        arrays = {"status": self._laid(status), "reason": self._laid(reason)}
        arrays |= {k: self._laid(x, units=units[k]) for k, x in ends.items()}
        return self._dataset(arrays | {"stages": self._laid(stages, units="1")})

    def stages(self) -> "xr.Dataset":
        """`t`, `tau`, `error` (of t) and `loss` by `stage`, which is what switches.

        A stage that a run has not is NaN there. The order is that of the median times; labels
        are those of `gflow.align_stages`.
        """
        keys = ("t", "tau", "error", "loss")
        found = list(self._each("stage.label", *(f"stage.{key}" for key in keys)))
        where: dict[str, int] = {}
        for _, row in found:
            for label in () if row["stage.label"] is None else row["stage.label"]:
                where.setdefault(str(label), len(where))
        tables = {key: np.full((self._store.plan.runs, len(where)), np.nan) for key in keys}
        for run, row in found:
            if row["stage.label"] is None:
                continue
            at = [where[str(label)] for label in row["stage.label"]]
            for key in keys:
                tables[key][run, at] = row[f"stage.{key}"]
        medians = [float(np.median(x[np.isfinite(x)])) for x in tables["t"].T]
        order = np.argsort(medians, kind="stable").astype(int)
        labels = [list(where)[k] for k in order]
        units = {"t": _FLOW_TIME, "tau": _TAU, "error": _FLOW_TIME, "loss": "1"}
        return self._dataset(
            {k: self._laid(x[:, order], ["stage"], units[k]) for k, x in tables.items()},
            stage=("stage", np.array(labels, dtype=object)),
        )

    def curve(
        self, name: str = "loss", *, tau: Times | None = None, t: Times | None = None
    ) -> "xr.DataArray":
        """A recorded number of every run at these τ, or flow times `t`, by straight lines.

        Between recorded steps a line is off by what the number curves there; outside of a run it
        is NaN. Entries of an array are further dimensions.

        **Raises:** ValueError for a name that is not kept, and unless `tau` or `t` is given.
        """
        if (tau is None) == (t is None):
            raise ValueError("curve needs the times to read at: give tau or t, one of them.")
        axis, given = ("t", t) if tau is None else ("tau", tau)
        times = np.atleast_1d(numbers(axis, given, "times to read at"))
        curves = self._store.about["settings"]["curves"]
        if name not in curves:
            kept = ", ".join(map(repr, curves))
            raise ValueError(f"This sweep keeps no curve {name!r}, only {kept}: see curves=.")
        rows = {}
        for run, found in self._each(f"curve.{name}", axis):
            values, at = found[f"curve.{name}"], found[axis]
            if values is None or at is None:
                continue
            flat = values.reshape(len(at), -1).T
            read = [np.interp(times, at, x, left=np.nan, right=np.nan) for x in flat]
            rows[run] = np.stack(read, -1).reshape(len(times), *values.shape[1:])
        units = _TAU if axis == "tau" else _FLOW_TIME
        table, extra = self._padded(rows, (len(times),))
        array = self._laid(table, [axis, *extra], "1")
        whole = self._dataset({name: array}, **{axis: (axis, times, {"units": units})})
        return whole[name]

    def final(self, leaf: str) -> "xr.DataArray":
        """The effective weight of a leaf at the end of every run.

        **Raises:** ValueError for a leaf that no run has.
        """
        rows = {run: x for run, found in self._each(f"final.{leaf}")
                if (x := found[f"final.{leaf}"]) is not None}  # fmt: skip
        if not rows:
            raise ValueError(f"No run of {self.path} has a leaf {leaf!r}.")
        table, extra = self._padded(rows, ())
        return self._dataset({leaf: self._laid(table, extra, "1")})[leaf]

    def band(
        self, array: "xr.DataArray", quantiles: Sequence[float] = (0.1, 0.5, 0.9)
    ) -> "xr.DataArray":
        """Quantiles over the seeds that have a number, along a new dimension `quantile`.

        **Raises:** ValueError for an array without seeds, and for shares outside of [0, 1].
        """
        if "seed" not in array.dims:
            raise ValueError(f"The array has dimensions {array.dims} and no seed to go over.")
        shares = numbers("quantiles", quantiles, "shares of the seeds")
        if not np.all((shares >= 0.0) & (shares <= 1.0)):
            raise ValueError(f"quantiles = {quantiles}: shares from 0 to 1.")
        over = array.dims.index("seed")
        moved = np.moveaxis(np.asarray(array.values, float), over, -1)
        found = np.full((shares.size, *moved.shape[:-1]), np.nan)
        some = np.isfinite(moved).any(-1)
        if some.any():
            found[:, some] = np.nanquantile(moved[some], shares.reshape(-1), axis=-1)
        dims = ["quantile", *(d for d in array.dims if d != "seed")]
        coords = {k: x for k, x in array.coords.items() if "seed" not in x.dims}
        import xarray as xr

        return xr.DataArray(found, {"quantile": shares.reshape(-1), **coords}, dims,
                            array.name, array.attrs)  # fmt: skip

    def deviations(self, predict: Callable[..., Predicted]) -> "xr.Dataset":
        """Measured less predicted times of stages, over seeds and grid.

        **Arguments:** `predict(**settings, seed=seed)` returns what has `stages`, each with what
        is `activated` and `deactivated`, and their times `tau` at the α of the run:
        `prediction.at(log_alpha)` of `theory`. Stages are matched by what switches.

        **Returns:** `deviation` in τ by `stage`, NaN where either lacks it; `unpredicted`, the
        stages of a run that were not predicted; `unseen`, the predicted ones that it has not.
        """
        measured = self.stages()
        runs, labels = self._store.plan.runs, [str(x) for x in measured["stage"].values]
        tau = measured["tau"].values.reshape(runs, len(labels))
        table = np.full_like(tau, np.nan)
        unpredicted, unseen = np.zeros(runs), np.zeros(runs)
        there = {
            run for run, found in self._each("stage.label") if found["stage.label"] is not None
        }
        for run in range(runs):
            if run not in there:
                unpredicted[run] = unseen[run] = np.nan
                continue
            predicted = predict(**self.setting(run))
            said = dict(zip(named_stages(predicted.stages), predicted.tau, strict=True))
            for k, label in enumerate(labels):
                if label in said:
                    table[run, k] = tau[run, k] - float(said[label])
            seen = {x for x, at in zip(labels, tau[run], strict=True) if np.isfinite(at)}
            unpredicted[run], unseen[run] = len(seen - set(said)), len(set(said) - seen)
        return self._dataset(
            {
                "deviation": self._laid(table, ["stage"], _TAU),
                "unpredicted": self._laid(unpredicted, units="1"),
                "unseen": self._laid(unseen, units="1"),
            },
            stage=("stage", measured["stage"].values),
        )

    def offsets(self, confidence: float = 0.95) -> "xr.Dataset":
        """T_k and C_k of t_k = T_k log(1/α) + C_k, by least squares over the scales of the grid.

        **Returns:** `T`, `C` (flow time) by `stage`, for every seed and other setting, half widths
        `T_error` and `C_error` of intervals of this `confidence`, and `misfit`, the largest
        distance of a time from the line, which at small α is what higher terms of α do. Half
        widths are Student's for the scatter, and the solver's error bars with the worst signs on
        top; two scales fix a line and no half width.

        **Raises:** ValueError unless α differs along one setting of the grid, and where times are
        not in units of log(1/α) (saddles of order three and more).
        """
        log_alpha = self.runs()["log_alpha"]
        return fitted_offsets(self.stages(), log_alpha, confidence, (_TAU, _FLOW_TIME))

    def exponents(
        self, array: "xr.DataArray", along: str | None = None, confidence: float = 0.95
    ) -> "xr.Dataset":
        """The power p of array ∝ x^p, by least squares of log |array| on log x.

        x is the setting `along`, which must be positive; without it α.

        **Returns:** `exponent`, `log_factor` (the logarithm of the array at x = 1), half widths
        `exponent_error` and `log_factor_error` as those of `offsets`, and `misfit` of log |array|.
        Zeros are left out.

        **Raises:** ValueError for a setting that is not along the array, or not positive.
        """
        if along is None:
            log_alpha = self.runs()["log_alpha"]
            return fitted_exponents(array, log_alpha, varied(log_alpha, "exponents"), confidence)
        if along not in self.grid or along not in array.dims:
            raise ValueError(
                f"along = {along!r}: a setting of {list(self.grid)} that the array goes along, "
                f"whose dimensions are {list(array.dims)}."
            )
        return fitted_exponents(array, log_of(array[along]), along, confidence)

    def plot(
        self,
        name: str = "loss",
        *,
        tau: Times | None = None,
        t: Times | None = None,
        quantiles: tuple[float, float, float] = (0.1, 0.5, 0.9),
        ax=None,
    ):
        """Median over seeds of a curve against τ (or `t`), with a band, for every setting.

        Settings differ in colour and in dashes. **Raises:** as `curve` and `band`.
        """
        curve = self.curve(name, tau=tau, t=t)
        axis = "tau" if t is None else "t"
        found = self.band(curve, quantiles)
        inner = [d for d in found.dims if d not in ("quantile", axis)]
        ax = new_axes(ax)
        dashes: list[Any] = ["-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5))]
        times = found[axis].values
        for i, place in enumerate(np.ndindex(*(found.sizes[d] for d in inner))):
            at = dict(zip(inner, place, strict=True))
            low, middle, high = found.isel(at).transpose("quantile", axis).values
            said = ", ".join(f"{d} = {found[d].values[j]}" for d, j in at.items() if d in self.grid)
            colour = COLOURS[i % len(COLOURS)]
            ax.fill_between(times, low, high, color=colour, alpha=0.2, lw=0.0)
            ax.plot(times, middle, color=colour, ls=dashes[i % len(dashes)], lw=1.3, label=said)
        ax.set(xlabel=r"$\tau$" if axis == "tau" else "flow time $t$", ylabel=name)
        if self.grid:
            ax.legend(frameon=False, fontsize="x-small")
        return ax

    def _each(self, *names: str) -> Iterator[tuple[int, dict[str, Any]]]:
        """Every stored run and what it has under these names, None where it has nothing."""
        for chunk in self._store.finished():
            if chunk not in self._verified:
                self._store.verify(chunk)
                self._verified.add(chunk)
            members = self._store.plan.members(chunk)
            with self._store.reading(chunk) as data:
                there = set(names_in(data))
                columns = {
                    n: unpacked(data, n) if n in there else [None] * len(members) for n in names
                }
            for i, run in enumerate(members):
                yield run, {n: column[i] for n, column in columns.items()}

    def _padded(self, rows: dict[int, np.ndarray], least: tuple[int, ...]):
        """One array over all runs, NaN where there is nothing, and names of its last axes."""
        if len({x.ndim for x in rows.values()}) > 1:
            raise ValueError(f"Runs of {self.path} have arrays of several dimensions here.")
        shapes = [x.shape for x in rows.values()] or [least]
        shape = tuple(max(n) for n in zip(*shapes, strict=True))
        table = np.full((self._store.plan.runs, *shape), np.nan)
        for run, x in rows.items():
            table[(run, *map(slice, x.shape))] = x
        return table, [f"axis{i}" for i in range(len(shape) - len(least))]

    def _laid(self, table: np.ndarray, extra: Sequence[str] = (), units: str | None = None):
        """A row a run as an array over grid and seeds."""
        import xarray as xr

        shape = (*self._store.plan.shape, *table.shape[1:])
        attrs = {} if units is None else {"units": units}
        return xr.Variable([*self.grid, "seed", *extra], table.reshape(shape), attrs)

    def _dataset(self, arrays: dict[str, Any], **coords: Any):
        import xarray as xr

        axes = {n: np.array(x, dtype=object) if _mixed(x) else x for n, x in self.grid.items()}
        coords = {**{n: (n, x) for n, x in axes.items()}, "seed": ("seed", self.seeds), **coords}
        return xr.Dataset(arrays, coords, {"settings": json.dumps(self.settings)})

    def _summary(self) -> Summary:
        plan = self._store.plan
        failed = self.failed
        facts = [
            ("of", f"{plan.runs} runs, {len(self.seeds)} seeds a setting, in {plan.chunks} files"),
            ("done", f"{self.done}"),
            ("failed", f"{len(failed)}"),
        ]
        rows = [[n, str(len(x)), ", ".join(map(str, x[:6])) + (", …" if len(x) > 6 else "")]
                for n, x in self.grid.items()]  # fmt: skip
        notes = [f"run {run}: {reason}" for run, reason in failed.items()]
        return Summary(
            f"Sweep in {self.path}", facts, [Table(["setting", "values", ""], rows)], notes
        )


def _why(found: dict[str, Any]) -> bool:
    return found["reason"] is not None and bool(str(found["reason"]))


def _mixed(values: list[Any]) -> bool:
    return any(isinstance(x, str | bool) or x is None for x in values)
