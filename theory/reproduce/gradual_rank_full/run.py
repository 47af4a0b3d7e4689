"""Each problem is measured, then drawn; the two heads have no figure."""

from .. import Report
from . import draw, measure
from .settings import Settings


def run(report: Report, settings: Settings) -> None:
    """A softmax head, two heads that share a mode, matrix sensing, and the gauge itself."""
    report.figure(draw.head(measure.head(report, settings)), "full_head")
    measure.heads(report)
    report.figure(draw.sensing(measure.sensing(report, settings)), "matrix_sensing")
    report.figure(draw.gauge(measure.gauge(report)), "gauge")
