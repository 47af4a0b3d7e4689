"""Ranks of heads over training, seeds and scales; what the flow conserves."""

from .. import Report
from ..trained_heads.balance import conserved
from ..trained_heads.ranks import Ranks, ranks
from .problem import problem
from .settings import Settings


def measure(report: Report, settings: Settings) -> Ranks:
    """All runs by flow, SGD and Adam, and the claims on the flow."""
    own = problem(settings)
    conserved(report, own, settings.scales[-1])
    return ranks(report, own, settings.scales, settings.seeds)
