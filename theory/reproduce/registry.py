"""The list of experiments."""

import dataclasses
import importlib

from .report import Report


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A name on the command line, the paper, one line on what it shows, its module."""

    name: str
    paper: str
    summary: str
    module: str

    def run(self, report: Report) -> None:
        """Fill `report`; the module is imported only when it runs."""
        importlib.import_module(self.module).run(report)


EXPERIMENTS = {
    e.name: e
    for e in [
        Experiment(
            "gradual-rank",
            "Boix-Adsera, Littwin, Abbe, Bengio, Susskind 2023, arXiv 2306.07042",
            "stage times and rank jumps of diagonal networks and softmax heads, "
            "predicted and simulated",
            "theory.reproduce.gradual_rank",
        ),
    ]
}
