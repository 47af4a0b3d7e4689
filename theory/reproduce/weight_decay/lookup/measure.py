"""Where the lookup ends and how it gets there, under decays on both sides of 1/K."""

import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np

import gflow
import theory
from gflow.models import DeepLinear
from theory import weight_decay as decayed

from ... import Report
from ..pairs import factors, flows, product, singular_values
from .problem import DECAYS, TOKENS, Lookup, random_start, simplex_start

#: A singular value above this counts.
THRESHOLD = 1e-4
SOURCE = "2410.23819 (Kobayashi, Akram, von Oswald 2024)"


class Ends(NamedTuple):
    """Singular values at the end by decay."""

    decays: np.ndarray
    found: np.ndarray


class Course(NamedTuple):
    """a of W = a(I − 11ᵀ/K) in time under one decay, from `small`."""

    decay: float
    small: float
    t: np.ndarray
    a: np.ndarray


def ends(report: Report) -> Ends:
    """From a random start."""
    start, k = random_start(), TOKENS
    # the slowest deviation has then shrunk by e^-25
    runs = flows(start, Lookup(), DECAYS, 25.0 / decayed.lookup_rates(k, DECAYS).slowest)
    found = np.array([singular_values(*(x[-1] for x in factors(run))) for run in runs])
    limits = decayed.lookup_logit(k, DECAYS)
    report.say(
        "Lookup of K = 6 one-hot tokens by softmax attention, threshold λ = 1/6; λ, predicted "
        "a∞, the six singular values:",
        *(
            f"  {d:5.3f}  {limit:8.5f}  {' '.join(f'{x:.5f}' for x in s)}"
            for d, limit, s in zip(DECAYS, limits, found, strict=True)
        ),
    )
    for decay, run in zip(DECAYS, runs, strict=True):
        table = theory.compare(run, end(start, float(decay)))
        report.compare(f"lookup.lambda{decay:g}", table, f"λ = {decay:g}, from a random start:")
    return Ends(DECAYS, found)


def end(start: DeepLinear, decay: float) -> theory.Prediction:
    """K − 1 equal singular values and one that vanishes, beside what holds for any loss.

    A run has still to move less than it moved in the last two of its slowest times.
    """
    k, wait = TOKENS, 2.0 / float(decayed.lookup_rates(TOKENS, decay).slowest)
    limit = float(decayed.lookup_logit(k, decay))
    read = theory.from_weights(lambda w: np.linalg.svdvals(product(w)))

    def last(run: gflow.Trajectory) -> tuple[np.ndarray, np.ndarray]:
        reading = read(run)
        s, before = np.asarray(reading.value), int(np.searchsorted(run.t, run.t[-1] - wait)) - 1
        if before < 0:
            return s[-1], np.full(k, math.nan)
        w = product(run.observables)
        return s[-1], np.asarray(reading.bar)[-1] + np.linalg.norm(w[-1] - w[before])

    def equal(run: gflow.Trajectory) -> tuple[float, float]:
        s, bar = last(run)
        worst = int(np.argmax(np.abs(s[:-1] - limit)))
        return float(s[worst]), float(bar[worst])

    def vanishing(run: gflow.Trajectory) -> tuple[float, float]:
        s, bar = last(run)
        return float(s[-1]), float(bar[-1])

    def rank(run: gflow.Trajectory) -> tuple[float, float]:
        s, bar = last(run)
        known = bool(np.all(bar < 0.1 * THRESHOLD))
        return (float(np.sum(s > THRESHOLD)) if known else math.nan), 0.0

    size = limit or float(np.linalg.norm(np.asarray(start.product), 2))
    words = "rounding"
    about: Any = {"source": SOURCE, "validity": "the global minimum, d_h ≥ K − 1"}
    numbers = (
        theory.Number("equal singular values", limit, equal, 1e-12, words, size=size, **about),
        theory.Number("last singular value", 0.0, vanishing, 1e-12, words, size=size, **about),
        theory.Number("rank at the end", (k - 1) * (limit > 0), rank, **about),
    )
    prediction = decayed.predict(start, Lookup(), decay=decay)
    return dataclasses.replace(prediction, numbers=numbers)


def courses(report: Report) -> list[Course]:
    """From a simplex start, which the flow keeps one."""
    k, small = TOKENS, 0.05
    start, decays = simplex_start(small), np.array([0.02, 0.08, 0.13, 0.25])
    found = []
    for run, decay in zip(flows(start, Lookup(), decays, 150.0), decays, strict=True):
        table = theory.compare(run, course(start, small, float(decay)))
        report.compare(
            f"lookup.lambda{decay:g}.simplex", table, f"λ = {decay:g}, from a simplex start:"
        )
        a = np.mean(singular_values(*factors(run))[:, : k - 1], axis=1)
        found.append(Course(float(decay), small, run.t, a))
    return found


def course(start: DeepLinear, small: float, decay: float) -> theory.Prediction:
    """W = a(t)(I − 11ᵀ/K), beside what holds for any loss."""
    simplex = np.eye(TOKENS) - 1.0 / TOKENS
    curve = theory.Curve(
        "W",
        lambda t: decayed.lookup_course(small, TOKENS, decay, t)[:, None, None] * simplex,
        1e-11,
        "the accuracy to which a(t) is integrated",
        SOURCE,
        "A = B = sqrt(a) V Oᵀ, mean over the queries",
        read=theory.from_weights(product),
    )
    prediction = decayed.predict(start, Lookup(), decay=decay)
    return dataclasses.replace(prediction, curves=(*prediction.curves, curve))
