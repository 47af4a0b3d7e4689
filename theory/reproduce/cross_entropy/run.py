"""Each part is measured, then drawn."""

from .. import Report
from .cooccurrence import draw as words_draw, measure as words
from .curves import draw as curves_draw, measure as curves
from .lookup import draw as lookup_draw, measure as lookup
from .next_token import draw as decoder_draw, measure as decoder
from .separators import draw as separators_draw, measure as separators
from .settings import Settings


def run(report: Report, settings: Settings) -> None:
    """Closed forms, collapse, separators, a lookup in time, co-occurrence, next tokens."""
    report.settings |= {"rtol": curves.RTOL}
    exact, modes = curves.equiangular(report, settings), curves.hadamard(report)
    report.figure(curves_draw.curves(exact, modes, curves.collapse(report)), "curves")
    report.figure(separators_draw.angles(separators.separators(report, settings)), "separators")
    report.figure(lookup_draw.course_figure(lookup.lookup(report)), "lookup")
    report.figure(words_draw.words(words.words(report, settings)), "cooccurrence")
    report.figure(decoder_draw.stages(decoder.stages(report, settings)), "next_token")
    report.data(exact[min(exact)], "equiangular")
