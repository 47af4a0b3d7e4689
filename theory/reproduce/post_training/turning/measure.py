"""First order in the change of the target, and how left and right turn together."""

from typing import NamedTuple

import numpy as np

from theory import post_training

from ... import Report
from ..problem import PAPER, gaussian, trained
from ..settings import Settings

T, SMALL = 0.5, 1e-5
CHANGES = (1e-2, 1e-3, 1e-4)
WHAT = ("values", "left", "right")


class Orders(NamedTuple):
    """What first order leaves out, a row a change of the target, for values, left and right."""

    changes: np.ndarray
    left_out: np.ndarray


class Coordinations(NamedTuple):
    """By size of the matrix: null model, and (kind, predicted, measured) of changes."""

    null: dict[int, np.ndarray]
    found: dict[int, list[tuple[str, float, float]]]


def orders(report: Report) -> Orders:
    """What first order leaves out is of second."""
    start = trained(np.array([3.0, 2.0, 1.2, 0.4]), 1)
    change = np.random.default_rng(2).normal(size=start.weight.shape)
    left_out = np.zeros((len(CHANGES), 3))
    for k, size in enumerate(CHANGES):
        run = start.towards(start.weight + size * start.left @ change @ start.right.T, T)
        seen = start.seen(run.observables["w"][-1])
        first = post_training.perturbed(start.values, size * change, T)
        left_out[k] = [np.max(np.abs(a - b)) for a, b in zip(seen, first, strict=True)]
    slopes = np.log(left_out[-2] / left_out[-1]) / np.log(CHANGES[-2] / CHANGES[-1])
    for what, slope in zip(WHAT, slopes, strict=True):
        # the next order, and rounding of the last
        report.add(
            f"turning.order.{what}", 2.0, float(slope), 10.0 * CHANGES[-2], 1e-3, paper=PAPER,
            text=f"power of the change in what first order leaves out of the {what}",
        )  # fmt: skip
    return Orders(np.array(CHANGES), left_out)


def coordinations(report: Report, settings: Settings) -> Coordinations:
    """Cosines between left and right rotations: of random changes, and of one direction."""
    null, found = {}, {}
    for size in settings.sizes:
        start = gaussian(size, size)
        null[size] = post_training.null_coordination(start.values, settings.draws, t=T)
        low, middle, high = np.quantile(null[size], [0.025, 0.5, 0.975])
        report.say(
            f"Random changes of a Gaussian matrix of size {size}: cosine of left and right "
            f"rotations {middle:.4f} (95 % within {low:.4f} … {high:.4f})"
        )
        found[size] = []
        for number in range(settings.changes):
            rng = np.random.default_rng(100 + number)
            kinds = {
                "random": rng.normal(size=(size, size)),
                "rank one": np.outer(rng.normal(size=size), rng.normal(size=size)),
            }
            for kind, change in kinds.items():
                change = SMALL * change / np.linalg.norm(change)
                run = start.towards(
                    start.weight + start.left @ change @ start.right.T, T, error_bars=False
                )
                _, left, right = start.seen(run.observables["w"][-1])
                measured = float(post_training.coordination(left, right))
                first = post_training.perturbed(start.values, change, T)
                expected = float(post_training.coordination(first.left, first.right))
                # of second order where two singular values are closest
                gap = np.min(-np.diff(start.values))
                report.add(
                    f"turning.coordination.size{size}.{kind.replace(' ', '_')}{number}",
                    expected, measured, 10.0 * SMALL / gap, 1e-9 / SMALL * 1e-3, paper=PAPER,
                    text=f"cosine of left and right rotations, size {size}, a {kind} change",
                )  # fmt: skip
                found[size].append((kind, expected, measured))
    return Coordinations(null, found)
