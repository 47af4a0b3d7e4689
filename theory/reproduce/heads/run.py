"""Each part is measured, then drawn."""

from .. import Report
from .ambiguity.draw import ambiguity_figure
from .ambiguity.measure import ambiguity
from .blocks.draw import blocks_figure
from .blocks.measure import blocks
from .settings import Settings
from .span.measure import spans
from .split.draw import split_figure
from .split.measure import split


def run(report: Report, settings: Settings) -> None:
    """All figures, and the table of spans."""
    report.figure(ambiguity_figure(ambiguity(report)), "ambiguity")
    report.figure(split_figure(split(report, settings)), "split")
    report.figure(blocks_figure(blocks(report, settings)), "blocks")
    spans(report)
