"""What an experiment leaves behind: a table, figures, data and report.json."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from gflow.storage import versions
from gflow.trajectory import Trajectory

from ..comparison import Comparison


@dataclasses.dataclass(frozen=True)
class Quantity:
    """One line of report.json: predicted beside measured, with what decides."""

    quantity: str
    predicted: float
    measured: float
    error_bar: float
    tolerance: float
    passed: bool


@dataclasses.dataclass
class Report:
    """Collects one experiment's results and writes them under `folder`.

    With `live` every paragraph is printed as soon as it is known.
    """

    name: str
    paper: str
    folder: Path
    fast: bool = False
    live: bool = False
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    rows: list[Quantity] = dataclasses.field(default_factory=list)
    text: list[str] = dataclasses.field(default_factory=list)
    figures: list[str] = dataclasses.field(default_factory=list)

    def say(self, *lines: object) -> None:
        """A paragraph of the printed report."""
        self.text.append("\n".join(str(line) for line in lines))
        if self.live:
            print(self.text[-1], end="\n\n", flush=True)

    def add(
        self,
        quantity: str,
        predicted: float,
        measured: float,
        tolerance: float,
        error_bar: float = 0.0,
    ) -> None:
        """A number that passes when |measured − predicted| ≤ tolerance."""
        passed = bool(abs(measured - predicted) <= tolerance)
        self.rows.append(
            Quantity(quantity, float(predicted), float(measured), float(error_bar),
                     float(tolerance), passed)
        )  # fmt: skip

    def add_comparison(self, label: str, comparison: Comparison) -> None:
        """Print a comparison and record its stage times and plateau losses."""
        self.say(f"{label}", comparison)
        for row in comparison.rows:
            self.rows.append(
                Quantity(
                    f"{label}: tau of stage {row.stage} ({row.switches}), {row.verdict}",
                    row.tau_predicted,
                    row.tau_measured,
                    row.error,
                    row.tolerance,
                    row.passed,
                )
            )

    def figure(self, figure: Any, name: str) -> None:
        """Save as PNG and PDF and close."""
        import matplotlib.pyplot as plt

        self.folder.mkdir(parents=True, exist_ok=True)
        for kind in ("png", "pdf"):
            figure.savefig(self.folder / f"{name}.{kind}", dpi=200)
        plt.close(figure)
        self.figures.append(f"{name}.png")

    def data(self, trajectory: Trajectory, name: str) -> None:
        """Save a run as NetCDF."""
        self.folder.mkdir(parents=True, exist_ok=True)
        trajectory.save(self.folder / f"{name}.nc")

    @property
    def passed(self) -> bool:
        return bool(self.rows) and all(row.passed for row in self.rows)

    def as_dict(self) -> dict[str, Any]:
        """The content of report.json; what is not a number is null there."""
        rows = [
            {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in r.items()}
            for r in map(dataclasses.asdict, self.rows)
        ]
        return {
            "name": self.name,
            "paper": self.paper,
            "versions": versions(),
            "settings": {"fast": self.fast, **self.settings},
            "rows": rows,
            "passed": self.passed,
        }

    def write(self) -> Path:
        """Write report.json and report.txt; returns the former's path."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "report.json"
        path.write_text(json.dumps(self.as_dict(), indent=2, ensure_ascii=False) + "\n")
        (self.folder / "report.txt").write_text("\n\n".join(self.text) + "\n")
        return path
