"""Order, times and offsets of drops by the limit algorithm, judged by runs from many sizes."""

import math
from typing import NamedTuple

import numpy as np

import gflow
import theory

from ... import Report
from ..heads.measure import RTOL
from ..problem import ZHANG
from ..settings import Settings
from .problem import FAMILIES

#: At which the limit is predicted; it does not depend on it.
REFERENCE = 1e-20
#: Up to which plateaus are judged; what a hundred times a larger size allows decides nothing.
SMALL = 1e-4


class Raced(NamedTuple):
    """Of one family: the prediction and, by size, a run of it."""

    prediction: theory.Prediction
    runs: dict[float, gflow.Trajectory]

    def offsets(self, size: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """C of all stages at a size: measured, its bar, and predicted there."""
        stages, scale = self.runs[size].stages(), self.runs[size].scale
        limits = np.array([s.tau for s in self.prediction.stages])
        measured = np.array([s.t for s in stages]) - limits * scale
        predicted = self.prediction.at(math.log(size)).offset
        return measured, np.array([s.error for s in stages]), predicted


def race(report: Report, settings: Settings) -> dict[str, Raced]:
    """By family; every size is compared, the limit of one prediction with all of them."""
    found = {}
    for family in FAMILIES:
        prediction = theory.gradual_rank.predict(family.model(REFERENCE), family.objective)
        runs, tables = {}, {}
        for size in settings.race_sizes:
            run = gflow.simulate(family.model(size), family.objective, rtol=RTOL)
            runs[size] = run
            if size <= SMALL:
                tables[f"ε = {size:g}"] = theory.compare(run, prediction)
        words = f"Limit algorithm of order {prediction.order}, {family.name}, {len(tables)} sizes"
        report.compare_worst(f"race.{family.name}", tables, words)
        found[family.name] = Raced(prediction, runs)
    _offsets(report, found["heads"])
    return found


def _offsets(report: Report, heads: Raced) -> None:
    """How far offsets of heads are from those at their size, over what is at stake."""
    limits = np.array([s.offset for s in heads.prediction.stages])
    widths = np.array([1.0 / s.rate for s in heads.prediction.stages])
    for size in sorted(heads.runs, reverse=True):
        measured, bars, predicted = heads.offsets(size)
        if np.max(bars / widths) > 100.0 * size:
            continue  # t has not the digits
        turned = np.abs(predicted - limits)
        miss = float(np.max((np.abs(measured - predicted) - bars) / (widths + turned)))
        report.add(
            f"race.heads.offsets.size{size:g}", 0.0, max(miss, 0.0), 100.0 * size,
            unit="width and turn", paper=ZHANG,
            text="largest miss of an offset beyond its bar, over the width of the drop and what "
            f"turns change, up to {np.max(turned):.3g}",
        )  # fmt: skip
