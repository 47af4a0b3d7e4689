"""Closed forms for p = 1 and critical angles for p = 2, 3, beside simulations."""

import math
from typing import NamedTuple

import numpy as np

from theory import two_layer_condensation as theory

from ... import Report
from ..settings import Settings
from .orientations import angles, defects, nearest
from .problem import LEVEL, NAMES, RTOL, Problem

#: 1 − |cos| is off by a relative error of w³/ε times a constant that depends on the data, about 100
#: here for the neuron that starts nearest to g: its slope is compared up to this w³/ε.
CUBE = 1e-4
#: An angle this close to an orientation (radian) has reached it.
NEAR = 0.03
#: ε of the networks whose angles are shown.
SHOWN = 1e-5


class Course(NamedTuple):
    """tanh: median of 1 − |cos(w_j, g)| over the neurons in time, simulated and exact."""

    epsilon: float
    t: np.ndarray
    found: np.ndarray
    exact: np.ndarray


class Angles(NamedTuple):
    """By neuron: angle at the start, at its escape (NaN: never) and predicted; sign of a."""

    p: int
    start: np.ndarray
    found: np.ndarray
    predicted: np.ndarray
    sign: np.ndarray
    limits: theory.Orientations


class TwoLayers(NamedTuple):
    courses: list[Course]
    angles: list[Angles]


def two_layer(report: Report, settings: Settings) -> TwoLayers:
    """Courses of the tanh network over ε; where neurons point when they escape, for all p."""
    one, epsilons = Problem(settings.neurons), settings.epsilons
    report.settings |= {"two_layer_level": LEVEL, "two_layer_rtol": RTOL}
    courses = aligned(report, one, epsilons)
    panels = [aligned_angles(report, one)]
    for p in (2, 3):
        blown_up(report, one, epsilons, p)
        panels.append(blown_up_angles(report, one, p))
    return TwoLayers(courses, panels)


def aligned(report: Report, one: Problem, epsilons: tuple[float, ...]) -> list[Course]:
    """tanh: the course of 1 − |cos|, and the escape time, for every ε."""
    g = theory.force(one.x, one.y)
    rate = float(np.linalg.norm(g))
    escapes, courses = [], []
    for eps in epsilons:
        a, w = eps * one.outer, eps * one.inner
        end = theory.linear_escape(a, w, g, 0.1)
        run = one.run(eps, 1, end, save=np.linspace(0.0, end, 200))
        defect = defects(run.observables["inner"], g)
        exact = theory.linear_course(a, w, g, run.t).defect
        size = np.linalg.norm(run.observables["outer"], axis=1)
        _slopes(report, eps, run.t, size, defect, exact, rate)
        escapes.append(np.interp(math.log(0.01), np.log(size), run.t))
        report.add(
            f"two-layer.p1.eps{eps:g}.escape-time",
            theory.linear_escape(a, w, g, 0.01),
            escapes[-1],
            1e-3 / rate,
            unit="flow time",
            text="tanh z: until √Σa² = 0.01",
        )
        courses.append(Course(eps, run.t, np.median(defect, axis=1), np.median(exact, axis=1)))
    report.add(
        "two-layer.p1.escape-slope",
        1 / rate,
        (escapes[-1] - escapes[-2]) / math.log(epsilons[-2] / epsilons[-1]),
        1e-3 / rate,
        unit="flow time",
        text="tanh z: slope of the escape time against ln(1/ε), 1/‖g‖",
    )
    return courses


def _slopes(
    report: Report,
    eps: float,
    t: np.ndarray,
    size: np.ndarray,
    defect: np.ndarray,
    exact: np.ndarray,
    rate: float,
) -> None:
    """Slope of ln(1 − |cos|) while the closed form holds, and how it ceases to hold."""
    gap = np.max(np.abs(np.log(defect / exact)), axis=1)
    valid = size**3 < CUBE * eps
    if not np.any(valid) or size[valid][-1] < 3 * size[0]:
        report.say(f"tanh z, ε = {eps:g}: too large for a slope, as w³ > {CUBE:g} ε so soon")
        return
    late = (size > 5 * size[0]) & (gap > 1e-3) & (gap < 0.1)
    power = np.polyfit(np.log(size[late]), np.log(gap[late]), 1)[0]
    report.say(
        f"tanh z, ε = {eps:g}: 1 − |cos| of the worst neuron departs from the closed form "
        f"as w^{power:.2f} (expected: 3, for ε ≪ w)"
    )
    inside = valid & (t >= 0.5 * t[valid][-1])
    measured, expected = (
        np.polyfit(t[inside], np.mean(np.log(x[inside]), axis=1), 1)[0] for x in (defect, exact)
    )
    report.say(
        f"tanh z, ε = {eps:g}: slope of ln(1 − |cos|) {measured:.5f}, by the closed form "
        f"{expected:.5f}, −2‖g‖ = {-2 * rate:.5f}"
    )
    report.add(
        f"two-layer.p1.eps{eps:g}.angle-slope",
        expected,
        measured,
        0.01 * 2 * rate,
        unit="1/flow time",
        text="tanh z: slope of ln(1 − |cos|), mean over neurons",
    )


def aligned_angles(report: Report, one: Problem) -> Angles:
    """tanh z: all neurons of one network, at the time when they have size 0.01."""
    g = theory.force(one.x, one.y)
    a, w = SHOWN * one.outer, SHOWN * one.inner
    run = one.run(SHOWN, 1, theory.linear_escape(a, w, g, 0.01))
    inner, outer = (run.observables[n][-1] for n in ("inner", "outer"))
    course = theory.linear_course(a, w, g, run.t[-1])
    return _judged_angles(report, one, 1, angles(inner), np.sign(outer), angles(course.inner))


def blown_up(report: Report, one: Problem, epsilons: tuple[float, ...], p: int) -> None:
    """The network until its first neuron has grown to LEVEL, and what that neuron conserves."""
    name, bound = NAMES[p], one.bound(p)
    measured = []
    for eps in epsilons:
        a, w = eps * one.outer, eps * one.inner
        later = theory.two_layer_escapes(a, w, one.x, one.y, p, 2 * LEVEL)
        escapes = theory.two_layer_escapes(a, w, one.x, one.y, p, LEVEL)
        first = int(np.nanargmin(escapes.time))
        around = (later.time - escapes.time)[first] * np.linspace(-1.0, 1.0, 41)
        save = np.clip(escapes.time[first] + around, 0.0, later.time[first])
        run = one.run(eps, p, later.time[first], save=save)
        inner, outer = run.observables["inner"], run.observables["outer"]
        rho = np.sqrt(p * outer**2 + np.sum(inner**2, axis=2))[:, first]
        # near a blow-up ρ^{1−p} is linear in time
        crossing = np.interp(-(LEVEL ** (1 - p)), -(rho ** (1 - p)), run.t)
        measured.append(crossing)
        report.add(
            f"two-layer.p{p}.eps{eps:g}.escape-time",
            1.0,
            crossing / escapes.time[first],
            bound,
            text=f"{name}: flow time until the first neuron has ρ = {LEVEL:g}, over its prediction",
        )
        kept = np.sum(inner**2, axis=2) - p * outer**2
        inside = rho <= LEVEL
        drift = np.max(np.abs(kept - kept[0])[inside] / rho[inside, None] ** 2)
        report.add(
            f"two-layer.p{p}.eps{eps:g}.balance",
            0.0,
            float(drift),
            bound,
            text=f"{name}: largest change of ‖w‖² − {p}a², relative to ρ²",
        )
        if eps == epsilons[-1]:
            i = int(np.argmin(np.abs(np.log(rho / LEVEL))))
            limits = theory.orientations(one.x, one.y, p)
            there = int(np.sum(nearest(angles(inner[i]), limits) < NEAR))
            report.say(
                f"{name}: when the first neuron of the network escapes, {there} of {len(a)} point "
                "to an orientation; the others get there at their own blow-up"
            )
    power = math.log(measured[-1] / measured[-2]) / math.log(epsilons[-1] / epsilons[-2])
    report.add(
        f"two-layer.p{p}.escape-exponent",
        float(1 - p),
        float(power),
        bound,
        text=f"{name}: exponent of ε in the escape time",
    )


def blown_up_angles(report: Report, one: Problem, p: int) -> Angles:
    """Every neuron alone from ε = 1e-5 to LEVEL: where it points, and how many orientations."""
    a, w = SHOWN * one.outer, SHOWN * one.inner
    escapes = theory.two_layer_escapes(a, w, one.x, one.y, p, LEVEL)
    alive = np.isfinite(escapes.time)
    outer, inner = one.alone(SHOWN, p, np.where(alive, escapes.time, 1.0))
    angle = np.where(alive, angles(inner), math.nan)
    sign = np.where(alive, np.sign(outer), math.nan)
    return _judged_angles(report, one, p, angle, sign, escapes.angle)


def _judged_angles(
    report: Report,
    one: Problem,
    p: int,
    angle: np.ndarray,
    sign: np.ndarray,
    predicted: np.ndarray,
) -> Angles:
    """Angle of every neuron at its escape against its prediction, and the orientations reached."""
    limits = theory.orientations(one.x, one.y, p)
    gap = np.abs(np.angle(np.exp(1j * (angle - predicted))))
    alive = np.isfinite(angle)
    report.add(
        f"two-layer.p{p}.angles",
        0.0,
        float(np.max(gap[alive])),
        one.bound(p),
        unit="rad",
        text=f"{NAMES[p]}: largest error of an angle at escape",
    )
    wanted = limits.angle[limits.attracts != 0]
    distance = nearest(angle[alive], limits)
    which = np.argmax(np.cos(angle[alive, None] - wanted[None]), axis=1)
    reached = np.unique(which[distance < NEAR])
    report.add(
        f"two-layer.p{p}.orientations",
        len(wanted),
        len(reached),
        0.0,
        text=f"{NAMES[p]}: orientations reached within {NEAR:g} rad",
    )
    report.say(
        f"{NAMES[p]}: {len(limits.angle)} critical angles (at most {2 * p}), {len(wanted)} of them "
        f"attract; {int(np.sum(distance < NEAR))} of {len(angle)} neurons point "
        f"there to {NEAR:g} rad when they escape, {int(np.sum(~alive))} never escape"
    )
    return Angles(p, angles(one.inner), angle, predicted, sign, limits)
