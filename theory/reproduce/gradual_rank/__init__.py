"""2306.07042 end to end: exact fixture, teacher–student head, diabetes, digits head."""

from .. import Experiment
from .settings import FAST, FULL

experiment = Experiment(
    "gradual-rank",
    "Boix-Adsera, Littwin, Abbe, Bengio, Susskind 2023, arXiv 2306.07042",
    "stage times and rank jumps of diagonal networks and softmax heads, predicted and simulated",
    f"{__name__}.run",
    FULL,
    fast=FAST,
)
