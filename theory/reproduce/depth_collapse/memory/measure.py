"""ln ρ of simplex tokens whose scores are forgotten, leak, or add up."""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from gflow import depth
from theory import hopfield

from ... import Report

PAPER = "Modern Hopfield attention, arXiv 2511.20698 (abstract)"
TOKENS, LAYERS = 6, 40
#: β, what is kept of the scores, what is added.
KINDS = {"attention": (1.0, 0.0, 1.0), "leaky": (4.0, 0.5, 0.5), "accumulated": (1.0, 1.0, 1.0)}


class Memories(NamedTuple):
    """ln ρ by kind, measured and predicted."""

    measured: dict[str, np.ndarray]
    predicted: dict[str, np.ndarray]


def memories(report: Report) -> Memories:
    measured, predicted = {}, {}
    for kind, numbers in KINDS.items():
        beta, keep, fresh = (jnp.asarray(x) for x in numbers)
        run = depth.follow(
            depth.Repeated(depth.HiddenScores(beta, keep, fresh), LAYERS), jnp.eye(TOKENS)
        )
        log = run.observables["log_residual"] - 0.5 * math.log(TOKENS - 1)
        exact = hopfield.layer_sizes(TOKENS, numbers[0], LAYERS, kind)
        worst = 1 + int(np.argmax(np.abs(log[1:] / exact[1:] - 1.0)))
        report.add(
            f"memory.{kind}.layers", float(exact[worst]), float(log[worst]),
            1e-11 * abs(float(exact[worst])), 1e-13 * abs(float(exact[worst])), paper=PAPER,
            text=f"ln ρ with scores {kind}, the worst of {LAYERS} layers (layer {worst})",
        )  # fmt: skip
        measured[kind], predicted[kind] = log, exact
    cubes, leaky, added = (measured[kind] for kind in KINDS)
    laws = {
        "attention.cubic": (3.0, cubes[-1] / cubes[-2], 1e-9),
        "leaky.second-difference": (math.log(0.5), np.diff(leaky, 2)[-1], 1e-9),
        "accumulated.rate": (-1.43924880257, np.diff(added)[-1], 1e-9),
    }
    for name, (expected, found, allowed) in laws.items():
        report.add(
            f"memory.{name}", expected, float(found), allowed, 1e-12, paper=PAPER,
            text=f"the law of {name.replace('.', ', ')}, at layer {LAYERS}",
        )  # fmt: skip
    return Memories(measured, predicted)
