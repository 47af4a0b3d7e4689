"""Heads: what their sum does not say, what the flow decides, and what stays in a span."""

from .. import Experiment
from .settings import FAST, FULL

experiment = Experiment(
    "heads",
    "Identifiability of heads, arXiv 2604.23681; conservation laws, arXiv 2307.00144",
    "how many dimensions of the heads a sum leaves open, by the rank of W_O; the split between "
    "heads, frozen by the start from 1e-2 to 1e-100; the laws between heads and their end; spans",
    f"{__name__}.run",
    FULL,
    fast=FAST,
)
