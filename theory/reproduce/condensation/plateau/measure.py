"""Times, ranks, singular values and vectors when ‖W_Q‖ reaches a level, against F of the data.

Both follow up to what happens before u settles, which is the same at every small ε: it drops out
of differences.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import optimize

import gflow
import theory
from gflow.internal import svd
from theory import condensation as co

from ... import Report
from ...scales import LOG10
from ..key_query_spectra import excess, factors, predicted_spectra, spectra
from ..settings import Settings
from .problem import (
    EXAMPLES,
    LEVEL,
    OUTER,
    TOKENS,
    WIDTH,
    Problem,
    key_query,
    model,
    problem,
)

#: The run whose singular values are shown in time.
SHOWN = 16
#: Up to ε = 10^−SETTLED the plateau is longer than what u needs to settle.
SETTLED = 8


class Second(NamedTuple):
    """A run through the plateau, the time when ‖W_Q‖ = LEVEL, and the leaf W_QW_Kᵀ then."""

    run: gflow.Trajectory
    time: float
    leaf: dict


class InTime(NamedTuple):
    """log₁₀ singular values of W_Q, W_K and angles of their top vectors to F's, over `t`."""

    t: np.ndarray
    values: list[np.ndarray]
    angles: list[np.ndarray]
    #: From mid-plateau on.
    half: int
    predicted: list[np.ndarray]
    end: float


class OverSizes(NamedTuple):
    """Length of the plateau and rank (W_Q, W_K) at its end by −log₁₀ε."""

    exponents: np.ndarray
    times: np.ndarray
    ranks: np.ndarray
    predicted_ranks: np.ndarray


class SecondStage(NamedTuple):
    sigma: np.ndarray
    in_time: InTime
    over_sizes: OverSizes


def second_stage(report: Report, settings: Settings) -> SecondStage:
    """Times and ranks over ε, singular values and vectors in time."""
    one = problem()
    sigma = np.linalg.svdvals(one.F)
    report.settings |= {
        "examples": EXAMPLES,
        "tokens": TOKENS,
        "width": WIDTH,
        "outer": OUTER,
        "level": LEVEL,
    }
    report.say(
        f"Second stage: {EXAMPLES} sequences of {TOKENS} tokens in {WIDTH} dimensions, linear "
        f"readout; σ(F) at u* = {', '.join(f'{s:.5f}' for s in sigma[:3])} …"
    )
    runs = {e: through(one, e, settings.plateau_rtol) for e in settings.plateau_exponents}
    predicted(report, runs, one)
    numbers = SecondStage(
        sigma, in_time(report, runs[SHOWN], one.F), over_sizes(report, runs, one.F)
    )
    report.data(runs[SHOWN].run, "condensation_plateau")
    return numbers


def through(one: Problem, exponent: int, rtol: float) -> Second:
    """From ε = 10^−exponent to ‖W_Q‖ = LEVEL."""
    objective = one.task.objective
    out = gflow.escape(model(exponent), objective, level=OUTER, rtol=rtol)
    # what u needs to settle comes on top of the plateau
    settling = 12 / float(np.linalg.norm(one.F, 2))
    end = co.plateau(one.F, *key_query(exponent), LEVEL).length + settling
    run = gflow.simulate(out.final, objective, t1=end, rtol=rtol, solver=gflow.solvers.Tsit5())
    size = np.log(np.linalg.norm(factors(run.leaves["kq"])[0], axis=(1, 2)) / LEVEL)
    i = int(np.flatnonzero(size >= 0)[0])

    def gap(t: float) -> float:
        query, _ = factors(run.record_at(t)["leaves"]["kq"])
        return float(np.log(np.linalg.norm(query) / LEVEL))

    root, _ = optimize.brentq(gap, run.t[i - 1], run.t[i], xtol=1e-12 * end, full_output=True)
    return Second(run, float(root), run.record_at(root)["leaves"]["kq"])


def predicted(report: Report, runs: dict[int, Second], one: Problem) -> None:
    """Growth rates on all plateaus but those on which u has not yet come to u*; one from half."""
    objective = one.task.objective
    for exponent, second in runs.items():
        if exponent < SETTLED:
            continue
        table = theory.compare(second.run, co.predict(second.run.like, objective))
        report.compare(f"plateau.eps1e-{exponent}", table, f"ε = 1e-{exponent}:")
    shown = runs[SHOWN]
    prediction = co.predict(shown.run.model(t=0.5 * shown.time), objective)
    table = theory.compare(shown.run, prediction)
    report.compare(f"plateau.eps1e-{SHOWN}.mid", table, f"ε = 1e-{SHOWN}, from mid-plateau on:")


def in_time(report: Report, second: Second, F: np.ndarray) -> InTime:
    """Singular values of W_Q and W_K from mid-plateau on, and how u₁ and v₁ come to F's."""
    shown = second.run.t <= second.time
    t = second.run.t[shown]
    leaf = second.run.leaves["kq"].at(shown)
    u, _, vt = svd(F)
    half = int(np.searchsorted(t, 0.5 * second.time))
    found = spectra(leaf)
    values = [logs / LOG10 for _, logs in found]
    start = (w[half] for w in factors(leaf))
    flow = [x / LOG10 for x in predicted_spectra(F, *start, t[half + 1 :] - t[half])]
    angles = []
    for (vectors, _), vector, name in zip(found, (u[:, 0], vt[0]), "QK", strict=True):
        left = vectors[:, :, 0]
        angles.append(np.linalg.norm(left - (left @ vector)[:, None] * vector, axis=1))
        report.add(
            f"plateau.eps1e-16.W{name}.angle",
            0.0,
            angles[-1][-1],
            LEVEL**2,
            unit="rad",
            text="angle of the top singular vector to that of F at the end",
        )
    return InTime(t, values, angles, half, flow, second.time)


def over_sizes(report: Report, runs: dict[int, Second], F: np.ndarray) -> OverSizes:
    """Length of the plateau and rank at its end against ε."""
    rate = float(np.linalg.norm(F, 2))
    exponents = np.array(list(runs))
    logs = exponents * LOG10
    times = np.array([second.time for second in runs.values()])
    ranks, ends, length = [], [], []
    for exponent, second in runs.items():
        leaf = {k: x[None] for k, x in second.leaf.items()}
        ranks.append([float(excess(x)[0]) for _, x in spectra(leaf)])
        start = key_query(exponent)
        length.append(co.plateau(F, *start, LEVEL).length)
        ends.append(
            [float(excess(x)[0]) for x in predicted_spectra(F, *start, np.array([length[-1]]))]
        )
    for i in range(1, len(logs)):
        pair = f"plateau.eps1e-{exponents[i - 1]}-1e-{exponents[i]}"
        # what is left of the way of u to u* at the end of the shorter plateau
        report.add(
            f"{pair}.length-slope",
            1 / rate,
            (times[i] - times[i - 1]) / (logs[i] - logs[i - 1]),
            0.02 / rate,
            unit="flow time",
            text="∂T₂/∂ln(1/ε), 1/σ₁",
        )
        for j, name in enumerate("QK"):
            found, expected = (
                math.log(x[i - 1][j] / x[i][j]) / (logs[i] - logs[i - 1]) for x in (ranks, ends)
            )
            report.add(
                f"{pair}.W{name}.rank-slope",
                expected,
                found,
                0.05 * expected,
                text=f"slope of ln(srank W_{name} − 1) in ln ε",
            )
    late = ", ".join(f"{x:.3f}" for x in (times - np.array(length)) * rate)
    report.say(f"  plateau less its prediction with F at u*, in units of 1/σ₁: {late}")
    return OverSizes(exponents, times, np.array(ranks), np.array(ends))
