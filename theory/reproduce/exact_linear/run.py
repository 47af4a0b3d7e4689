"""Each problem is measured, then drawn."""

from .. import Report
from . import draw, measure
from .runs import RTOL
from .settings import Settings


def run(report: Report, settings: Settings) -> None:
    """All four figures."""
    report.settings |= {"rtol": RTOL, "padded_sizes": 8}
    report.figure(draw.hierarchy(measure.hierarchy(report)), "hierarchy")
    report.figure(draw.balances(measure.balances(report)), "balances")
    networks = measure.random_networks(report, settings)
    report.figure(draw.random_networks(networks), "random_networks")
    report.figure(draw.lazy_and_rich(measure.lazy_and_rich(report)), "lazy_to_rich")
