"""Measured, then drawn."""

from .. import Report
from .draw import draw
from .measure import measure
from .settings import Settings


def run(report: Report, settings: Settings) -> None:
    """Spectra and ranks over training, and over the initial scale."""
    for name, figure in draw(measure(report, settings)).items():
        report.figure(figure, name)
