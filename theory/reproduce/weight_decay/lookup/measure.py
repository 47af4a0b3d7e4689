"""Where the lookup ends and how it gets there, under decays on both sides of 1/K."""

from typing import NamedTuple

import numpy as np

from theory import weight_decay as theory

from ... import Report
from ..pairs import MARGIN, RTOL, factors, flows, singular_values
from .problem import DECAYS, TOKENS, Lookup, random_start, simplex_start


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
    k = TOKENS
    # the slowest deviation has then shrunk by e^-25
    t1 = 25.0 / theory.lookup_rates(k, DECAYS).slowest
    runs = flows(random_start(), Lookup(), DECAYS, t1)
    found = np.array([singular_values(*(x[-1] for x in factors(run))) for run in runs])
    limits = theory.lookup_logit(k, DECAYS)
    tolerance = MARGIN * np.exp(-25.0) * np.max(limits)
    for decay, s, limit in zip(DECAYS, found, limits, strict=True):
        expected = np.append(np.full(k - 1, limit), 0.0)
        worst = int(np.argmax(np.abs(s - expected)))
        report.add(
            f"lookup.lambda{decay:g}.singular-values",
            expected[worst],
            s[worst],
            tolerance,
            text="the singular value farthest from its prediction",
        )
        report.add(
            f"lookup.lambda{decay:g}.rank",
            float((k - 1) * (limit > 0)),
            float(np.sum(s > 1e-4)),
            0.0,
            text="rank, #{s > 1e-4}",
        )
    report.say(
        "Lookup of K = 6 one-hot tokens by softmax attention, threshold λ = 1/6; λ, predicted "
        "a∞, the six singular values:",
        *(
            f"  {d:5.3f}  {limit:8.5f}  {' '.join(f'{x:.5f}' for x in s)}"
            for d, limit, s in zip(DECAYS, limits, found, strict=True)
        ),
    )
    return Ends(DECAYS, found)


def courses(report: Report) -> list[Course]:
    """From a simplex start, which the flow keeps one."""
    k, small = TOKENS, 0.05
    decays = np.array([0.02, 0.08, 0.13, 0.25])
    found = []
    for run, decay in zip(
        flows(simplex_start(small), Lookup(), decays, 150.0), decays, strict=True
    ):
        a = np.mean(singular_values(*factors(run))[:, : k - 1], axis=1)
        exact = theory.lookup_course(small, k, decay, run.t)
        report.add(
            f"lookup.lambda{decay:g}.course",
            0.0,
            float(np.max(np.abs(a - exact))),
            MARGIN * RTOL,
            text="largest |a(t) − exact| from a simplex start",
        )
        found.append(Course(float(decay), small, run.t, a))
    return found
