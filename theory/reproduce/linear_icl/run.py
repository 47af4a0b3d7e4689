"""Each part is measured, then drawn."""

from .. import Report
from . import draw
from .blocks import measure as blocks
from .heads import draw as separate_draw, measure as heads
from .in_weight import draw as in_weight_draw, measure as in_weight
from .modes import measure as modes
from .race import draw as race_draw, measure as race
from .settings import Settings
from .sizes import measure as sizes
from .softmax import measure as softmax
from .softmax_prompts import draw as prompts_draw, measure as softmax_prompts
from .training import measure as training


def run(report: Report, settings: Settings) -> None:
    """Drops of merged and separate heads, clocks, ranks, the other papers, descent, softmax."""
    report.settings |= {"rtol": heads.RTOL}
    merged, separate = heads.merged(report, settings), heads.separate(report, settings)
    report.figure(draw.drops(merged, separate), "drops")
    report.figure(separate_draw.through(separate), "through")
    report.figure(race_draw.races(race.race(report, settings)), "race")
    report.figure(draw.clocks(sizes.escapes(report, settings)), "clocks")
    report.figure(draw.ranks(heads.ranks(report, settings)), "ranks")
    scales, pairs = modes.scales(report, settings), softmax.softmax(report, settings)
    report.figure(draw.others(scales, pairs, training.trained(report, settings)), "others")
    blocks.blocks(report, settings)
    report.figure(prompts_draw.prompts(softmax_prompts.prompts(report, settings)), "softmax")
    report.figure(in_weight_draw.losses(in_weight.in_weight(report, settings)), "in_weight")
    report.data(separate.runs[min(separate.runs)], "separate")
