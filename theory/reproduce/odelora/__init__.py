"""ODELoRA: factors that move as the full matrix would, beside LoRA and other velocities."""

from .. import Experiment
from .settings import FAST, FULL

experiment = Experiment(
    "odelora",
    "ODELoRA, arXiv 2602.07479; Saxe et al. 2014, arXiv 1312.6120",
    "adapters along the projected flow of the full matrix: all ranks at once at rate one, whatever "
    "the start and the conditioning, where LoRA climbs a staircase; Euler steps; sign and momentum",
    f"{__name__}.run",
    FULL,
    fast=FAST,
)
