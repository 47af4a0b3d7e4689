"""Each part is measured, then drawn."""

from .. import Report
from .scaling.draw import scaling_figure
from .scaling.measure import scaling
from .settings import Settings
from .turning.draw import turning_figure
from .turning.measure import coordinations, orders


def run(report: Report, settings: Settings) -> None:
    """Both figures."""
    report.figure(scaling_figure(scaling(report)), "scaling")
    report.figure(turning_figure(orders(report), coordinations(report, settings)), "turning")
