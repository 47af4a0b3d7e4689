"""Trained transformers over depth: what each part is good for, and mergers of tokens."""

from .. import Experiment
from .settings import FAST, FULL

experiment = Experiment(
    "depth-networks",
    "Dong, Cordonnier, Loukas 2021, arXiv 2103.03404; Noci et al. 2022, arXiv 2206.03126; Bolya et "
    "al. 2023, arXiv 2210.09461",
    "a vision transformer on digits and a decoder of characters, whole and without residuals, "
    "norms, MLPs: collapse, rank and entropies over depth before and after training, the cubic "
    "bound from actual weights, and accuracy when tokens are merged",
    f"{__name__}.run",
    FULL,
    fast=FAST,
)
