"""Each part is measured, then drawn."""

from .. import Report
from .others.draw import others_figure
from .others.measure import others
from .ranks.draw import ranks_figure
from .ranks.measure import conditioning, staircase, tiny_starts
from .settings import Settings
from .steps.draw import steps_figure
from .steps.measure import euler


def run(report: Report, settings: Settings) -> None:
    """All three figures."""
    stairs = staircase(report)
    report.figure(
        ranks_figure(stairs, tiny_starts(report, settings), conditioning(report)), "ranks"
    )
    report.figure(steps_figure(euler(report)), "steps")
    report.figure(others_figure(others(report)), "others")
