"""Escapes beside blow-up times, bounds and limits, and the rates at which weights condense."""

import math
from typing import Any, NamedTuple

import numpy as np

import gflow
import theory
from theory import condensation as co
from theory.condensation import EffectiveChain, effective_course, stable_rank

from ... import Report
from ..settings import Settings
from .problem import WIDTH, Start, chain, gaussian, start

#: The norm to which the starts are followed.
FAR = 1e5
SOURCE = "2510.06954 (Chen, Luo 2025)"


class Energy(NamedTuple):
    """One start in the clock εm·t: E simulated and of the reduced course, bound and blow-up."""

    t: np.ndarray
    energy: np.ndarray
    course_t: np.ndarray
    course_energy: np.ndarray
    bound: float
    blow_up: float


class Widths(NamedTuple):
    """Quartiles of T*√d by width, of so many starts."""

    sizes: np.ndarray
    quartiles: np.ndarray
    starts: int


class Rate(NamedTuple):
    """A distance from rank one, and the multiple of τ² that it comes to."""

    label: str
    found: np.ndarray
    factor: float


class Rates(NamedTuple):
    """At times τ left: three distances from rank one, cosines of W_V's columns with v."""

    tau: np.ndarray
    rates: list[Rate]
    predicted: np.ndarray
    simulated: np.ndarray


class Escapes(NamedTuple):
    energies: list[Energy]
    widths: Widths
    rates: Rates


def escapes(report: Report, settings: Settings) -> Escapes:
    """Bounds, times over widths, and the rates at which weights condense."""
    starts = [start(seed) for seed in range(3)]
    outs = [gflow.escape(one.model, EffectiveChain(one.v), level=FAR, rtol=1e-11) for one in starts]
    return Escapes(
        energies(report, starts, outs), widths(report, settings), rates(report, starts[0], outs[0])
    )


def energies(report: Report, starts: list[Start], outs: list[gflow.Trajectory]) -> list[Energy]:
    """E(t) above its bound, as E^{−1/3} against t, where the bound is a line of slope −1."""
    found = []
    for i, (one, out) in enumerate(zip(starts, outs, strict=True)):
        table = theory.compare(out, blow_up(one))
        report.compare(
            f"escape.start{i}", table, f"a' = Bc, B' = acᵀ, c' = Bᵀa, d = {WIDTH}, start {i}:"
        )
        time, bounds = co.blow_up_time(*one.chain), co.blow_up_bounds(*one.chain)
        course = effective_course(*one.chain, growth=100.0)
        ends = float(bounds.upper), float(time)
        found.append(Energy(out.t, -out.loss, course.t, course.energy, *ends))
    return found


def blow_up(one: Start) -> theory.Prediction:
    """T*, and E ≥ (E₀^{−1/3} − t)^{−3} up to it."""
    a, b, c = one.chain
    time, line = co.blow_up_time(a, b, c), float(a @ b @ c) ** (-1 / 3)

    def end(run: gflow.Trajectory) -> tuple[float, float]:
        # E^{−1/3} is T* − t to the order (T* − t)³
        left = (-float(run.loss[-1])) ** (-1 / 3)
        return float(run.t[-1]) + left, run.at_norm(0.9 * FAR).error + left**3

    def above(run: gflow.Trajectory) -> theory.Reading:
        energy = -run.loss
        root = energy ** (-1 / 3)
        bar = np.asarray(run.error["loss"]) * root / (3.0 * energy) + np.asarray(run.error["t"])
        return theory.Reading(np.maximum(root - (line - run.t), 0.0), bar, line)

    about: Any = {"source": SOURCE, "validity": "outer weights small, attention uniform"}
    return theory.Prediction.of(
        theory.Number("blow-up time", float(time), end, float(time.error), "its own accuracy",
                      unit="εm·flow time", **about),
        theory.Curve("E^(-1/3) above its line", np.zeros_like, read=above, **about),
    )  # fmt: skip


def widths(report: Report, settings: Settings) -> Widths:
    """T*√d over widths, with Gaussian starts of unit variance."""
    sizes, starts = 2 ** np.arange(1, settings.largest_width + 1), settings.starts
    times, inside = np.zeros((len(sizes), starts)), []
    for i, d in enumerate(sizes):
        for seed in range(starts):
            a, b, c = gaussian(int(d), seed)
            time = co.blow_up_time(a, b, c)
            times[i, seed] = time * math.sqrt(d)
            if d <= 32 and a @ b @ c > 0:
                lower, upper = co.blow_up_bounds(a, b, c)
                inside.append(lower <= time <= upper)
    report.add(
        "widths.share-within-bounds",
        1.0,
        float(np.mean(inside)),
        0.0,
        text=f"share of {len(inside)} blow-up times between their bounds, d ≤ 32, E(0) > 0",
    )
    quartiles = np.quantile(times, [0.25, 0.5, 0.75], axis=1)
    low, middle, high = quartiles
    # the standard error of a median of like spread
    errors = 1.25 * (high - low) / 1.35 / math.sqrt(starts)
    bar = float(math.hypot(*errors[-2:]))
    report.add(
        "widths.median-settles",
        middle[-2],
        middle[-1],
        3 * bar,
        bar,
        text=f"median of T*√d at d = {sizes[-1]}, that at d = {sizes[-2]} predicted",
    )
    report.say(
        f"T*√d at d = {sizes[-1]}: median {middle[-1]:.3f} ± {errors[-1]:.3f}, "
        f"quartiles {low[-1]:.3f} and {high[-1]:.3f} ({starts} starts)."
    )
    return Widths(sizes, quartiles, starts)


def rates(report: Report, one: Start, out: gflow.Trajectory) -> Rates:
    """Angles and ranks against τ = T* − t, beside their predicted multiples of τ²."""
    v, first = one.v, np.asarray(one.model.value.value)
    limit = co.blow_up_limit(*one.chain)
    start = max(x[0] for name, x in out.observables.items() if name.endswith(".log_norm"))
    norms = np.geomspace(1.05, 0.9 * FAR, 26) * math.exp(start)
    passages = [out.at_norm(w) for w in norms[norms < 0.9 * FAR]]
    end = (-out.loss[-1]) ** (-1 / 3)
    tau = np.array([p.remaining + end for p in passages])
    a, b, _ = (np.stack(x) for x in zip(*(chain(p.model, v) for p in passages), strict=True))
    value = np.stack([np.asarray(p.model.value.value) for p in passages])
    rest = first - np.outer(v, one.chain[0])
    off = a - np.sum(a * limit.left, axis=1)[:, None] * limit.left
    predicted = co.value_cosines(first, v, a)
    simulated = np.einsum("d,tdk->tk", v, value) / np.linalg.norm(value, axis=1)
    report.add(
        "rates.value-cosines",
        0.0,
        float(np.max(np.abs(np.abs(simulated) - np.abs(predicted)))),
        1e-9,
        text="largest error of cos(column of W_V, v)",
    )
    spread = float(np.sum(rest**2) - np.sum((rest @ limit.left) ** 2))
    angle = np.linalg.norm(off, axis=1) / np.linalg.norm(a, axis=1)
    found = {
        "angle-a": Rate(r"angle of $a$ to $p$", angle, limit.turn),
        "rank-W1": Rate(r"stable rank of $W_1$, less 1", stable_rank(b) - 1, limit.spread),
        "rank-WV": Rate(r"stable rank of $W_V$, less 1", stable_rank(value) - 1, spread),
    }
    # the rates need τ ≪ 1/(2√d); their next term is smaller by τ·2√d
    small = 2 * math.sqrt(WIDTH) * tau
    at = [int(np.argmin(np.abs(np.log(small / x)))) for x in (1e-1, 1e-2)]
    for key, rate in found.items():
        plain = rate.label.replace("$", "")
        slope = np.diff(np.log(rate.found[at]))[0] / np.diff(np.log(tau[at]))[0]
        report.add(f"rates.{key}.exponent", 2.0, slope, small[at[0]], text=f"{plain}: power of τ")
        report.add(
            f"rates.{key}.factor",
            1.0,
            rate.found[at[1]] / (rate.factor * tau[at[1]] ** 2),
            3 * small[at[1]],
            text=f"{plain}: over its multiple of τ², τ·2√d = {small[at[1]]:.2g}",
        )
    return Rates(tau, list(found.values()), predicted, simulated)
