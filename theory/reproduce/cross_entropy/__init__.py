"""Cross-entropy: exact softmax trajectories, balancing of gradients, max-margin directions.

Garrod, Keating, Thrampoulidis 2025 (two linear layers, neural collapse), Yang et al. 2024 (word
co-occurrence), Huang, Liang, Yang 2024 (next tokens), Soudry et al. 2018 (separators).
"""

from .. import Experiment
from .settings import FAST, FULL

experiment = Experiment(
    "cross-entropy",
    "Garrod, Keating, Thrampoulidis 2025, arXiv 2512.04006; Yang et al. 2024, arXiv 2410.09605; "
    "Huang, Liang, Yang 2024, arXiv 2409.17335; Soudry et al. 2018, arXiv 1710.10345",
    "flows without a finite minimum: logits in closed form from any scale, directions towards "
    "separators, balanced gradients of co-occurring words, decoders in two stages",
    f"{__name__}.run",
    FULL,
    fast=FAST,
)
