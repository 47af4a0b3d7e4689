"""Angles to the separator along the flow, and those of gradient descent."""

from typing import NamedTuple

import numpy as np

import gflow
from gflow import Status, observables
from gflow.internal import angle
from theory import cross_entropy
from theory.cross_entropy import LateSeparator, MaxMargin

from ... import Report
from ..normalised import normalised
from ..settings import Settings
from .problem import Data, inseparable, separable

SOUDRY = "Soudry et al. 2018, arXiv 1710.10345"
LATE, RTOL = 1e40, 1e-9
#: Between which times the slope of the angle in 1/log t is taken.
SPAN = 1e20, LATE
#: The step of normalised gradient descent, in units of 1/(largest input).
NORMALISED = 0.1


class Course(NamedTuple):
    """A data set, its separator, late law, flow, descent, and normalised descent."""

    data: Data
    goal: MaxMargin
    late: LateSeparator
    flow: gflow.Trajectory
    descent: gflow.Trajectory
    normalised: gflow.Trajectory


def separators(report: Report, settings: Settings) -> list[Course]:
    """Every data set is told by a linear programme first."""
    sets = [*separable()[: settings.separators], inseparable()]
    told = {data.name: cross_entropy.separable(data.inputs, data.labels) for data in sets}
    report.say(
        "Linearly separable, by a linear programme, before any run:",
        *(f"  {name}: {'yes' if yes else 'no'}" for name, yes in told.items()),
    )
    found = [_course(report, data, settings) for data in sets if told[data.name]]
    for data in sets:
        if not told[data.name]:
            run = gflow.simulate(data.start, data.objective)
            report.say(f"{data.name}: {run.status}")
            report.add(
                f"separators.{data.name}.finite",
                1.0,
                float(run.status is Status.converged),
                0.0,
                paper=SOUDRY,
                text="whether the run comes to rest at a finite minimum",
            )
    return found


def _course(report: Report, data: Data, settings: Settings) -> Course:
    goal = cross_entropy.max_margin(data.inputs, data.labels)
    late = cross_entropy.late_separator(data.inputs, data.labels)
    watched = {
        "angle": observables.angle("weight", goal.weights),
        "margin": observables.normalised_margin(data.objective, "weight"),
    }
    objective, key = data.objective, f"separators.{data.name}"
    flow = gflow.simulate(
        data.start, objective, t1=LATE, rtol=RTOL, observables=watched, save=[SPAN[0]]
    )
    heading = flow.heading("weight")
    off = angle(heading.direction, goal.weights)
    report.add(
        f"{key}.direction",
        0.0,
        off,
        1e-3,
        heading.error,
        unit="rad",
        paper=SOUDRY,
        text="angle of the flow's direction at infinity to the hard-margin separator",
    )
    # the law is exact up to t^{−μ}; of these sets μ > 0.3, which leaves 10⁻⁶ of the slope
    predicted = [angle(late.at(t), goal.weights) for t in (*SPAN,)]
    at = [int(np.searchsorted(flow.t, t)) for t in SPAN]
    measured, bars = (x["angle"][at] for x in (flow.observables, flow.error))
    gap = 1.0 / np.log(SPAN[0]) - 1.0 / np.log(SPAN[1])
    slopes = [(x[0] - x[1]) / gap for x in (predicted, measured)]
    limit = float(late.misalignment(np.e))
    report.add(
        f"{key}.slope",
        slopes[0],
        slopes[1],
        1e-4 * slopes[0],
        float(np.sum(bars)) / gap,
        unit="rad",
        paper=SOUDRY,
        text=f"slope of the angle in 1/log t between t = {SPAN[0]:g} and {SPAN[1]:g} "
        f"(t → ∞: {limit:.4g})",
    )
    top = float(np.max(np.linalg.norm(data.inputs, axis=1)))
    rate = 1.0 / top**2  # below 2 over the largest curvature
    descent = gflow.descend(
        data.start, objective, learning_rate=rate, steps=settings.steps, observables=watched
    )
    near = int(np.searchsorted(flow.t, descent.t[-1]))
    between = np.interp(
        np.log(descent.t[-1]),
        np.log(flow.t[near - 1 : near + 1]),
        flow.observables["angle"][near - 1 : near + 1],
    )
    report.say(
        f"{data.name}: {len(goal.support)} examples on the margin {goal.margin:.4g}; angle "
        f"{measured[1]:.4g} of the flow at t = {LATE:g} (law: {predicted[1]:.4g}); gradient "
        f"descent {descent.observables['angle'][-1]:.4g} after {settings.steps} steps, "
        f"t = {descent.t[-1]:.4g} (flow: {between:.4g})"
    )
    report.add(
        f"{key}.descent",
        float(between),
        float(descent.observables["angle"][-1]),
        0.02 * float(between),
        unit="rad",
        paper=SOUDRY,
        text="angle of gradient descent beside that of the flow at the same time",
    )
    # up to where the smallest of the losses is still a float
    steps = min(settings.steps, int(400.0 / (NORMALISED * goal.margin / top)))
    fast = gflow.descend(
        data.start,
        objective,
        observables=watched,
        steps=steps,
        learning_rate=NORMALISED / top,
        optimizer=normalised(NORMALISED / top),
    )
    report.add(
        f"{key}.normalised",
        1.0,
        float(np.cos(fast.observables["angle"][-1])),
        1e-3,
        paper="Huang, Liang, Yang 2024, arXiv 2409.17335",
        text=f"cosine to the separator after {steps} steps of normalised descent",
    )
    return Course(data, goal, late, flow, descent, fast)
