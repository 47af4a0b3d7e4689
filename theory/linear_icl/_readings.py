"""What is read off a run of attention heads: functions of its weights, and passages of its loss."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float

from gflow import Trajectory
from gflow.internal import Crossing, Quantity, error_bar, first_crossing

from .._closed_form import Curve, Reading

Weights = dict[str, np.ndarray]


class Clock:
    """Flow time of a run against the papers' (τ = 1), and its loss against E(y − ŷ)²."""

    def __init__(self, began: float, speed: float):
        self.began, self.speed, self.share = began, speed, 0.5 * speed

    def paper(self, t: Float[np.ndarray, " times"]) -> Float[np.ndarray, " times"]:
        return self.speed * (t - self.began)

    def run(self, t: float) -> float:
        return self.began + t / self.speed


def passing(run: Trajectory, level: float) -> Crossing | None:
    """When the loss comes down to a level; None where it does not."""
    return first_crossing(run, Quantity(sign=-1.0), -level)


def around(run: Trajectory, step: int, reach: float) -> tuple[int, int] | None:
    """The last step a time `reach` before a step, and the first that much after the next.

    By the lapses of steps, which have digits where those of t are used up.
    """
    before = np.flatnonzero(np.cumsum(run.widths[:step][::-1]) >= reach)
    after = np.flatnonzero(np.cumsum(run.widths[step + 1 :]) >= reach)
    if not before.size or not after.size:
        return None
    return step - 1 - int(before[0]), step + 2 + int(after[0])


def of_weights(function: Callable[[Weights], np.ndarray], names: tuple[str, ...]) -> Callable:
    """Reads a function of weights, and of their squares what small is."""

    def read(run: Trajectory) -> Reading:
        def of(leaves: Any) -> Weights:
            return {name: np.asarray(leaves[name]["value"]) for name in names}

        weights = of(run.leaves)
        main = np.asarray(function(weights), float)
        size = sum(np.sum(x.reshape(len(x), -1) ** 2, axis=1) for x in weights.values())
        if run.refined is None:
            return Reading(main, np.full(main.shape, math.nan), size)
        # as a share of the squares: a bar takes in the steps beside it, which may be far larger
        other = np.asarray(function(of(run.refined["leaves"])), float)
        share = np.reshape(size, (-1, *(1,) * (main.ndim - 1)))
        return Reading(main, share * error_bar(run.times, main / share, other / share), size)

    return read


def kept(
    label: str, weights: Weights, function: Callable[[Weights], np.ndarray], source: str
) -> Curve:
    """The claim that a function of the weights stays as it starts."""
    start = function({name: x[None] for name, x in weights.items()})[0]
    return Curve(
        label, lambda t: np.broadcast_to(start, (len(t), *start.shape)),
        read=of_weights(function, tuple(weights)), constant=True, source=source,
        validity="gradient flow without decay, any loss",
    )  # fmt: skip
