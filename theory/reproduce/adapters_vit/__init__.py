"""Low-rank adapters of a trained vision transformer: rank jumps predicted, and what AdamW does."""

from .. import Experiment
from .settings import FAST, FULL

experiment = Experiment(
    "adapters-vit",
    "Transformers learn through gradual rank increase, arXiv 2306.07042, on a trained network",
    "adapters on queries, keys, values and outputs of a vision transformer that is trained on "
    "digits and tuned to turned ones: rank jumps predicted, and AdamW from a usual start beside",
    f"{__name__}.run",
    FULL,
    fast=FAST,
)
