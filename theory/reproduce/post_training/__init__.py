"""Post-training: how singular values scale and vectors turn when the target changes."""

from .. import Experiment
from .settings import FAST, FULL

experiment = Experiment(
    "post-training",
    "Post-training and the singular structure of weights, arXiv 2509.17866",
    "a trained matrix under a changed target: values that scale, vectors that turn, left and right "
    "together, beside what a random change does",
    f"{__name__}.run",
    FULL,
    fast=FAST,
)
