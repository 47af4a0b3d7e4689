"""Gradual rank increase in a language model of characters."""

from .. import Experiment
from .settings import FAST, FULL

experiment = Experiment(
    "gradual-rank-text",
    "Transformers learn through gradual rank increase, arXiv 2306.07042, the experiments",
    "a decoder on English prose, nothing simplified: ranks of what every head learns, from three "
    "initial scales, by the exact flow, SGD and Adam",
    f"{__name__}.run",
    FULL,
    fast=FAST,
)
