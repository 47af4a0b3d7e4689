"""Symmetries: alignment of representations, a permutation that breaks, a collapse that softens."""

from .. import Experiment
from .settings import FAST, FULL

experiment = Experiment(
    "symmetry",
    "Symmetry breaking in flows, arXiv 2502.05300; formation of representations, arXiv 2410.03006; "
    "syre, arXiv 2408.15495",
    "alignment of representations lost and regained, reciprocal power laws, the time that a broken "
    "permutation takes to show, decay towards a random point that softens a collapse",
    f"{__name__}.run",
    FULL,
    fast=FAST,
)
