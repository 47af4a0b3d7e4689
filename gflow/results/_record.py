"""What a run recorded, and what it was between: the data of a trajectory, apart from its uses."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, PyTree

from .._arguments import numbers
from .._time_unit import tau_definition, time_unit
from ..coordinates._record import LeafRecord
from ..flow._build import traced_observables
from ..integrate._bars import error_bar
from ..integrate._status import Status
from ..parameters._base import is_parameter, leaf_name, trained_leaves
from ..parameters._elapsed import remember
from ..training._memory import Training
from ._bracket import bracketed_root
from ._fingerprint import Fingerprint, fingerprint
from ._lazy import Lazy
from ._observables import above_sqrt_alpha
from ._resolver import Resolver

#: Times of a run that keeps observables which are solved for at once.
_PART = 4096


@dataclasses.dataclass(eq=False, frozen=True, repr=False)
class Record:
    """Stacked records of a run, and of its companion (`refined`), with what solves between them."""

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
    #: Of the saddle that the run starts near, which makes the unit of τ.
    order: int = 2
    counts_steps: bool = False
    clock: np.ndarray | None = None
    #: Flow time from every step to the one before, of a run that t has not the digits of.
    lapses: np.ndarray | None = None
    checkpoints: np.ndarray | None = None
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
        checkpoints: np.ndarray | None = None,
        log_alpha: float,
        status: Status,
        **provenance: Any,
    ) -> Self:
        """Assemble from stacked records at times `t`, and those of the companion of the error bars.

        Records that hold a time "t" themselves, or the "lapse" of every step, are of a run in
        another clock, which `t` is then.
        """
        return cls(
            log_alpha=log_alpha,
            like=model,
            status=status,
            **_fields(model, log_alpha, t, records, refined, checkpoints),
            **provenance,
        )

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
        """The unit of τ, log(1/α) or α^{−(D−2)}. **Raises** ValueError where α is not below 1."""
        if not self.log_alpha < 0:
            said = tau_definition(self.order)
            raise ValueError(f"τ = {said} needs 0 < α < 1, but {self.log_alpha_conflict}")
        return time_unit(self.log_alpha, self.order)

    @property
    def tau(self) -> np.ndarray:
        """τ = t/log(1/α); of units, near saddles of order D ≥ 3, τ = α^{D−2} t."""
        return self.t / self.scale

    @functools.cached_property
    def whole(self) -> Self:
        """The run at the steps of which the weights were kept: all, unless it was asked not to."""
        if self.checkpoints is None:
            return self
        rows = self.checkpoints

        def part(record: dict[str, Any]) -> dict[str, Any]:
            numbers = {name: x for name, x in record.items() if name != "leaves"}
            return record | jax.tree.map(lambda x: x[rows], numbers)

        refined = None if self.refined is None else part(self.refined)
        fields = _fields(
            self.like, self.log_alpha, self.times[rows], part(self.own_records()), refined
        )
        of_weights, bars = fields["error"], {n: x[rows] for n, x in self.error.items()}
        bars = {n: functools.partial(bars.get, n) for n in bars}
        more = {n: functools.partial(of_weights.__getitem__, n) for n in of_weights}
        fields["error"] = Lazy(more | bars)
        return dataclasses.replace(self, **fields)

    @property
    def times(self) -> np.ndarray:
        """The times that the run was integrated in: `t`, or its own `clock`."""
        return self.t if self.clock is None else self.clock

    @functools.cached_property
    def remaining(self) -> np.ndarray:
        """Flow time from every step to the end, precise where the digits of t are used up."""
        if self.clock is None:
            return self.t[-1] - self.t
        if self.lapses is not None:
            return np.append(np.cumsum(self.lapses[:0:-1])[::-1], 0.0)
        before = {name: leaf.at(slice(None, -1)) for name, leaf in self.leaves.items()}
        lapses = self.solved(before, self.clock[:-1], np.diff(self.clock))["t"]
        return np.append(np.cumsum(lapses[::-1])[::-1], 0.0)

    def model_at(self, leaves: dict[str, Any], index: int | None, time: float) -> PyTree:
        if self.like is None:
            raise ValueError(
                "This trajectory was loaded without its model. Use "
                "Trajectory.load(path, like=model) with the model it was started from."
            )
        # of the digits of t none are left after an escape
        escaped = self.clock is not None and self.lapses is None
        time = math.nan if self.counts_steps else 0.0 if escaped else time

        def change(path, node):
            name = leaf_name(path)
            if name not in leaves:
                return node
            record = leaves[name] if index is None else leaves[name].at(index)
            if is_parameter(node):
                return remember(node.at_record(record, time), time)
            return remember(jnp.asarray(record["value"]), time)

        return jax.tree_util.tree_map_with_path(change, self.like, is_leaf=is_parameter)

    def after(self, step: int, span: float) -> dict[str, Any]:
        """The record at `span` of the clock after a step, which is not rounded to the time."""
        if self.checkpoints is not None:
            i = int(np.searchsorted(self.checkpoints, step, side="right")) - 1
            since = self.times[step] - self.times[self.checkpoints[i]]
            return self.whole.after(i, float(since + span))
        return self.solved(self.leaves_at(step), self.times[step], span)

    def rows_after(self, steps: np.ndarray, spans: np.ndarray) -> tuple[Any, np.ndarray, Any]:
        """Leaves, times and spans to solve, for records at spans (n, points) after steps (n,)."""
        if self.checkpoints is not None:
            i = np.searchsorted(self.checkpoints, steps, side="right") - 1
            since = self.times[steps] - self.times[self.checkpoints[i]]
            return self.whole.rows_after(i, since[:, None] + spans)
        rows = np.repeat(steps, spans.shape[1])
        return jax.tree.map(lambda x: x[rows], self.leaves), self.times[rows], spans.ravel()

    def leaves_at(self, step: int) -> dict[str, LeafRecord]:
        return {name: leaf.at(step) for name, leaf in self.leaves.items()}

    def lapse(self, leaves: dict[str, LeafRecord], start: float, end: float) -> float:
        """The flow time from `start` to `end` of the clock, with all its digits."""
        if self.clock is None:
            return float(end - start)
        return float(self.solved(leaves, start, end - start)["t"])

    def with_observables(self, observables: Mapping[str, Callable[[PyTree], Any]]) -> Self:
        """The same run with other observables of the user, read off what it recorded."""
        if self.checkpoints is not None:
            return self.whole.with_observables(observables)
        if self.resolver is None:
            raise ValueError(
                "Functions of the model are read off a run with its flow, which a file does not "
                "hold. Simulate again, with observables=."
            )
        programs = traced_observables(observables, self.like, self.resolver.flow)
        resolver = dataclasses.replace(self.resolver, observables=programs)

        def read(leaves: dict[str, Any]) -> dict[str, Any]:
            return resolver(leaves, self.times, np.zeros(len(self.times)))["observables"]

        main = self.own_records() | {"observables": read(self.leaves)}
        refined = self.refined
        if refined is not None:
            refined = refined | {"observables": read(refined["leaves"])}
        fields = _fields(self.like, self.log_alpha, self.times, main, refined)
        return dataclasses.replace(self, resolver=resolver, **fields)

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
        return self.record_at_clock(self._read_clock(time), companion)

    def _read_clock(self, time: np.ndarray) -> np.ndarray:
        """The clock at flow times, as far as these have digits to tell."""
        if self.clock is None:
            return time
        clock = []
        for moment in time.ravel():
            i = min(int(np.searchsorted(self.t, moment, side="right")) - 1, len(self.t) - 2)
            width, left = self.clock[i + 1] - self.clock[i], float(moment - self.t[i])

            def gap(span: float, i=i, left=left) -> float:
                start = self.times[i]
                lapse = self.lapse(self.leaves_at(i), start, start + span) if span else 0.0
                return lapse - left

            whole = left >= self.t[i + 1] - self.t[i]
            span = width if whole else bracketed_root(gap, width) if left else 0.0
            clock.append(self.clock[i] + span)
        return np.reshape(clock, time.shape)

    def record_at_clock(self, clock: Any, companion: bool = False) -> dict[str, Any]:
        """Everything recorded, at times of the run's own clock."""
        if self.checkpoints is not None:
            return self.whole.record_at_clock(clock, companion)
        clock, leaves, t = np.asarray(clock, float), self.leaves, self.t
        if companion:
            assert self.refined is not None
            leaves, t = self.refined["leaves"], self.refined.get("t", t)
        i = np.searchsorted(self.times, clock, side="right") - 1
        here = jax.tree.map(lambda x: x[i], leaves)
        start, span, elapsed = self.times[i], clock - self.times[i], 0.0
        if companion:  # two halves here as well, or this step's error would cancel
            half = 0.5 * span
            first = self.solved(here, start, half)
            here, elapsed = first["leaves"], first.get("t", 0.0)
            start, span = start + half, span - half
        found = self.solved(here, start, span)
        if self.lapses is not None:
            found["lapse"] = elapsed + found["t"]
        if self.clock is not None:
            found["t"] = t[i] + elapsed + found["t"]
        return found

    def solved(self, leaves: dict[str, Any], start: Any, span: Any) -> dict[str, Any]:
        """The record after `span`; of a run in its own clock the time "t" since then."""
        if self.resolver is None:
            raise ValueError(
                "Between recorded times a trajectory needs its flow, which a file does not "
                "hold. Simulate again, or use the recorded .t and .observables."
            )
        return self.since(self.resolver(leaves, start, span))

    def since(self, found: dict[str, Any]) -> dict[str, Any]:
        """What is solved, with the time since its start as `t` in a run of lapses."""
        return found if self.lapses is None else found | {"t": found["lapse"]}

    @functools.cached_property
    def widths(self) -> np.ndarray:
        """Flow time from every recorded step to the next, also where t has not the digits."""
        return np.diff(self.t) if self.lapses is None else self.lapses[1:]

    def flow_time(self, step: int, clock: float) -> float:
        """The flow time at a `clock` after a recorded step; without the flow by a straight line."""
        if self.clock is None:
            return clock
        if self.resolver is None:
            ends = slice(step, step + 2)
            return float(np.interp(clock, self.times[ends], self.t[ends]))
        return float(self.t[step] + self.lapse(self.leaves_at(step), self.times[step], clock))

    def own_records(self) -> dict[str, Any]:
        """What the run itself recorded, without what is read off it."""
        own = {n: self.observables[n] for n in self.observables if n not in self._read}
        time = {} if self.clock is None else {"t": self.t}
        if self.lapses is not None:
            time = {"lapse": self.lapses, "elapsed": self.t}
        return time | {
            "loss": self.loss, "descent": self.descent, "leaves": self.leaves, "observables": own
        }  # fmt: skip

    @property
    def _read(self) -> set[str]:
        """The names of what is read off leaves."""
        if self.checkpoints is not None:
            return set()
        return set(_leaf_observables(self.leaves, trained_leaves(self.like), self.log_alpha))

    def with_times(self, times: ArrayLike | Sequence[float]) -> Self:
        """The same run, recorded at further flow times as well."""
        wanted = np.setdiff1d(np.asarray(times, float).ravel(), self.t)
        if not wanted.size:
            return self
        clock = self._read_clock(wanted)
        own = {} if self.lapses is None else {"elapsed": np.append(self.t, wanted)}
        whole = np.concatenate([self.times, clock])
        order, at = np.argsort(whole, kind="stable"), self.checkpoints

        def merged(old: dict[str, Any], companion: bool) -> dict[str, Any]:
            names = [name for name in old if at is None or name != "leaves"]
            parts = [
                {name: new[name] for name in names}
                for new in self._in_parts(clock, companion, len(clock) if at is None else _PART)
            ]
            merged = jax.tree.map(
                lambda *x: np.concatenate(x)[order], {name: old[name] for name in names}, *parts
            ) | {name: x[order] for name, x in own.items()}
            if "lapse" in merged:  # of what was put within a step it is from the step before
                inner = np.where(order >= len(self.times), merged["lapse"], 0.0)
                merged["lapse"] = merged["lapse"] - np.append(0.0, inner[:-1])
            return old | merged

        companion = None if self.refined is None else merged(self.refined, True)
        fields = merged(self.own_records(), False), companion
        if at is not None:
            at = np.flatnonzero(np.isin(order, at))
        return dataclasses.replace(
            self, **_fields(self.like, self.log_alpha, whole[order], *fields, at)
        )

    def _in_parts(self, clock: np.ndarray, companion: bool, size: int) -> Iterator[dict[str, Any]]:
        """What is recorded at many times, so many at once."""
        for i in range(0, len(clock), size):
            yield self.record_at_clock(clock[i : i + size], companion)


def _fields(
    model: PyTree,
    log_alpha: float,
    clock: np.ndarray,
    main: dict[str, Any],
    companion: dict[str, Any] | None,
    checkpoints: np.ndarray | None = None,
) -> dict[str, Any]:
    """Times, observables, error bars and states from stacked records at times of the clock."""
    companion = None if companion is None else _timed(companion, main)
    main = _timed(main, main)
    kinds = trained_leaves(model)
    # compiled code returns dictionaries sorted by key; the model's order is kept
    leaves = {name: main["leaves"][name] for name in kinds}
    # at fewer times than the rest they are no columns beside it
    known = kinds if checkpoints is None else {}
    read = _leaf_observables({name: leaves[name] for name in known}, kinds, log_alpha)
    own = main["observables"]
    own_clock = "t" in main
    fields: dict[str, Any] = {
        "t": main["t"] if own_clock else clock,
        "clock": clock if own_clock else None,
        "lapses": main.get("lapse"),
        "checkpoints": checkpoints,
        "loss": main["loss"],
        "descent": main["descent"],
        "leaves": leaves,
        "observables": Lazy(read | {n: functools.partial(own.get, n) for n in own}),
        "error": {},
        "refined": None,
    }
    if companion is not None:
        names = ("t", "lapse", "elapsed", "loss", "leaves", "observables")
        fields["refined"] = {k: companion[k] for k in names if k in companion}
        others = {name: companion["leaves"][name] for name in known}
        second = _leaf_observables(others, kinds, log_alpha)
        # a file holds the bars of observables, not what they are made of
        other_own = companion.get("observables", {})
        second |= {n: functools.partial(other_own.get, n) for n in other_own}
        observables, other = fields["observables"], Lazy(second)

        def bar(name: str) -> np.ndarray:
            return error_bar(clock, observables[name], other[name])

        def recorded(key: str) -> np.ndarray:
            return error_bar(clock, main[key], companion[key])

        bars = {key: functools.partial(recorded, key) for key in ("t", "loss") if key in main}
        fields["error"] = Lazy(bars | {n: functools.partial(bar, n) for n in other})
    return fields


def _timed(record: dict[str, Any], main: dict[str, Any]) -> dict[str, Any]:
    """A record of lapses with its flow times, of a companion by what its lapses differ by."""
    if "lapse" not in main:
        return record
    return record | {"t": main["elapsed"] + np.cumsum(record["lapse"] - main["lapse"])}


def _leaf_observables(
    leaves: dict[str, Any], model_leaves: dict[str, Any], log_alpha: float
) -> dict[str, Callable[[], np.ndarray]]:
    out: dict[str, Callable[[], np.ndarray]] = {}
    for name, record in leaves.items():
        out[name] = lambda record=record: record["value"]
        if (log_norm := record.log_norm()) is not None:
            out[f"{name}.log_norm"] = lambda log_norm=log_norm: log_norm
        if is_parameter(model_leaves[name]):
            entries = not (record.entrywise or record.spectral)  # where modes are neither
            sizes = functools.cache(record.log_entries if entries else record.log_modes)
            out[f"{name}.log_singular" if record.spectral else f"{name}.log_abs"] = sizes
            if log_alpha < 0 and record["value"].ndim > 1:
                out[f"{name}.above_sqrt_alpha"] = lambda sizes=sizes: above_sqrt_alpha(
                    sizes(), log_alpha
                )
    return out
