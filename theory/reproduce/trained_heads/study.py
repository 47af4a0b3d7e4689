"""A transformer measured, then drawn."""

from .. import Report
from .balance import conserved
from .draw import courses, over_scales, spectra
from .measure import ranks
from .problem import Problem
from .settings import Sizes


def study(report: Report, problem: Problem, sizes: Sizes) -> None:
    """What the flow conserves; ranks over training, seeds and scales, in three figures."""
    conserved(report, problem, sizes.scales[-1])
    found = ranks(report, problem, sizes.scales, sizes.seeds)
    report.figure(spectra(found), "spectra")
    report.figure(courses(found), "courses")
    report.figure(over_scales(found), "scales")
