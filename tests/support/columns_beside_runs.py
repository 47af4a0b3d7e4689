"""Predictions of quadratic losses of one matrix, and how far simulated times are from them."""

import numpy as np
from matrices import LOG10, quadratic

import gflow
from theory.comparison._compare import measure


def problem(case, log_alpha=-60 * LOG10):
    seed, d, r = case
    return quadratic(seed, log_alpha, d, r)


def misses(model, objective, prediction, log_alpha, *, rtol=1e-9, decay=0.0):
    """Simulated minus predicted time of every stage, in flow time, and error bars."""
    model = gflow.rescale(model, log_alpha)
    end = prediction.stages[-1].tau * -log_alpha + 40.0 / prediction.stages[-1].rate
    run = gflow.simulate(model, objective, t1=end, rtol=rtol, decay=decay)
    crossings = measure(run, prediction)
    assert all(c is not None for c in crossings)
    times = np.array([c.t for c in crossings if c is not None])
    return times - prediction.at(log_alpha).t, np.array([c.error for c in crossings if c])


def balanced_network(seed, d=3):
    rng = np.random.default_rng(seed)
    u, v, p, q, turn = (np.linalg.qr(rng.standard_normal((d, d)))[0] for _ in range(5))
    scale = np.diag(rng.uniform(0.5, 1.5, d))
    left, right = p @ scale @ turn, q @ scale @ turn
    target = u @ np.diag(np.linspace(2.0, 0.7, d)) @ v.T
    if np.linalg.det(left @ right.T) * np.linalg.det(target) < 0:
        target = target @ (np.eye(d) - 2.0 * np.outer(v[:, 0], v[:, 0]))
    return target, left, right


def judged(gaps, prediction, log_alpha):
    """|Δt|·rate ≤ 1e-3 of every stage, unless its margin says that a rival is near."""
    for gap, stage in zip(gaps, prediction.stages, strict=True):
        if stage.margin * stage.rate * -log_alpha < 10 * LOG10:
            continue
        assert abs(gap) * stage.rate <= 1e-3, (gap, stage)
