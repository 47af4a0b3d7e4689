"""Scaling and coordination of every weight matrix beside random changes of the same size."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from gflow.internal import svd
from theory import post_training

from ... import Report
from ..settings import Settings
from .problem import Network, digits, matrices, text

NETWORKS: dict[str, Callable[[int], tuple[Network, Network]]] = {
    "digits": digits,
    "text": text,
}
WHAT = ("coordination", "spread")
#: Of the null model: between these lie 90 %.
QUANTILES = (0.05, 0.5, 0.95)


class Beside(NamedTuple):
    """A number of each matrix as measured, and the three quantiles of its null model."""

    measured: np.ndarray
    null: np.ndarray

    @property
    def above(self) -> int:
        return int(np.sum(self.measured > self.null[:, 2]))

    @property
    def below(self) -> int:
        return int(np.sum(self.measured < self.null[:, 0]))


def seen(before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
    """Cosine of left and right rotations; standard deviation of ln(σ'/σ) over the modes.

    Of singular vectors with their signs aligned, in the smaller of the two dimensions.
    """
    u, s, vt = svd(before, full_matrices=False)
    u1, s1, vt1 = svd(after, full_matrices=False)
    left, right = u.T @ u1, vt @ vt1.T
    signs = np.where(np.diagonal(left) < 0.0, -1.0, 1.0)
    cosine = post_training.coordination(left * signs, right * signs)
    return float(cosine), float(np.std(np.log(s1 / s)))


def network(report: Report, settings: Settings) -> dict[str, dict[str, Beside]]:
    """By network and by `WHAT`."""
    found = {}
    for name, train in NETWORKS.items():
        rng = np.random.default_rng(0)
        rows, nulls, sizes = [], [], []
        for _, before, after in matrices(*train(settings.training)):
            size = np.linalg.norm(after - before)
            changes = rng.normal(size=(settings.draws, *before.shape))
            changes *= size / np.linalg.norm(changes, axis=(1, 2), keepdims=True)
            drawn = [seen(before, before + change) for change in changes]
            rows.append(seen(before, after))
            nulls.append(np.quantile(drawn, QUANTILES, axis=0))
            sizes.append(size / np.linalg.norm(before))
        measured, null = np.array(rows), np.array(nulls)
        found[name] = {what: Beside(measured[:, k], null[:, :, k]) for k, what in enumerate(WHAT)}
        cosine, spread = found[name]["coordination"], found[name]["spread"]
        report.say(
            f"{name}, tuned: {len(rows)} matrices, changed by {100 * np.median(sizes):.2g} % "
            "(median), beside random changes of the same size",
            f"  left and right rotations: cosine {np.median(cosine.measured):.3f} (median), null "
            f"{np.median(cosine.null[:, 1]):.3f}; {cosine.above} above the null's 95 %, "
            f"{cosine.below} below its 5 %",
            f"  spread of ln(σ'/σ) over the modes: {np.median(spread.measured):.3g}, null "
            f"{np.median(spread.null[:, 1]):.3g}; more uniform than 95 % of the null: "
            f"{spread.below}, less: {spread.above}",
        )  # fmt: skip
    return found
