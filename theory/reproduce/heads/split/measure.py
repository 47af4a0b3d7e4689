"""Shares of three heads at rest, from starts of 10⁻¹ to 10⁻¹⁰⁰."""

import warnings
from typing import NamedTuple

import numpy as np

import gflow
from theory import heads

from ... import Report
from ..problem import PAPER, SIGMA, Start, U, V, drawn, rank_one
from ..settings import Settings

#: Flow time after the mode is learned in which it comes to rest.
REST = 12.0
#: Exponents at which the power of α is read off.
READ = (1.5, 5.0)


class Split(NamedTuple):
    """α; by seed how far shares are off, and what each head keeps beside the mode; a course."""

    exponents: np.ndarray
    off: np.ndarray
    beside: np.ndarray
    course: tuple[np.ndarray, np.ndarray, np.ndarray]


def split(report: Report, settings: Settings) -> Split:
    """What is left of a share is α² ln(1/α); a head itself keeps O(α) beside the mode."""
    off, beside = np.zeros((2, settings.seeds, len(settings.exponents)))
    course = None
    for seed in range(settings.seeds):
        start = drawn(seed)
        predicted = heads.shares(start.left, start.right, -SIGMA * np.outer(U, V))
        for k, exponent in enumerate(settings.exponents):
            runs = runs_to_rest(start, exponent)
            weights = np.asarray(runs[-1].observables["w"][-1])
            bar = float(np.max(runs[-1].error["w"][-1])) / SIGMA
            parts = np.einsum("hmn,m,n->h", weights, U, V)
            found = parts / SIGMA
            worst = int(np.argmax(np.abs(found - predicted)))
            alpha = 10.0**-exponent
            allowed = scale(start) * alpha**2 * exponent * np.log(10.0)
            report.add(
                f"split.alpha1e-{exponent}.seed{seed}", float(predicted[worst]),
                float(found[worst]), allowed + 1e-9, bar, paper=PAPER,
                text=f"the worst share of three heads at rest, α = 1e-{exponent}",
            )  # fmt: skip
            off[seed, k] = np.abs(found - predicted)[worst]
            beside[seed, k] = np.max(np.abs(weights - np.einsum("h,m,n->hmn", parts, U, V)))
            if seed == 0 and exponent == settings.exponents[-1]:
                t = np.concatenate([run.t for run in runs])
                modes = [np.einsum("thmn,m,n->th", run.observables["w"], U, V) for run in runs]
                course = t, np.concatenate(modes), predicted
    _order(report, np.array(settings.exponents, float), off, beside)
    assert course is not None
    return Split(np.array(settings.exponents, float), off, beside, course)


def scale(start: Start) -> float:
    """‖Z₀‖²/‖z‖²: how much larger the columns are than what they have of the mode."""
    z = np.einsum("hmr,m->hr", start.left, U) + np.einsum("hnr,n->hr", start.right, V)
    return float((np.sum(start.left**2) + np.sum(start.right**2)) / np.sum(0.5 * z**2))


def runs_to_rest(start: Start, exponent: int) -> list[gflow.Trajectory]:
    """One run, or two: what tells heads apart sinks below rounding when the mode is learned.

    There a run of `Factored` leaves ends and says so. A target of rank one has no later mode that
    would need it, and the rest of the way is that of plain factors.
    """
    learned = exponent * np.log(10.0) / SIGMA
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        first = gflow.simulate(start.model(exponent), rank_one(), t1=learned + REST, rtol=1e-11)
    if float(first.t[-1]) >= learned + REST:
        return [first]
    rest = gflow.simulate(gflow.to_factors(first.final), rank_one(), t1=learned + REST, rtol=1e-11)
    return [first, rest]


def _order(report: Report, exponents: np.ndarray, off: np.ndarray, beside: np.ndarray) -> None:
    """What shares leave out is α² ln(1/α), what is left in W_h beside the mode the first power."""
    near = np.flatnonzero((exponents > READ[0]) & (exponents < READ[1]))
    for seed, rows in enumerate(zip(off / exponents, beside, strict=True)):
        for what, power, row in zip(("share", "beside"), (2.0, 1.0), rows, strict=True):
            slope = float(np.polyfit(-exponents[near], np.log10(row[near]), 1)[0])
            report.add(
                f"split.order_{what}.seed{seed}", power, slope, 0.02, paper=PAPER,
                text="power of α in " + ("what shares are off by over ln(1/α)" if what == "share"
                else "what every head keeps beside the mode"),
            )  # fmt: skip
