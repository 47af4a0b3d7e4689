"""In-context linear regression by attention: plateaus, clocks and optima beside the flow.

Zhang, Frei, Bartlett 2024 (all blocks of one head), Zhang et al. 2025 (merged and separate heads,
in-context against in-weight learning), Mainali and Teixeira 2025 (several scales), He et al. 2025
(softmax heads), and gradient descent on sampled prompts as in the second.
"""

from .. import Experiment
from .settings import FAST, FULL

experiment = Experiment(
    "linear-icl",
    "Zhang et al. 2025, arXiv 2501.16265; Zhang, Frei, Bartlett 2024, arXiv 2306.09927; "
    "Mainali, Teixeira 2025, arXiv 2504.12916; He et al. 2025, arXiv 2503.12734",
    "attention that learns to regress in context: one drop or one a direction, power law or "
    "logarithm of the initial size, softmax heads in pairs, weights against context",
    f"{__name__}.run",
    FULL,
    fast=FAST,
)
