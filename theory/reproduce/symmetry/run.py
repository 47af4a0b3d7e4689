"""Each part is measured, then drawn."""

from .. import Report
from .alignment.draw import alignment_figure
from .alignment.measure import courses, power_laws
from .breaking.draw import breaking_figure
from .breaking.measure import decayed, escapes
from .removal.draw import removal_figure
from .removal.measure import removal
from .settings import Settings


def run(report: Report, settings: Settings) -> None:
    """All three figures."""
    report.figure(
        alignment_figure(courses(report, settings), power_laws(report, settings)), "alignment"
    )
    report.figure(breaking_figure(escapes(report, settings), decayed(report)), "breaking")
    report.figure(removal_figure(removal(report, settings)), "removal")
