"""An escape under way: rounds of steps up to a norm, and why they end."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ._bars import error_bar
from ._march import Pace
from ._path import Path, advance, first_row
from ._status import Ended, Status

_LATE = (
    "the start leaves the saddle very late (it is near a stable manifold), or max_steps is too "
    "small"
)


class Departure:
    """An escape under way: its path, and rows of numbers at its steps."""

    def __init__(self, path: Path, rtol: float):
        self.path, field = path, path.field
        dtype = field.state.dtype
        self.tolerance = field.tolerance(jnp.asarray(rtol, dtype))
        self.pace = Pace.at(jnp.asarray(1e-3, dtype))
        self.now = self.companion = path.points[0]
        row = {k: float(x) for k, x in first_row(field)[0].items()}
        self.first = {k: x for k, x in row.items() if k.endswith(".log_norm")}
        # a row holds the numbers of the two runs at a step
        self.rows = [{k: (x, x) for k, x in row.items()}]
        self.accepted = self.rejected = self.rounds = 0

    def _norm(self, i: int) -> float:
        return max(self.rows[i][name][0] for name in self.first)

    def go(self, log_level: float, max_steps: int) -> Ended:
        """Steps up to the level; the last one ends there."""
        growth = 1.05 * math.sqrt(len(self.first))  # r a power of e, once all grow alike
        while True:
            begun = self.path.r[-1]
            self._round(growth * (log_level - self._norm(-1)) + 0.2)
            above = [i for i in range(len(self.rows)) if self._norm(i) >= log_level]
            if above:
                self._end(above[0], log_level)
                return Ended(Status.at_norm)
            row = self.rows[-1]
            if any(row[name][0] < start - 35.0 for name, start in self.first.items()):
                return Ended(Status.vanishing)
            if not math.isfinite(row["loss"][0]):
                return Ended(Status.overflow, "below the level asked for: lower the level")
            if self.path.r[-1] - begun < 1e-9:
                return Ended(Status.falls_back)
            if self.accepted + self.rejected >= max_steps:
                return Ended(Status.max_steps, _LATE)

    def _round(self, span: float) -> None:
        field, dtype = self.path.field, self.path.field.state.dtype
        done = advance(
            field, self.now, self.companion, self.path.solver, self.tolerance,
            jnp.asarray(span, dtype), self.pace,
        )  # fmt: skip
        steps, begun = done.steps, self.path.r[-1]
        kept = np.flatnonzero(np.asarray(steps.kept))
        host = jax.tree.map(np.asarray, (steps.t, steps.state, steps.frame, done.rows))
        r, states, frames, (main, companion) = host
        for i in kept:
            self.now = jax.tree.map(lambda x, i=i: jnp.asarray(x[i]), (states, frames))
            self.path.append(begun + float(r[i]), self.now)
            self.rows.append({k: (float(x[i]), float(companion[k][i])) for k, x in main.items()})
        self.companion, self.pace = done.companion, steps.pace
        self.accepted += kept.size
        self.rejected += int(np.sum(np.asarray(steps.tried))) - kept.size
        self.rounds += 1

    def _end(self, i: int, log_level: float) -> None:
        """Step i is cut where the level is crossed."""
        r, point, row = self.path.crossing(i - 1, log_level)
        bars = {k: b - a for k, (a, b) in self.rows[i].items()}
        self.rows[i:] = [{k: (x, x + bars[k]) for k, x in row.items()}]
        self.path.cut(i, r, point)

    def columns(self) -> dict[str, Any]:
        """The fields of an `Escape` that have an entry a step."""
        both = {k: np.array([row[k] for row in self.rows]) for k in self.rows[0]}
        main = {k: x[:, 0] for k, x in both.items()}
        return {
            "t": main["t"],
            "loss": main["loss"],
            "log_norm": {name: main[f"{name}.log_norm"] for name in self.path.field.polar},
            "error": {k: error_bar(np.array(self.path.r), *x.T) for k, x in both.items()},
        }
