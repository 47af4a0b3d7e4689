"""Each part is measured, then drawn."""

from .. import Report
from .fewer.draw import fewer_figure
from .fewer.measure import mergers, thresholds
from .layers.draw import layers_figure
from .layers.measure import cubes, gradients, residuals
from .logits.draw import logits_figure
from .logits.measure import logits
from .memory.draw import memory_figure
from .memory.measure import memories
from .norms.draw import norms_figure
from .norms.measure import gaps, layer_norms
from .overlaps.draw import overlaps_figure
from .overlaps.measure import overlaps
from .settings import Settings


def run(report: Report, settings: Settings) -> None:
    """All six figures."""
    report.figure(
        layers_figure(cubes(report), residuals(report, settings), gradients(report)), "layers"
    )
    report.figure(overlaps_figure(overlaps(report, settings)), "overlaps")
    report.figure(logits_figure(logits(report, settings)), "logits")
    layer_norms(report)
    report.figure(norms_figure(gaps(report, settings)), "norms")
    report.figure(memory_figure(memories(report)), "memory")
    report.figure(fewer_figure(mergers(report), thresholds(report)), "fewer")
