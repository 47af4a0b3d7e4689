"""The result of a run: labelled observables, states, error bars, provenance."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, PyTree

from .. import plot
from .._arguments import number, numbers
from ..coordinates._record import LeafRecord
from ..integrate._bars import error_bar
from ..integrate._status import Status, message
from ..parameters._base import Small, is_parameter, leaf_name, trained_leaves
from ..parameters._elapsed import remember
from ..training._memory import Training
from . import _storage as storage
from ._fingerprint import Fingerprint, fingerprint
from ._lazy import Lazy
from ._observables import above_sqrt_alpha
from ._resolver import Resolver
from ._stages import MeasuredStage, find_stages


@dataclasses.dataclass(eq=False, frozen=True)
class Trajectory:
    """One integrated gradient flow.

    - `t`, `tau`: flow time and t/log(1/α); `loss`: data loss at these times.
    - `observables[name]`: by leaf name the effective weight, `name.log_abs` its log|θ| (of a
      product of matrices `name.log_singular`, the logarithms of its singular values),
      `name.above_sqrt_alpha` the number of those above √α along the last axis, whether they rest
      there or not (the ranks of plateaus are those of `stages`); and the user's own.
    - `descent`: |velocity of the factors|², the rate at which loss + (λ/2)‖factors‖² falls.
    - `error[name]`: error bar of `loss` and of each observable, by step halving.
    - A run keeps all its steps up to a quarter of a gigabyte, and then a part of them; `record_at`,
      `model` and `stages` integrate between two of them to the run's tolerance.
    - `status` (a `gflow.Status`), with its `cause` where one was looked for; `successful`,
      `method`, `statistics`: how it was computed. `counts_steps`: whether
      `t` is the number of steps of an optimiser and no flow time.
    - `final`, `model(at=τ)`: the model there. `stages()`: the transitions found.
    """

    t: np.ndarray
    loss: np.ndarray
    observables: Mapping[str, np.ndarray]
    error: Mapping[str, np.ndarray]
    leaves: dict[str, LeafRecord]
    descent: np.ndarray
    log_alpha: float
    status: Status
    method: str
    statistics: dict[str, Any]
    cause: str = ""
    log_alpha_conflict: str = ""
    counts_steps: bool = False
    refined: dict[str, Any] | None = dataclasses.field(default=None, repr=False)
    like: PyTree = dataclasses.field(default=None, repr=False)
    resolver: Resolver | None = dataclasses.field(default=None, repr=False)
    #: What a run without its flow was saved with: stages, settings, fingerprint.
    kept: dict[str, Any] = dataclasses.field(default_factory=dict, repr=False)
    #: Of discrete steps: what a run needs that goes on from here (`descend(..., resume=)`).
    training: Training | None = dataclasses.field(default=None, repr=False)

    @classmethod
    def from_records(
        cls,
        *,
        model: PyTree,
        t: np.ndarray,
        records: dict[str, Any],
        refined: dict[str, Any] | None,
        log_alpha: float,
        status: Status,
        **provenance: Any,
    ) -> "Trajectory":
        """Assemble from stacked records, and those of the companion of the error bars."""
        return cls(
            t=t,
            log_alpha=log_alpha,
            like=model,
            status=status,
            **_fields(model, log_alpha, t, records, refined),
            **provenance,
        )

    def __getstate__(self) -> dict[str, Any]:
        """A pickle holds what a file does: all that is recorded and the stages, not the flow."""
        kept = {
            "settings": self.settings,
            "made_of": self.made_of,
            "fingerprint": self.fingerprint,
            "stages": self.stages(),
        }
        return self.__dict__ | {"resolver": None, "kept": kept}

    @property
    def settings(self) -> dict[str, Any]:
        """How it was computed: rtol, solver, and the decay of every leaf (λ(t) at some times)."""
        return self.kept["settings"] if self.kept else storage.settings_of(self)

    @property
    def made_of(self) -> dict[str, Any] | None:
        """The class of the model, and kind and shape of its trained leaves."""
        if self.kept:
            return self.kept["made_of"]
        return None if self.like is None else storage.described_model(self.like)

    @functools.cached_property
    def fingerprint(self) -> Fingerprint:
        """What the run was made from: its O(1) factors, its loss at fixed weights, its decay.

        A run without its flow knows no loss and no decay, one without its model no factors.
        """
        if self.kept:
            return self.kept["fingerprint"]
        flow = None if self.resolver is None else self.resolver.flow
        return fingerprint(flow, self.like, self.log_alpha)

    @property
    def successful(self) -> bool:
        """Whether the run ended as it was asked to."""
        return self.status.successful

    @property
    def scale(self) -> float:
        """Λ = log(1/α). **Raises** ValueError where it is not a positive number."""
        if not self.log_alpha < 0:
            raise ValueError(f"τ = t/log(1/α) needs 0 < α < 1, but {self.log_alpha_conflict}")
        return -self.log_alpha

    @property
    def tau(self) -> np.ndarray:
        """τ = t/log(1/α)."""
        return self.t / self.scale

    @property
    def final(self) -> PyTree:
        """The model at the end. A run continued from it keeps the origin of time.

        Its leaves, plain arrays too, know the time they stand at as long as they are these
        objects. What is computed of them, and NumPy or pickled copies of plain arrays, does not:
        give that to a run as `t0`.
        """
        return self._model_at(self.leaves, -1, float(self.t[-1]))

    def model(self, at: float | None = None, *, t: float | None = None) -> PyTree:
        """The model at τ = `at` (or at flow time `t`), re-solved to the run's accuracy."""
        if (at is None) == (t is None):
            raise ValueError("Give either at=τ or t=flow time.")
        time = (
            number("at", at, "a time τ = t/log(1/α)") * self.scale
            if t is None
            else number("t", t, "a flow time")
        )
        recorded = np.flatnonzero(self.t == time)
        if recorded.size:
            return self._model_at(self.leaves, int(recorded[0]), time)
        return self._model_at(self.record_at(time)["leaves"], None, time)

    def _model_at(self, leaves: dict[str, Any], index: int | None, time: float) -> PyTree:
        if self.like is None:
            raise ValueError(
                "This trajectory was loaded without its model. Use "
                "Trajectory.load(path, like=model) with the model it was started from."
            )

        time = math.nan if self.counts_steps else time

        def change(path, node):
            name = leaf_name(path)
            if name not in leaves:
                return node
            record = leaves[name] if index is None else leaves[name].at(index)
            if is_parameter(node):
                return remember(node.at_record(record, time), time)
            return remember(jnp.asarray(record["array"]), time)

        return jax.tree_util.tree_map_with_path(change, self.like, is_leaf=is_parameter)

    def record_at(self, time: Any, companion: bool = False) -> dict[str, Any]:
        """Everything recorded, at any flow time within the run or at an array of them."""
        time = numbers("time", time, "flow times within the run")
        outside = ~((self.t[0] <= time) & (time <= self.t[-1]))
        if np.any(outside):
            raise ValueError(
                f"t = {time[outside].ravel()[0]:.8g} is outside the run, which covers "
                f"{self.t[0]:.8g} to {self.t[-1]:.8g} (status: {self.status})."
            )
        if self.resolver is None:
            raise ValueError(
                "Between recorded times a trajectory needs its flow, which a file does not "
                "hold. Simulate again, or use the recorded .t and .observables."
            )
        if not time.size:
            one = self.record_at(self.t[:1], companion)
            return jax.tree.map(lambda x: x[:0], one)
        leaves = self.leaves
        if companion:
            assert self.refined is not None
            leaves = self.refined["leaves"]
        i = np.searchsorted(self.t, time, side="right") - 1
        here = jax.tree.map(lambda x: x[i], leaves)
        start, span = self.t[i], time - self.t[i]
        if companion:  # two halves here as well, or this step's error would cancel
            half = 0.5 * span
            here = self.resolver(here, start, half)["leaves"]
            start, span = start + half, span - half
        return self.resolver(here, start, span)

    def own_records(self) -> dict[str, Any]:
        """What the run itself recorded, without what is read off it."""
        own = {n: self.observables[n] for n in self.observables if n not in self._read}
        return {
            "loss": self.loss, "descent": self.descent, "leaves": self.leaves, "observables": own
        }  # fmt: skip

    @property
    def _read(self) -> set[str]:
        """The names of what is read off leaves."""
        return set(_leaf_observables(self.leaves, trained_leaves(self.like), self.log_alpha))

    def with_times(self, times: ArrayLike) -> "Trajectory":
        """The same run, recorded at further flow times as well."""
        wanted = np.setdiff1d(np.asarray(times, float).ravel(), self.t)
        if not wanted.size:
            return self
        main = self.record_at(wanted)
        t = np.concatenate([self.t, wanted])
        order = np.argsort(t, kind="stable")

        def merge(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
            extra = {key: new[key] for key in old}
            return jax.tree.map(lambda x, y: np.concatenate([x, y])[order], old, extra)

        before = self.own_records()
        companion = None
        if self.refined is not None:
            companion = merge(self.refined, self.record_at(wanted, companion=True))
        t = t[order]
        merged = _fields(self.like, self.log_alpha, t, merge(before, main), companion)
        return dataclasses.replace(self, t=t, **merged)

    def stages(self) -> list[MeasuredStage]:
        """Transitions between plateaus of the loss, found in the record.

        Of a loaded run those that were found, with its flow, when it was saved.
        """
        return list(self.kept["stages"]) if self.kept else find_stages(self)

    def plot(self, ax=None, **style):
        """Loss against τ (flow time where α is unknown); see `gflow.plot` for more."""
        return plot.loss(self, ax, **style)

    def save(self, path: str | Path) -> None:
        """Write to NetCDF: observables, error bars, states, stages with their bars, settings.

        The units and the dimensions are those of `to_xarray`. **Raises** ValueError for a path
        that cannot be written.
        """
        storage.save(self, path)

    @classmethod
    def load(cls, path: str | Path, like: PyTree = None) -> "Trajectory":
        """Read a saved run; `like` is its starting model, needed for `.final`.

        **Raises:** ValueError for a file that is no saved run, and for a `like` with other leaves
        or other factors than the run was started from.
        """
        return cls(**storage.load(path, like))

    def to_xarray(self):
        """An `xarray.Dataset` over `t` (with `tau` where defined), with units.

        A leaf has one dimension for each axis, `name.axis1` and so on, which its weight, sizes
        and error bars share.
        """
        return storage.to_dataset(self)

    def __str__(self) -> str:
        span = f"t = {self.t[0]:.6g} … {self.t[-1]:.6g}"
        if self.log_alpha < 0:
            span += f"  (τ = {self.tau[0]:.4g} … {self.tau[-1]:.4g}, log α = {self.log_alpha:.6g})"
        counts = ", ".join(
            f"{v:.3g} {k}" if isinstance(v, float) else f"{v} {k}"
            for k, v in self.statistics.items()
        )
        return (
            f"Trajectory: {span}\n  loss {self.loss[0]:.6g} → {self.loss[-1]:.6g}\n"
            f"  {self.method}; {counts}\n  {message(self.status, self.cause)}"
        )


def _fields(
    model: PyTree,
    log_alpha: float,
    t: np.ndarray,
    main: dict[str, Any],
    companion: dict[str, Any] | None,
) -> dict[str, Any]:
    """Observables, error bars and states from stacked records."""
    kinds = trained_leaves(model)
    # compiled code returns dictionaries sorted by key; the model's order is kept
    leaves = {name: main["leaves"][name] for name in kinds}
    read = _leaf_observables(leaves, kinds, log_alpha)
    own = main["observables"]
    fields: dict[str, Any] = {
        "loss": main["loss"],
        "descent": main["descent"],
        "leaves": leaves,
        "observables": Lazy(read | {n: functools.partial(own.get, n) for n in own}),
        "error": {},
        "refined": None,
    }
    if companion is not None:
        fields["refined"] = {k: companion[k] for k in ("loss", "leaves", "observables")}
        second = _leaf_observables(companion["leaves"], kinds, log_alpha)
        second |= {n: functools.partial(companion["observables"].get, n) for n in own}
        observables, other = fields["observables"], Lazy(second)

        def bar(name: str) -> np.ndarray:
            return error_bar(t, observables[name], other[name])

        bars = {"loss": lambda: error_bar(t, main["loss"], companion["loss"])}
        fields["error"] = Lazy(bars | {n: functools.partial(bar, n) for n in observables})
    return fields


def _leaf_observables(
    leaves: dict[str, Any], model_leaves: dict[str, Any], log_alpha: float
) -> dict[str, Callable[[], np.ndarray]]:
    out: dict[str, Callable[[], np.ndarray]] = {}
    for name, record in leaves.items():
        out[name] = lambda record=record: record["value"]
        if is_parameter(model_leaves[name]):
            sizes = functools.cache(record.log_modes)
            out[f"{name}.log_singular" if record.spectral else f"{name}.log_abs"] = sizes
            if log_alpha < 0 and record["value"].ndim > 1:
                out[f"{name}.above_sqrt_alpha"] = lambda sizes=sizes: above_sqrt_alpha(
                    sizes(), log_alpha
                )
    return out


def log_alpha_of(model: PyTree, given: float | None = None) -> tuple[float, str]:
    """log α of a model and, where it has none below 0, the sentence that says why."""
    if given is not None:
        value = number("log_alpha", given, "the natural logarithm of α")
        if not math.isfinite(value):
            raise ValueError(f"log_alpha = {given} must be finite: the natural logarithm of α.")
        return value, f"log_alpha = {value:g} was given, so α ≥ 1."
    leaves = {n: x for n, x in trained_leaves(model).items() if isinstance(x, Small)}
    known = {n: float(x.log_alpha) for n, x in leaves.items() if np.isfinite(x.log_alpha)}
    values = set(known.values())
    if len(values) == 1 and len(known) == len(leaves):
        value = values.pop()
        return value, f"log_alpha = {value:g} on every leaf, so α ≥ 1."
    if not leaves:
        why = "the model has no Hadamard or Factored leaf that carries log_alpha. Pass log_alpha=."
    elif not known:
        why = f"leaves {list(leaves)} were built without log_alpha. Pass log_alpha=."
    else:
        listed = ", ".join(f"{n}: {known[n]:g}" if n in known else f"{n}: unknown" for n in leaves)
        why = f"the leaves disagree on log_alpha ({listed}). Pass log_alpha=."
    return math.nan, why
