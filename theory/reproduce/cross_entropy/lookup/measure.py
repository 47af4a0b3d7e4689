"""One run through three decays: logits grow, rest, and die where λ rises above 1/K."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gflow
import theory
from theory import cross_entropy, weight_decay

from ... import Report
from ..curves.measure import logit, network, objective

PAPER = "Garrod et al. 2025, arXiv 2512.04006; Kobayashi et al. 2024, arXiv 2410.23819"
K, SMALL, RTOL = 6, 1e-30, 1e-10
#: λ, and from which time on.
DECAYS = ((0.0, 0.02), (500.0, 0.1), (700.0, 0.2), (1100.0, 0.05))
END = 3000.0


class Lookup(NamedTuple):
    """The run, a(t), the predicted a(t), and where each λ would end."""

    run: gflow.Trajectory
    a: np.ndarray
    exact: np.ndarray
    rests: list[float]


def decay(t):
    """λ(t), constant by parts."""
    value = DECAYS[0][1]
    for start, rate in DECAYS[1:]:
        value = jnp.where(t >= start, rate, value)
    return value


def course(t: np.ndarray) -> np.ndarray:
    """a(t): the exact course of every part from where the one before has ended."""
    found, a = np.full(t.shape, SMALL), SMALL
    ends = [start for start, _ in DECAYS[1:]] + [END]
    for (start, rate), end in zip(DECAYS, ends, strict=True):
        inside = (t >= start) & (t <= end)
        found[inside] = weight_decay.lookup_course(a, K, rate, t[inside] - start)
        a = float(weight_decay.lookup_course(a, K, rate, np.array([end - start]))[0])
    return found


def lookup(report: Report) -> Lookup:
    """Logits W_KᵀW_Q of K one-hot tokens, query c to attend to key c."""
    model = network(cross_entropy.etf_start(K, SMALL, K, key=jax.random.key(0)))
    ends = [start for start, _ in DECAYS[1:]]
    run = gflow.simulate(model, objective(K), t1=END, decay=decay, rtol=RTOL, save=ends)
    simplex = np.eye(K) - 1.0 / K
    curve = theory.Curve(
        "weight",
        lambda t: course(t)[:, None, None] * simplex,
        lambda t: 1e-9 * np.maximum(course(t), 1e-3),
        "the accuracy of a(t), and logarithms held to rtol over 1500 units of time",
        PAPER,
        "A = B = sqrt(a) V Oᵀ, λ(t) constant by parts",
    )
    report.compare(
        "lookup",
        theory.compare(run, theory.Prediction.of(curve)),
        f"Lookup of {K} tokens from a(0) = {SMALL:g}, λ(t) through four values:",
    )
    a = logit(run)
    rests = [float(weight_decay.lookup_logit(K, rate)) for _, rate in DECAYS]
    at = [int(np.searchsorted(run.t, end)) for end in (*ends, END)]
    for (start, rate), row, rest in zip(DECAYS, at, rests, strict=True):
        bar = float(np.max(run.error["weight"][row])) * K / (K - 1.0)
        report.say(f"λ = {rate:g} from t = {start:g}: a = {a[row]:.6g} at its end, rest {rest:.6g}")
        if start == 0.0:
            left = abs(float(course(np.array([run.t[row]]))[0]) - rest)
            report.add(
                f"lookup.rest.lambda{rate:g}",
                rest,
                float(a[row]),
                1e-8 + left,
                bar,
                paper=PAPER,
                text=f"logit at the end of λ = {rate:g}",
            )
    return Lookup(run, a, course(run.t), rests)
