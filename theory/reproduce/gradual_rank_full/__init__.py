"""Rank by rank without the diagonal assumption: full matrices, predicted and simulated."""

from .. import Experiment
from .settings import FAST, FULL

experiment = Experiment(
    "gradual-rank-full",
    "beyond Boix-Adsera et al. 2023, arXiv 2306.07042; matrix sensing: arXiv 2301.11500",
    "rank jumps of softmax heads with full matrices, from α = 1e-1000, predicted and simulated",
    f"{__name__}.run",
    FULL,
    fast=FAST,
)
