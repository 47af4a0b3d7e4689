"""Many runs as one result: members, stages, the models at the end, files, arrays."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import PyTree

from .._display import Displayed, Summary, Table
from .._stacking import joined_models
from ..integrate._status import Status
from . import _loading as loading, _storage as storage
from ._stages import MeasuredStage, find_stages
from ._trajectory import Trajectory


class Batch(Displayed, Sequence[Trajectory]):
    """The runs of `simulate_batch`: `batch[i]` is the `Trajectory` of member i.

    - `status[i]`, `failed`: how each member ended, and the numbers of those that failed.
    - `stages()`: of every member, sought side by side. `gflow.align_stages(batch)` matches them.
    - `final`: the models at the end, stacked as those that the batch was started from.
    - `save(path)`, `Batch.load(path, like=)`, `to_xarray()`: all members in one file or dataset.
    - `statistics["useful_work"]`: the share of attempted steps that moved a member still
      on its way; the rest went into filling and members that had arrived.

    `theory.compare(batch, predictions)` judges every member.
    """

    def __init__(
        self,
        status: Iterable[Status],
        member: Callable[[int], Trajectory],
        statistics: dict[str, Any],
    ):
        self.status, self.statistics = list(status), statistics
        self._member = member
        self._made: dict[int, Trajectory] = {}

    @property
    def failed(self) -> list[int]:
        return [i for i, status in enumerate(self.status) if not status.successful]

    def __len__(self) -> int:
        return len(self.status)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        if not -len(self) <= i < len(self):
            raise IndexError(f"member {i} of a batch of {len(self)}")
        i %= len(self)
        if i not in self._made:
            self._made[i] = self._member(i)
        return self._made[i]

    def __iter__(self) -> Iterator[Trajectory]:
        return (self[i] for i in range(len(self)))

    def stages(self) -> list[list[MeasuredStage]]:
        """`Trajectory.stages` of every member, in far less time than one after the other."""
        runs = list(self)
        sought = [i for i, run in enumerate(runs) if not run.kept]
        found = dict(zip(sought, find_stages([runs[i] for i in sought]), strict=True))
        return [found[i] if i in found else run.stages() for i, run in enumerate(runs)]

    @property
    def final(self) -> PyTree:
        """The models at the end, with a leading axis of members on every array.

        Plain leaves of stacked models do not know the time they stand at: go on with `t0=`.
        """
        return joined_models([run.final for run in self])

    def save(self, path: str | Path) -> None:
        """Write all members to one NetCDF file, a group each, with what `Trajectory.save` writes.

        **Raises:** ValueError for a path that cannot be written.
        """
        pairs = zip(self, self.stages(), strict=True)
        kept = [run._kept(stages) for run, stages in pairs]
        storage.save_all(list(self), path, kept, self.statistics)

    @classmethod
    def load(cls, path: str | Path, like: PyTree = None) -> "Batch":
        """Read a saved batch; `like`: the model or stacked models it was started from.

        **Raises:** ValueError as `Trajectory.load`, and for a file of a single run.
        """
        fields, statistics = loading.load_all(path, like)
        runs = [Trajectory(**field) for field in fields]
        return cls([run.status for run in runs], runs.__getitem__, statistics)

    def cited(self) -> list[str]:
        """What it rests on, for `gflow.cite`."""
        return list(dict.fromkeys(words for run in self for words in run.cited()))

    def to_xarray(self):
        """An `xarray.Dataset` over `member` and `step`; what a shorter member lacks is NaN.

        `t` and `tau` are coordinates of both, as every member takes its own steps.
        """
        import xarray as xr

        longest = max(len(run.t) for run in self)
        rows = [_padded(run.to_xarray(), longest) for run in self]
        common = set.intersection(*(set(row.variables) for row in rows))
        rows = [row.drop_vars(set(row.variables) - common) for row in rows]
        whole = xr.concat(rows, dim="member", combine_attrs="drop_conflicts")
        about = {
            "status": ("member", [status.name for status in self.status]),
            "log_alpha": ("member", [run.log_alpha for run in self]),
        }
        whole.attrs = {k: x for k, x in whole.attrs.items() if k not in about}
        return whole.set_coords(common & {"t", "tau"}).assign_coords(about)

    def _summary(self) -> Summary:
        s = self.statistics
        work = (
            f"{s['accepted']} steps, {s['rejected']} rejected, in {s['rounds']} rounds and "
            f"{s['seconds']:.3g} s; useful work {100 * s['useful_work']:.0f} %"
        )
        facts = [("work", work), ("method", s["method"]), ("failed", f"{len(self.failed)} failed")]
        rows = []
        for status in dict.fromkeys(self.status):
            own = np.flatnonzero([x is status for x in self.status]).tolist()
            listed = ", ".join(map(str, own[:8])) + (", …" if len(own) > 8 else "")
            rows.append([status.name, str(len(own)), listed])
        table = Table(["status", "members", "which"], rows)
        return Summary(f"Batch of {len(self)}", facts, [table])


def _padded(dataset: Any, length: int) -> Any:
    """Over `step` in place of `t`, with NaN up to a length."""
    over_steps = dataset.reset_index("t").reset_coords().rename_dims(t="step")
    return over_steps.pad(step=(0, length - dataset.sizes["t"]))
