"""All variants of both transformers at their starts and after training."""

from typing import NamedTuple

import numpy as np

from .. import Report
from .problem import VARIANTS, Network, Stacked
from .settings import Settings


class Pair(NamedTuple):
    """A transformer before and after training, and what came of it."""

    start: Stacked
    trained: Stacked
    loss: float
    held_out: float
    accuracy: float


#: By variant, of every seed.
Trained = dict[str, list[Pair]]


def trained(report: Report, network: Network, settings: Settings) -> Trained:
    """With a table of losses: what a part is good for in training."""
    found: Trained = {}
    lines = [
        f"{network.name}: {settings.layers} layers of width {settings.d}, {settings.steps} steps "
        f"of Adam; nats (frequencies alone: {network.chance:.3f}) and share right, mean of seeds",
        f"  {'':<16} {'seeds':>5} {'training':>9} {'held out':>9} {'right':>7}",
    ]
    for variant in VARIANTS:
        seeds = settings.seeds if variant == "whole" else settings.others
        found[variant] = [_pair(network, variant, seed, settings.steps) for seed in range(seeds)]
        loss, held_out, right = np.mean([pair[2:] for pair in found[variant]], axis=0)
        lines.append(f"  {variant:<16} {seeds:>5} {loss:>9.3f} {held_out:>9.3f} {right:>7.3f}")
    report.say(*lines)
    return found


def _pair(network: Network, variant: str, seed: int, steps: int) -> Pair:
    start = network.start(variant, seed)
    end = network.trained(start, seed, steps)
    held_out = network.held_out
    scores = network.training(end), held_out(end), held_out.accuracy(end)
    return Pair(start, end, *(float(x) for x in scores))
