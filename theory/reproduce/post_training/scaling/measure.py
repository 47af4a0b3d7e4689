"""Singular values on their way to κ times what they were."""

from typing import NamedTuple

import numpy as np

import theory
from theory import post_training

from ... import Report
from ..problem import PAPER, trained

VALUES, END = (3.0, 2.0, 1.0, 0.3), 6.0
FACTORS = (1.2, 0.7)


class Scaling(NamedTuple):
    """By factor: times, and singular values over those of the start."""

    runs: dict[float, tuple[np.ndarray, np.ndarray]]


def scaling(report: Report) -> Scaling:
    start, runs = trained(np.array(VALUES), 0), {}
    for factor in FACTORS:
        run = start.towards(factor * start.weight, END)

        def elements(weights: dict[str, np.ndarray]) -> np.ndarray:
            return start.left.T @ weights["w"] @ start.right

        curve = theory.Curve(
            "UᵀWV",
            lambda t, factor=factor: np.einsum(
                "tk,kl->tkl", post_training.scaled(VALUES, factor, t), np.eye(len(VALUES))
            ),
            read=theory.from_weights(elements),
            source=PAPER,
            validity="a balanced start, the target a multiple of it",
        )
        report.compare(
            f"scaling.factor{factor:g}",
            theory.compare(run, theory.Prediction.of(curve)),
            f"Singular values under a target {factor:g} times the start, off-diagonals zero:",
        )
        values = np.linalg.svdvals(run.observables["w"])
        runs[factor] = run.t, values / np.array(VALUES)
    return Scaling(runs)
