"""The first rank jumps of sixteen matrices, at two sizes of the adapters."""

import gflow
from theory import gradual_rank

from .. import Report, Runs, Scales, compare_scales, offsets
from .problem import problem
from .settings import Settings


def measure(report: Report, settings: Settings) -> Scales:
    """Runs to midway between the last stage that is followed and the next."""
    one = problem(1)
    prediction = gradual_rank.predict(one.at(100), one.objective, max_stages=settings.stages + 1)
    *shown, following = prediction.stages
    end = 0.5 * (shown[-1].tau + following.tau)
    runs: Runs = {k: gflow.simulate(one.at(k), one.objective, tau1=end) for k in (100, 1000)}
    compare_scales(report, "adapters", "adapters, 4 heads × 2 layers", runs, prediction)
    for i, stage, offset, bar in offsets(runs[1000], prediction):
        report.add(
            f"adapters.alpha1e-1000.C.stage{i}",
            stage.offset,
            offset,
            1e-3 / stage.rate,
            bar,
            unit="flow time",
            text=stage.label,
        )
    report.data(runs[100], "adapters")
    return Scales(runs, prediction)
