"""The result of a run: labelled observables, states, error bars, provenance."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import PyTree

from .. import plot
from .._arguments import number
from .._display import Displayed, Summary, Table, power_of_ten
from .._time_unit import tau_definition
from ..coordinates._record import LeafRecord
from ..integrate._status import message
from ..stop import Stop, norm_above
from . import _loading as loading, _storage as storage
from ._crossings import Quantity, bar_of_time, first_in_clock
from ._distance import Distance, distance
from ._heading import Heading, heading
from ._record import Record
from ._stages import MeasuredStage, find_stages

#: Times of a run that keeps observables which are solved for at once.
_PART = 4096


class Passage(NamedTuple):
    """Where a run crosses a level.

    Flow time `t` and its bar `error`, the time `remaining` to the end, and the `model`; `clock`
    and `clock_error` are time and bar in the run's own clock, which are t and its bar in most.
    """

    t: float
    error: float
    remaining: float
    model: Any
    clock: float
    clock_error: float


@dataclasses.dataclass(eq=False, frozen=True, repr=False)
class Trajectory(Record, Displayed):
    """One integrated gradient flow.

    - `t`, `tau`: flow time and t/log(1/α), for units α^{D−2} t; `loss`: data loss at these times.
    - `observables[name]`: by leaf name the effective weight, `name.log_abs` its log|θ| (of a
      product of matrices `name.log_singular`, the logarithms of its singular values),
      `name.above_sqrt_alpha` the number of those above √α along the last axis, whether they rest
      there or not (the ranks of plateaus are those of `stages`); and the user's own.
    - `descent`: |velocity of the factors|², the rate at which loss + (λ/2)‖factors‖² falls.
    - `error[name]`: error bar of `loss` and of each observable, by step halving.
    - `checkpoints`: of a run that keeps observables (`gflow.save.observables()`), the rows at
      which `leaves` were kept; `whole` is the run at these, with everything in it.
    - `clock`: of an escape, its own clock r at these times; error bars are at equal r, and
      `error["t"]` is that of t. Of a run of units it counts steps, of which each has a clock of its
      own, and `lapses` are the flow times that they took, with digits where t has none.
    - A run keeps all its steps up to a quarter of a gigabyte, and then a part of them; `record_at`,
      `model` and `stages` integrate between two of them to the run's tolerance.
    - `status` (a `gflow.Status`), with its `cause` where one was looked for; `successful`,
      `method`, `statistics`: how it was computed. `counts_steps`: whether
      `t` is the number of steps of an optimiser and no flow time.
    - `final`, `model(at=τ)`: the model there. `stages()`: the transitions found. `heading(leaf)`:
      the direction in which a weight goes to infinity.
      `crossing(condition)`: when a condition of `gflow.stop` is first met.
    """

    def __getstate__(self) -> dict[str, Any]:
        """A pickle holds what a file does: all that is recorded and the stages, not the flow."""
        return self.__dict__ | {"resolver": None, "kept": self._kept()}

    def _kept(self, stages: list[MeasuredStage] | None = None) -> dict[str, Any]:
        """What is written down of a run beside what it recorded; its `stages` where known."""
        return {
            "settings": self.settings,
            "made_of": self.made_of,
            "fingerprint": self.fingerprint,
            "stages": self.found_stages if stages is None else stages,
        }

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

    @property
    def final(self) -> PyTree:
        """The model at the end. A run continued from it keeps the origin of time.

        Its leaves, plain arrays too, know the time they stand at as long as they are these
        objects. What is computed of them, and NumPy or pickled copies of plain arrays, does not:
        give that to a run as `t0`. After an escape time starts anew, with all its digits, and
        weights that it has followed in polar coordinates are `Scaled` to a norm of one.
        """
        return self.model_at(self.leaves, -1, float(self.t[-1]))

    def model(
        self, at: float | None = None, *, t: float | None = None, step: int | None = None
    ) -> PyTree:
        """The model at τ = `at`, at flow time `t` or at a `step`.

        Between recorded times it is re-solved to the run's accuracy.
        """
        if (at is not None) + (t is not None) + (step is not None) != 1:
            raise ValueError(
                "Give either at=τ or t=flow time, or step=, the number of a recorded step."
            )
        if step is not None:
            i = range(len(self.t))[step]
            if self.checkpoints is not None:
                return self.whole.model(t=float(self.t[i]))
            return self.model_at(self.leaves, i, float(self.t[i]))
        time = (
            number("at", at, f"a time τ = {tau_definition(self.order)}") * self.scale
            if t is None
            else number("t", t, "a flow time")
        )
        if self.checkpoints is not None:
            return self.whole.model(t=time)
        recorded = np.flatnonzero(self.t == time)
        if recorded.size:
            return self.model_at(self.leaves, int(recorded[0]), time)
        return self.model_at(self.record_at(time)["leaves"], None, time)

    def crossing(self, condition: Stop) -> "Passage":
        """When a condition of `gflow.stop` is first met: re-solved in its step, with an error bar.

        What it reads need not have been recorded.

        **Raises:** ValueError for a condition that the run starts beyond or does not come to.
        """
        if self.checkpoints is not None:
            return self.whole.crossing(condition)
        run, name = self, None
        if condition.read is not None:
            run, name = self.with_observables({"read": condition.read}), "read"
        sign = 1.0 if condition.rising else -1.0
        quantity = Quantity(sign=sign, observable=name)
        found = first_in_clock(run, quantity, sign * condition.level)
        if found is None:
            values = run.loss if name is None else np.asarray(run.observables[name])
            raise ValueError(
                f"It is not met on the way that {condition.name}: what it reads goes from "
                f"{values[0]:.6g} to {values[-1]:.6g}. Ask for a level between."
            )
        i, leaves = found.step, self.record_at_clock(found.t)["leaves"]
        t = float(self.t[i] + self.lapse(self.leaves_at(i), self.times[i], found.t))
        # forwards from there: backwards from the step before it would cancel
        left = self.lapse(leaves, found.t, self.times[i + 1]) + float(self.remaining[i + 1])
        model = self.model_at(leaves, None, t)
        return Passage(t, bar_of_time(self, found), left, model, found.t, found.error)

    def at_norm(self, level: float) -> "Passage":
        """When the largest plain weight rises to norm `level`: a `crossing` on an escape.

        **Raises:** ValueError for a model without plain weights, and as `crossing`.
        """
        plain = [n for n, leaf in self.leaves.items() if leaf.plain or leaf.log_norm() is not None]
        if not plain:
            raise ValueError(
                f"None of the leaves {', '.join(self.leaves)} is a plain weight, whose norm could "
                "rise to a level. Give crossing() a condition on another number."
            )
        return self.crossing(norm_above(level, *plain))

    def heading(self, leaf: str) -> Heading:
        r"""Where a weight goes that grows for ever: its direction at infinity, and the angle to it.

        From what the weight gained between t^¼, √t and t, counted from where half of what the loss
        loses was lost: the last gain has the direction, and `error` comes of its angle to those
        before. Of one linear layer it is that of the separator to many digits, of several layers it
        arrives like 1/log t. A weight that has stopped growing keeps its own.

        **Raises:** ValueError for another leaf, and a run that is too short or a weight of zero.

        ```python
        run = gflow.simulate(model, objective)              # status: directional convergence
        run.heading("weight").direction, run.heading("weight").left
        ```
        """
        run = self.whole
        if leaf not in run.leaves:
            raise ValueError(f"There is no leaf {leaf!r}; the leaves are {', '.join(run.leaves)}.")
        values = np.asarray(run.leaves[leaf]["value"])
        found = heading(run.t - run.t[0], run.loss, values.__getitem__)
        if found is None:
            raise ValueError(
                f"No direction can be told of {leaf!r}: it is zero, or the run has not gone on for "
                "three times as long as it took to lose half of what it has lost of its loss."
            )
        return found

    def distance(self, other: "Trajectory") -> Distance:
        r"""How far the weights are from those of another run of the model, time by time.

        ‖W − W'‖ over all leaves, at the recorded times of the run that has no flow (of gradient
        descent, or from a file), else of this one. Of descent beside the flow it is proportional to
        the learning rate.

        **Returns:** a named tuple (t, distance). **Raises:** ValueError where neither run has its
        flow, for other leaves, for steps without flow time, and runs without times in common.

        ```python
        flow = gflow.simulate(model, objective, t1=10.0)
        steps = gflow.descend(model, objective, learning_rate=0.01, steps=1000)
        steps.distance(flow).distance.max()
        ```
        """
        return distance(self, other)

    def stages(self) -> list[MeasuredStage]:
        """Transitions between plateaus of the loss, found in the record.

        Of a loaded run those that were found, with its flow, when it was saved.

        **Raises:** ValueError for an escape.
        """
        if self._escaped:
            raise ValueError(
                "An escape ends within its first transition, at the level asked for. Stages are "
                "those of the run that goes on from there: gflow.simulate(traj.final, ...)."
            )
        return list(self.kept["stages"]) if self.kept else find_stages([self])[0]

    @property
    def found_stages(self) -> list[MeasuredStage]:
        """`stages()`, and none of an escape."""
        return [] if self._escaped else self.stages()

    @property
    def _escaped(self) -> bool:
        """Whether it is an escape, which is a part of a transition."""
        return self.clock is not None and self.lapses is None

    def cited(self) -> list[str]:
        """What it rests on, for `gflow.cite`."""
        return ["jax", "equinox", "diffrax", *self.method.split(";")]

    def plot(self, ax=None, **style):
        """Loss against τ (flow time where α is unknown); see `gflow.plot` for more."""
        return plot.loss(self, ax, **style)

    def save(self, path: str | Path) -> None:
        """Write to NetCDF: observables, error bars, states, stages with their bars, settings.

        The units and the dimensions are those of `to_xarray`. **Raises** ValueError for a path
        that cannot be written.
        """
        storage.save(self, path, self._kept())

    @classmethod
    def load(cls, path: str | Path, like: PyTree = None) -> "Trajectory":
        """Read a saved run; `like` is its starting model, needed for `.final`.

        **Raises:** ValueError for a file that is no saved run, and for a `like` with other leaves
        or other factors than the run was started from.
        """
        return cls(**loading.load(path, like))

    def to_xarray(self):
        """An `xarray.Dataset` over `t` (with `tau` where defined), with units.

        A leaf has one dimension for each axis, `name.axis1` and so on, which its weight, sizes
        and error bars share.
        """
        return storage.to_dataset(self, self.settings)

    def __dir__(self) -> list[str]:
        return sorted({name for name in object.__dir__(self) if name not in _INNER})

    def _summary(self) -> Summary:
        span = f"t = {self.t[0]:.6g} … {self.t[-1]:.6g}"
        if self.log_alpha < 0:
            alpha = power_of_ten(self.log_alpha)
            span += f"  (τ = {self.tau[0]:.4g} … {self.tau[-1]:.4g}, α = {alpha})"
        counts = ", ".join(
            f"{v:.3g} {k}" if isinstance(v, float) else f"{v} {k}"
            for k, v in self.statistics.items()
        )
        facts = [
            ("loss", f"{self.loss[0]:.6g} → {self.loss[-1]:.6g}"),
            ("method", self.method),
            ("counts", counts),
            ("status", message(self.status, self.cause)),
        ]
        own = [n for n in self.observables if n.partition(".")[0] not in self.leaves]
        if own:
            facts.append(("observables", ", ".join(own)))
        return Summary(f"Trajectory: {span}", facts, [self._table_of_leaves()])

    def _table_of_leaves(self) -> Table:
        kinds = (self.made_of or {}).get("leaves", {})
        rows = []
        for name, leaf in self.leaves.items():
            shape = "×".join(map(str, leaf["value"].shape[1:])) or "scalar"
            sizes = [_largest(leaf.at(i)) for i in (0, -1)]
            rows.append([name, kinds.get(name, {}).get("kind", ""), shape, *sizes])
        return Table(["leaf", "kind", "shape", "largest |θ| at the start", "at the end"], rows)


#: What other parts of the package read of a run.
_INNER = {
    "after", "at_record", "counts_steps", "flow_time", "found_stages", "from_records", "kept",
    "lapse", "lapses", "leaves_at", "like", "log_alpha_conflict", "model_at", "own_records",
    "record_at_clock", "refined", "resolver", "rows_after", "since", "solved", "times", "training",
    "whole", "widths", "with_times",
}  # fmt: skip


def _largest(leaf: LeafRecord) -> str:
    """The largest weight, or the largest mode where that is below the range of floats."""
    largest = float(np.max(np.abs(leaf["value"]), initial=0.0))
    if largest > 0.0 or not leaf["value"].size:
        return f"{largest:.3g}"
    return power_of_ten(float(np.max(leaf.log_modes())))
