"""Measured, then drawn."""

from .. import Report
from .draw import draw
from .measure import measure
from .settings import Settings


def run(report: Report, settings: Settings) -> None:
    """Rank jumps of the adapters, and AdamW."""
    report.figure(draw(measure(report, settings)), "adapters")
