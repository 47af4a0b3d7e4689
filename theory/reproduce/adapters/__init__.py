"""Low-rank adapters on a frozen transformer: four softmax heads a layer, two layers."""

from .. import Experiment
from .settings import FAST, FULL

experiment = Experiment(
    "adapters",
    "beyond Boix-Adsera et al. 2023, arXiv 2306.07042; adapters: arXiv 2106.09685",
    "rank jumps of low-rank adapters on a frozen transformer, four softmax heads × two layers, "
    "predicted and simulated",
    f"{__name__}.run",
    FULL,
    fast=FAST,
)
