"""Simplex tokens: 12 against 6 of them, merged tokens, and boosted attention."""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from gflow import depth
from theory import token_reduction

from ... import Report
from ..problem import Boosted

PAPER = "Frequency-aware token reduction, arXiv 2511.21477 (abstract)"
BETA, BOOST, TOKENS = 4.0, 0.5, 6


class Mergers(NamedTuple):
    """ln ρ of 12 and of 6 tokens, measured and predicted."""

    measured: dict[int, np.ndarray]
    predicted: dict[int, np.ndarray]


class Thresholds(NamedTuple):
    """ln ρ under boosted attention, by ρ₀ over the threshold, measured and predicted."""

    threshold: float
    measured: dict[float, np.ndarray]
    predicted: dict[float, np.ndarray]


def mergers(report: Report) -> Mergers:
    """What fewer tokens keep, layer by layer, and the + ln m of a merger."""
    measured, predicted, one = {}, {}, []
    block = depth.Repeated(Boosted(jnp.asarray(1.0), jnp.asarray(0.0)), 6)
    for n in (12, 6):
        run = depth.follow(block, jnp.eye(n))
        measured[n] = run.observables["log_residual"] - 0.5 * math.log(n - 1)
        predicted[n] = token_reduction.layer_sizes([n] * 6, 1.0)
        small = depth.follow(block, 1e-3 * np.eye(n)).observables["log_residual"]
        one.append(float(small[1]) - 0.5 * math.log(n - 1))
    gain, expected = (x[6] - x[12] for x in (measured, predicted))
    for layer in (1, 4):
        report.add(
            f"fewer.gain.layer{layer}", float(expected[layer]), float(gain[layer]), 1e-11, 1e-12,
            paper=PAPER, text=f"ln of ρ of 6 tokens over that of 12 after {layer} layers",
        )  # fmt: skip
    report.add(
        "fewer.factor", float(token_reduction.merge_factor(12, 6, 1e-6)),
        math.exp(one[1] - one[0]), 1e-9, 1e-11, paper=PAPER,
        text="what one layer leaves of 6 tokens over 12 at ρ = 1e-3: n/n'",
    )  # fmt: skip
    x = np.random.default_rng(8).normal(size=(7, 4))
    x[[2, 3]] = x[0]
    block = depth.Attention(np.eye(4), np.eye(4), np.eye(4))
    groups = [0, 1, 0, 0, 2, 3, 4]
    whole = np.asarray(depth.follow([block], x).final.value)[[0, 1, 4, 5, 6]]
    for counted in (True, False):
        run = depth.follow([depth.Merge(groups, counted=counted), block], x)
        miss = float(np.max(np.abs(np.asarray(run.final.value) - whole)))
        if counted:
            report.add(
                "fewer.merge", 0.0, miss, 1e-13, 1e-15, paper=PAPER,
                text="attention of all tokens is kept by merging equal ones with + ln m",
            )  # fmt: skip
        else:
            report.say(f"Without + ln m attention differs by {miss:.3f}.")
    return Mergers(measured, predicted)


def thresholds(report: Report) -> Thresholds:
    """On both sides of ρ*."""
    threshold = float(token_reduction.boost_threshold(TOKENS, BETA, BOOST))
    measured, predicted = {}, {}
    for share in (0.9, 0.99, 1.01, 1.1):
        start = share * threshold * np.eye(TOKENS)
        run = depth.follow(
            depth.Repeated(Boosted(jnp.asarray(BETA), jnp.asarray(BOOST)), 14), start
        )
        log = run.observables["log_residual"] - 0.5 * math.log(TOKENS - 1)
        exact = token_reduction.layer_sizes([TOKENS] * 14, BETA, share * threshold, BOOST)
        worst = int(np.argmax(np.abs(log - exact) / np.maximum(1.0, np.abs(exact))))
        report.add(
            f"boost.share{share:g}", float(exact[worst]), float(log[worst]),
            1e-9 * max(1.0, abs(float(exact[worst]))), 1e-11, paper=PAPER,
            text=f"ln ρ from {share:g} of the threshold, the worst of 14 layers",
        )  # fmt: skip
        report.add(
            f"boost.side.share{share:g}", float(share > 1.0), float(log[-1] > log[0]), 0.0,
            paper=PAPER, text=f"tokens {'grow' if share > 1.0 else 'collapse'} from {share:g} ρ*",
        )  # fmt: skip
        measured[share], predicted[share] = log, exact
    return Thresholds(threshold, measured, predicted)
