"""Each part is measured, then drawn."""

from .. import Report
from .network.draw import network_figure
from .network.measure import network
from .scaling.draw import scaling_figure
from .scaling.measure import scaling
from .settings import Settings
from .turning.draw import turning_figure
from .turning.measure import coordinations, orders


def run(report: Report, settings: Settings) -> None:
    """One matrix, then the matrices of networks."""
    report.figure(scaling_figure(scaling(report)), "scaling")
    report.figure(turning_figure(orders(report), coordinations(report, settings)), "turning")
    report.figure(network_figure(network(report, settings)), "network")
