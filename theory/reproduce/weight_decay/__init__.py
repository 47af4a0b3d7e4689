"""Weight decay on two factors: balance, nuclear norm, soft thresholds, the rank of attention.

Kobayashi, Akram, von Oswald 2024: its Fig. 1 in both conventions of the loss (they differ by
a factor 2 in the threshold), the lookup task of softmax attention, whose rank at the end is
known, and transformers trained by Adam, where no law is exact.
"""

from .. import Experiment
from .settings import FAST, FULL

experiment = Experiment(
    "weight-decay",
    "Kobayashi, Akram, von Oswald 2024, arXiv 2410.23819",
    "decay on two factors: balance, nuclear norm, soft thresholds, the rank of attention in "
    "lookup, recall and text",
    f"{__name__}.run",
    FULL,
    fast=FAST,
)
