"""The study of both transformers, of this one."""

from .. import Report
from ..trained_heads.study import study
from .problem import problem
from .settings import Settings


def run(report: Report, settings: Settings) -> None:
    """Spectra and ranks over training, and over the initial scale."""
    study(report, problem(settings), settings)
