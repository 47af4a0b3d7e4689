"""Gradual rank increase in a vision transformer on handwritten digits."""

from .. import Experiment
from .settings import FAST, FULL

experiment = Experiment(
    "gradual-rank-vit",
    "Transformers learn through gradual rank increase, arXiv 2306.07042, the experiments",
    "a vision transformer on digits, nothing simplified: ranks of what every head learns, from "
    "three initial scales, by the exact flow, SGD and Adam",
    f"{__name__}.run",
    FULL,
    fast=FAST,
)
