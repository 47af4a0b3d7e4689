"""Each problem is measured, then drawn."""

from .. import Report
from . import draw, measure
from .settings import Settings


def run(report: Report, settings: Settings) -> None:
    """All four problems."""
    report.figure(draw.fixture(measure.fixture(report)), "fixture")
    head = measure.softmax_head(report, settings)
    report.figure(draw.softmax_head(head), "softmax_head")
    report.figure(draw.softmax_head_checks(head), "softmax_head_checks")
    report.figure(draw.diabetes(measure.diabetes(report, settings)), "diabetes")
    report.figure(draw.digits(measure.digits(report, settings)), "digits")
