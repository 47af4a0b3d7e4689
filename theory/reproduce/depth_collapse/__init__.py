"""Tokens over depth: how they become equal, and what delays it."""

from .. import Experiment
from .settings import FAST, FULL

experiment = Experiment(
    "depth-collapse",
    "Noci et al. 2022, arXiv 2206.03126; Dong, Cordonnier, Loukas 2021, arXiv 2103.03404",
    "tokens that become equal over layers: cubically in attention alone, saved by residuals of "
    "1/sqrt(L), gradients of queries and keys with them; overlaps on the sphere, the critical "
    "scale of logits, batch and layer norm, scores with a memory, fewer tokens",
    f"{__name__}.run",
    FULL,
    fast=FAST,
)
