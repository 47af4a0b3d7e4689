"""Condensation and rank collapse of a one-layer transformer from weights of size 1e-4 … 1e-100.

Chen & Luo 2025. The first stage (`escape`) is simulated in its effective form, three factors in a
row, against blow-up times, bounds and limits; the second (`plateau`) at many ε against F of the
data; `tanh_model` follows the whole model through both. Gradient flow throughout; the paper
trains by AdamW (`anchor`), which has no wait 1/ε. `two_layer`: networks without attention.
"""

from .. import Experiment
from .settings import FAST, FULL

experiment = Experiment(
    "condensation",
    "Chen, Luo 2025, arXiv 2510.06954",
    "condensation and rank collapse of a one-layer transformer from weights down to 1e-100, "
    "predicted and simulated",
    f"{__name__}.run",
    FULL,
    fast=FAST,
)
