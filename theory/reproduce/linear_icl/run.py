"""Each part is measured, then drawn."""

from .. import Report
from . import draw
from .heads import measure as heads
from .modes import measure as modes
from .settings import Settings
from .sizes import measure as sizes
from .softmax import measure as softmax
from .training import measure as training


def run(report: Report, settings: Settings) -> None:
    """Drops of merged and separate heads, both clocks, ranks, and the other papers and descent."""
    report.settings |= {"rtol": heads.RTOL}
    merged, separate = heads.merged(report, settings), heads.separate(report, settings)
    report.figure(draw.drops(merged, separate), "drops")
    report.figure(draw.clocks(sizes.escapes(report, settings)), "clocks")
    report.figure(draw.ranks(heads.ranks(report, settings)), "ranks")
    scales, pairs = modes.scales(report, settings), softmax.softmax(report, settings)
    report.figure(draw.others(scales, pairs, training.trained(report, settings)), "others")
    report.data(separate.runs[min(separate.runs)], "separate")
