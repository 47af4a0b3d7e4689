"""Each part is measured, then drawn."""

import numpy as np

from .. import Report
from .lookup import draw as draw_lookup, measure as lookup
from .nuclear_norm import draw as draw_nuclear_norm, measure as nuclear_norm
from .nuclear_norm.problem import TARGET, problem
from .pairs import RTOL
from .settings import Settings
from .transformers import draw as draw_transformers, measure as transformers


def run(report: Report, settings: Settings) -> None:
    """The paper's Fig. 1 twice, the lookup, then transformers that recall and that read."""
    report.settings |= {"rtol": RTOL, "target": np.diag(TARGET).tolist()}
    for loss in ("half", "full"):
        numbers = nuclear_norm.figure_1(report, problem(loss))
        report.figure(draw_nuclear_norm.figure_1(numbers), f"fig1_{loss}")
    looked_up = draw_lookup.lookup(lookup.ends(report), lookup.courses(report))
    report.figure(looked_up, "lookup")
    transformers.one_step(report)
    report.figure(draw_transformers.recall(transformers.recall(report, settings)), "recall")
    report.figure(draw_transformers.text(transformers.text(report, settings)), "text")
