"""Half-times against the size of the start, under four velocities of one pair of factors.

From balanced factors √s₀ of a mode d the factors grow at the rate d of the gradient flow, and
under momentum at r with T r² + r = d: a decade of s₀ costs ln 10/(2r) in either. Signs do not
ask how large a force is, and the projected flow not how small the factors are.
"""

import math
from typing import NamedTuple

import numpy as np

import gflow
from gflow import velocity

from ... import Report
from ..problem import PAPER, TANGENT, Problem, problem

D, LASTS, WIDTH = 1.5, 2.0, 1e-12
DECADES = (4, 6, 8, 10)
VELOCITIES = {
    "gradient": None,
    "momentum": velocity.Momentum(LASTS),
    "sign": velocity.Sign(WIDTH),
    "projected": TANGENT,
}


class Others(NamedTuple):
    """Half-times by velocity, a number a decade, and the predicted cost of a decade."""

    times: dict[str, np.ndarray]
    slopes: dict[str, float]


def others(report: Report) -> Others:
    one = problem((D,), (1, 1), 0)
    rate = (math.sqrt(1.0 + 4.0 * LASTS * D) - 1.0) / (2.0 * LASTS)
    ten = math.log(10.0)
    slopes = {"gradient": ten / (2.0 * D), "momentum": ten / (2.0 * rate), "sign": 0.0,
              "projected": 0.0}  # fmt: skip
    times = {}
    for name, along in VELOCITIES.items():
        found = [_half_time(one, 10.0**-k, along) for k in DECADES]
        times[name] = np.array([t for t, _ in found])
        bar = sum(bar for _, bar in found[-2:])
        per_decade = float(times[name][-1] - times[name][-2]) / (DECADES[-1] - DECADES[-2])
        # what a start moves the half-time by: √s₀ where a factor has to come from it
        report.add(
            f"others.{name}.decade", slopes[name], per_decade, 10.0 ** (-0.5 * DECADES[-2]), bar,
            unit="flow time", paper=PAPER,
            text=f"what the last decades of s₀ cost each, {name}",
        )  # fmt: skip
    return Others(times, slopes)


def _half_time(one: Problem, size: float, along: velocity.Velocity | None) -> tuple[float, float]:
    sign = float(np.sign(one.target[0, 0]))
    run = gflow.simulate(
        one.aligned(size), one.objective, t1=100.0, velocity=along, rtol=1e-10,
        stop=gflow.stop.above(lambda m: sign * m["w"].value[0, 0], 0.5 * D),
    )  # fmt: skip
    return float(run.t[-1]), float(run.statistics["stop_error"])
