"""The list of experiments."""

import dataclasses
import importlib
from typing import Any


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A name on the command line, the paper, one line on what it shows, its module."""

    name: str
    paper: str
    summary: str
    module: str

    def run(self, report: Any) -> None:
        """Fill the `Report`; the module is imported only when it runs."""
        importlib.import_module(self.module).run(report)


EXPERIMENTS = {
    e.name: e
    for e in [
        Experiment(
            "gradual-rank",
            "Boix-Adsera, Littwin, Abbe, Bengio, Susskind 2023, arXiv 2306.07042",
            "stage times and rank jumps of diagonal networks and softmax heads, "
            "predicted and simulated",
            "theory.reproduce.gradual_rank.measure",
        ),
        Experiment(
            "gradual-rank-full",
            "beyond Boix-Adsera et al. 2023, arXiv 2306.07042; matrix sensing: arXiv 2301.11500",
            "rank jumps of softmax heads with full matrices, from α = 1e-1000, predicted and "
            "simulated",
            "theory.reproduce.gradual_rank_full.measure",
        ),
        Experiment(
            "adapters",
            "beyond Boix-Adsera et al. 2023, arXiv 2306.07042; adapters: arXiv 2106.09685",
            "rank jumps of low-rank adapters on a frozen transformer, four softmax heads × two "
            "layers, predicted and simulated",
            "theory.reproduce.adapters.measure",
        ),
        Experiment(
            "exact-linear",
            "Saxe et al. 2014, arXiv 1312.6120; Braun et al. 2022; Domine et al. 2024, "
            "arXiv 2409.14623",
            "two-layer linear networks against their exact solutions: sigmoids, any balance, "
            "50 random networks, lazy to rich",
            "theory.reproduce.exact_linear.measure",
        ),
        Experiment(
            "weight-decay",
            "Kobayashi, Akram, von Oswald 2024, arXiv 2410.23819",
            "decay on two factors: balance, nuclear norm, soft thresholds, the rank of attention "
            "in lookup, recall and text",
            "theory.reproduce.weight_decay.nuclear_norm.measure",
        ),
        Experiment(
            "condensation",
            "Chen, Luo 2025, arXiv 2510.06954",
            "condensation and rank collapse of a one-layer transformer from weights down to "
            "1e-100, predicted and simulated",
            "theory.reproduce.condensation.escape.measure",
        ),
    ]
}
