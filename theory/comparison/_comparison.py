"""The result of a comparison: rows, claims, their count, and how it prints."""

import dataclasses
import math
from typing import TYPE_CHECKING

from gflow import Trajectory
from gflow.internal import Displayed, Summary, Table

from .. import plot
from .._prediction import Prediction
from ._claims import CONFIRMED, REFUTED, UNDECIDED, VERDICTS, Claim
from ._closed_forms import ClosedFormRow

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr


@dataclasses.dataclass(frozen=True)
class Row:
    """One transition, or several that merge at this α, with the claims about it.

    Times are τ; `offset_*` are C = (τ − T)·Λ in flow time; `limit` is the log-Richardson
    limit from a second run; `error` is the solver's bar of τ, `tolerance` that and what finite α
    is allowed; `z` the miss over the bar; `loss_*` and `rank_*` belong to the plateau after it.
    `verdict`: the worst of its claims'.
    """

    stage: str
    switches: str
    tau_limit: float
    tau_predicted: float
    tau_measured: float
    error: float
    z: float
    offset_predicted: float
    offset_measured: float
    limit: float
    tolerance: float
    loss_predicted: float
    loss_measured: float
    rank_predicted: str
    rank_measured: str
    verdict: str
    claims: tuple[Claim, ...] = dataclasses.field(default=(), repr=False)

    @property
    def passed(self) -> bool:
        return self.verdict == CONFIRMED


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Comparison(Displayed):
    """A prediction judged by a run.

    `rows`: predicted against measured transitions, then curves and numbers. `claims`: everything
    judged, the start and the completeness of the path included. `passed`: something was judged,
    and all of it is confirmed.
    """

    rows: list[Row | ClosedFormRow]
    trajectory: Trajectory
    prediction: Prediction
    general: tuple[Claim, ...] = ()

    @property
    def transitions(self) -> list[Row]:
        """The rows of the saddle path."""
        return [row for row in self.rows if isinstance(row, Row)]

    @property
    def closed_forms(self) -> list[ClosedFormRow]:
        """The rows of curves and numbers."""
        return [row for row in self.rows if isinstance(row, ClosedFormRow)]

    @property
    def claims(self) -> list[Claim]:
        return [*self.general, *(claim for row in self.rows for claim in row.claims)]

    @property
    def passed(self) -> bool:
        return bool(self.rows) and all(claim.verdict == CONFIRMED for claim in self.claims)

    @property
    def counts(self) -> dict[str, int]:
        """How many claims have each verdict."""
        found = [claim.verdict for claim in self.claims]
        return {verdict: found.count(verdict) for verdict in (CONFIRMED, UNDECIDED, REFUTED)}

    @property
    def summary(self) -> str:
        """One line: how many claims are confirmed, undecided, refuted."""
        counts, at = self.counts, " at this α" if self.prediction.staged else ""
        return (
            f"{counts[CONFIRMED]} confirmed, {counts[UNDECIDED]} undecided{at}, "
            f"{counts[REFUTED]} refuted"
        )

    def to_dataframe(self) -> "pd.DataFrame":
        """The rows as a `pandas.DataFrame`, with the columns of the kinds of rows there are."""
        import pandas as pd

        kinds = {type(row): None for row in self.rows} or {Row: None}
        names = {f.name: None for kind in kinds for f in dataclasses.fields(kind)}
        names.pop("claims")
        return pd.DataFrame(
            [{n: getattr(row, n) for n in names if hasattr(row, n)} for row in self.rows],
            columns=list(names),
        )

    def to_xarray(self) -> "xr.Dataset":
        """The rows as an `xarray.Dataset` over `stage`; over `part` where there are other rows."""
        frame = self.to_dataframe()
        if "part" not in frame:
            return frame.set_index("stage").to_xarray()
        if "stage" in frame:
            frame["part"] = frame["part"].fillna("stage " + frame["stage"].astype(str))
        return frame.set_index("part").to_xarray()

    def cited(self) -> list[str]:
        """What it rests on, for `gflow.cite`."""
        return [*self.prediction.cited(), *self.trajectory.cited()]

    def plot(self, ax=None):
        """Loss against τ: simulated, predicted at this α, and the limit staircase.

        Without stages: each curve, simulated and predicted, and the numbers beside each other; in
        one pair of axes if `ax` is given, else an array of them.
        """
        return plot.comparison(self, ax=ax)

    def _summary(self) -> Summary:
        tables, stages, parts = [], self.transitions, self.closed_forms
        if stages or not parts:
            tables.append(_stage_table(stages))
        if parts:
            tables.append(_part_table(parts))
        open_ = [c for c in self.claims if c.verdict != CONFIRMED]
        means = [f"({v}: {VERDICTS[v]})" for v in VERDICTS if v in {c.verdict for c in open_}]
        reasons = [f"{c.verdict}: {c.reason}" for c in sorted(open_, key=lambda c: c.verdict)]
        return Summary(self._title(), [], tables, [self.summary, *means, *reasons])

    def _title(self) -> str:
        run, source = self.trajectory, self.prediction.source
        if self.prediction.staged:
            about = f"α = 10^-{-run.log_alpha / math.log(10):.6g} (Λ = {-run.log_alpha:.6g})"
        else:
            about = f"t = {run.t[0]:.6g} … {run.t[-1]:.6g}"
        return f"{about}; {source}" if source else about


def _stage_table(rows: list[Row]) -> Table:
    head = [
        "stage", "switches", "T", "τ measured", "±", "z", "C pred.", "C meas.", "τ → limit",
        "loss pred.", "loss meas.", "rank pred.", "rank meas.", "verdict",
    ]  # fmt: skip
    table = [head]
    for r in rows:
        table.append(
            [
                r.stage,
                r.switches,
                f"{r.tau_limit:.6f}",
                f"{r.tau_measured:.6f}",
                f"{r.error:.0e}",
                "" if math.isnan(r.z) else f"{r.z:.2g}",
                f"{r.offset_predicted:.5f}",
                _offset(r.offset_measured),
                "" if math.isnan(r.limit) else f"{r.limit:.6f}",
                f"{r.loss_predicted:.5g}",
                f"{r.loss_measured:.5g}",
                r.rank_predicted,
                r.rank_measured,
                r.verdict,
            ]
        )
    if all(math.isnan(r.limit) for r in rows):
        table = [row[:8] + row[9:] for row in table]
    return Table(table[0], table[1:])


def _offset(value: float) -> str:
    """C; where t has no digits for it, its size."""
    return f"{value:.5f}" if not abs(value) >= 1e7 else f"{value:.1e}"


def _part_table(rows: list[ClosedFormRow]) -> Table:
    table = [
        ["part", "decided at", "predicted", "measured", "±", "z", "allowed", "from", "verdict"]
    ]
    for r in rows:
        allowed = r.tolerance - 2.0 * r.error
        table.append(
            [
                r.part,
                r.where,
                f"{r.predicted:.8g}",
                f"{r.measured:.8g}",
                f"{r.error:.0e}",
                f"{r.z:.2g}" if math.isfinite(r.z) else "",
                f"{max(allowed, 0.0):.1g}" if math.isfinite(allowed) else "",
                r.origin,
                r.verdict,
            ]
        )
    return Table(table[0], table[1:])
