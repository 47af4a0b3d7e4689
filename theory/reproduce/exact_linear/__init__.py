"""Two-layer linear networks: every simulated loss and matrix beside its exact solution.

Saxe et al. 2014, 2019 (hierarchies), Braun et al. 2022 and Domine et al. 2024 (balanced
starts), and the passage from lazy to rich.
"""

from .. import Experiment
from .settings import FAST, FULL

experiment = Experiment(
    "exact-linear",
    "Saxe et al. 2014, arXiv 1312.6120; Braun et al. 2022; Domine et al. 2024, arXiv 2409.14623",
    "two-layer linear networks against their exact solutions: sigmoids, any balance, 50 random "
    "networks, lazy to rich",
    f"{__name__}.run",
    FULL,
    fast=FAST,
)
