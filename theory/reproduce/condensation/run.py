"""Each part is measured, then drawn."""

from .. import Report
from .anchor import draw as draw_anchor, measure as anchor
from .escape import draw as draw_escape, measure as escape
from .plateau import draw as draw_plateau, measure as plateau
from .settings import Settings
from .tanh_model import draw as draw_tanh_model, measure as tanh_model
from .two_layer import draw as draw_two_layer, measure as two_layer


def run(report: Report, settings: Settings) -> None:
    """Stage one, stage two, both of the tanh model, then the other experiments of the paper."""
    report.figure(draw_escape.escapes(escape.escapes(report, settings)), "condensation_escape")
    second = plateau.second_stage(report, settings)
    report.figure(draw_plateau.second_stage(second), "condensation_plateau")
    both = tanh_model.both_stages(report, settings)
    report.figure(draw_tanh_model.both_stages(both), "condensation_tanh")
    trained = anchor.anchor(report, settings)
    report.figure(draw_anchor.cosines(trained), "anchor_cosines")
    report.figure(draw_anchor.courses(trained), "anchor_courses")
    networks = two_layer.two_layer(report, settings)
    report.figure(draw_two_layer.two_layer(networks), "two_layer")
