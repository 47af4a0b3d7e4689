"""What an experiment leaves behind: a table, figures, data and report.json."""

import dataclasses
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from gflow import Trajectory
from gflow.internal import versions

from .. import Comparison
from ..comparison._claims import Claim
from . import _document as document
from ._finding import Finding, badness, judged

if TYPE_CHECKING:
    import matplotlib.figure

#: report.json of an experiment that is under way, or that died without a word, says so.
UNFINISHED = "The experiment has not finished."


@dataclasses.dataclass
class Report:
    """Collects one experiment's results and writes them under `folder`.

    With `live` every paragraph is printed as soon as it is known. `error` says why an experiment
    did not get to its end; it is None after `finish`.
    """

    name: str
    paper: str
    folder: Path
    live: bool = False
    settings: dict[str, object] = dataclasses.field(default_factory=dict)
    rows: list[Finding] = dataclasses.field(default_factory=list)
    text: list[str] = dataclasses.field(default_factory=list)
    figures: list[str] = dataclasses.field(default_factory=list)
    runs: list[str] = dataclasses.field(default_factory=list)
    error: str | None = UNFINISHED
    began: float = dataclasses.field(default_factory=time.monotonic)

    def say(self, *lines: object) -> None:
        """A paragraph of the printed report; what is known so far is written as well."""
        self.text.append("\n".join(str(line) for line in lines))
        self.write()
        if self.live:
            print(self.text[-1], end="\n\n", flush=True)

    def add(
        self,
        quantity: str,
        predicted: float,
        measured: float,
        tolerance: float,
        error_bar: float = 0.0,
        *,
        unit: str = "1",
        paper: str | None = None,
        text: str = "",
        undecided: str | None = None,
    ) -> None:
        """A number that is confirmed when |measured − predicted| ≤ tolerance + error_bar.

        `text` says in words what `quantity` is the key of; `undecided` is the reason why the
        numbers cannot tell, and what would. **Raises** ValueError for a key that is taken.
        """
        verdict, reason = judged(predicted, measured, tolerance, error_bar)
        if undecided is not None:
            verdict, reason = "undecided", undecided
        numbers = (float(x) for x in (predicted, measured, error_bar, tolerance))
        self._append(quantity, unit, paper, *numbers, verdict, f"{text}: {reason}".lstrip(": "))

    def compare(self, prefix: str, comparison: Comparison, text: str = "") -> None:
        """Print a comparison and record every claim that it judges, as `prefix.<claim>`.

        A key has hyphens where the name of a curve or number has spaces.
        """
        self.say(text or prefix, comparison)
        for claim in comparison.claims:
            self._claim(f"{prefix}.{claim.key}", claim, claim.reason)

    def compare_worst(
        self, prefix: str, comparisons: Mapping[str, Comparison], text: str = ""
    ) -> None:
        """Record every claim of several comparisons once, by the one that is worst off.

        `comparisons`: by what tells them apart, "λ = 0.1", which the reason names. Worst is the
        verdict, then the miss over what is allowed. Not all need to make every claim.
        """
        found: dict[str, list[tuple[str, Claim]]] = {}
        for label, comparison in comparisons.items():
            for claim in comparison.claims:
                found.setdefault(claim.key, []).append((label, claim))
        lines = [text or prefix]
        for key, claims in found.items():
            label, claim = max(claims, key=lambda x: badness(x[1]))
            reason = f"{label}, the worst of {len(claims)}: {claim.reason}"
            lines.append(f"  {claim.verdict}: {reason}")
            self._claim(f"{prefix}.{key}", claim, reason)
        self.say(*lines)

    def _claim(self, key: str, claim: Claim, reason: str) -> None:
        numbers = (claim.predicted, claim.measured)
        predicted, measured = (math.nan if isinstance(x, str) else x for x in numbers)
        self._append(
            key.replace(" ", "-"), claim.unit or "1", None, predicted, measured,
            claim.bar, claim.tolerance, claim.verdict, reason,
        )  # fmt: skip

    def _append(
        self,
        quantity: str,
        unit: str,
        paper: str | None,
        predicted: float,
        measured: float,
        error_bar: float,
        tolerance: float,
        verdict: str,
        reason: str,
    ) -> None:
        if any(row.quantity == quantity for row in self.rows):
            raise ValueError(
                f"Experiment {self.name!r} records {quantity!r} twice. A key names one quantity: "
                "add what tells the two apart (the run, α, the stage)."
            )
        if verdict not in document.VERDICTS:
            raise ValueError(
                f"{quantity!r} has the verdict {verdict!r}; it is one of {document.VERDICTS}."
            )
        self.rows.append(
            Finding(
                quantity,
                unit,
                paper or self.paper,
                predicted,
                measured,
                error_bar,
                tolerance,
                verdict,
                reason,
                verdict == "confirmed",
            )
        )

    def figure(self, figure: "matplotlib.figure.Figure", name: str) -> None:
        """Save as PNG and PDF and close; what is known so far is written as well."""
        import matplotlib.pyplot as plt

        self.folder.mkdir(parents=True, exist_ok=True)
        for kind in ("png", "pdf"):
            figure.savefig(self.folder / f"{name}.{kind}", dpi=200)
        plt.close(figure)
        self.figures.append(f"{name}.png")
        self.write()

    def data(self, trajectory: Trajectory, name: str) -> None:
        """Save a run as NetCDF."""
        self.folder.mkdir(parents=True, exist_ok=True)
        trajectory.save(self.folder / f"{name}.nc")
        self.runs.append(f"{name}.nc")
        self.write()

    def finish(self) -> Path:
        """The experiment has come to its end: write everything; returns report.json's path."""
        self.error = None if self.rows else "The experiment judged nothing: it has no rows."
        return self.write()

    @property
    def passed(self) -> bool:
        """Whether the experiment has finished and everything in it is confirmed."""
        return self.error is None and bool(self.rows) and all(row.passed for row in self.rows)

    def as_dict(self) -> dict[str, object]:
        """The content of report.json; what is not a number is null there."""
        rows = [
            {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in r.items()}
            for r in map(dataclasses.asdict, self.rows)
        ]
        return {
            "name": self.name,
            "paper": self.paper,
            "versions": versions(),
            "settings": self.settings,
            "seconds": round(time.monotonic() - self.began, 3),
            "rows": rows,
            "figures": self.figures,
            "runs": self.runs,
            "error": self.error,
            "passed": self.passed,
        }

    def write(self) -> Path:
        """Write report.json and report.txt; returns the former's path."""
        path = document.write(self.folder, self.as_dict())
        (self.folder / "report.txt").write_text("\n\n".join(self.text) + "\n", encoding="utf-8")
        return path
