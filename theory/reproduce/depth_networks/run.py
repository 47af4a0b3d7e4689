"""Both networks are trained, measured, then drawn."""

from .. import Report
from .layers.draw import depth_figure, laws_figure
from .layers.laws import attention_alone, masked, mean_field
from .layers.measure import changes, courses, entropies, residuals
from .merging.draw import merging_figure
from .merging.measure import copies, merging
from .networks import trained
from .problem import digits, text
from .settings import Settings


def run(report: Report, settings: Settings) -> None:
    """Depth of both networks, laws of their parts, and mergers."""
    images, prose = digits(settings), text(settings)
    networks, found = {}, {}
    for each in (images, prose):
        networks[each.name] = trained(report, each, settings)
        found[each.name] = courses(each, networks[each.name], settings)
        residuals(report, each, found[each.name])
        changes(report, each, found[each.name])
        entropies(report, each, found[each.name])
    report.figure(depth_figure(found), "depth")
    cubes = attention_alone(report, images, networks[images.name], found[images.name])
    report.figure(
        laws_figure(cubes, mean_field(report, images, settings), masked(report, prose, settings)),
        "laws",
    )
    copies(report, images, networks[images.name])
    report.figure(
        merging_figure(merging(report, images, networks[images.name], settings)), "merging"
    )
