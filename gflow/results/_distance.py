"""How far two runs of one model are from each other, at the same times."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ._record import Record


class Distance(NamedTuple):
    """Times that both runs cover, and ‖W − W'‖ over the weights of all leaves at each of them."""

    t: Float[np.ndarray, " times"]
    distance: Float[np.ndarray, " times"]


def distance(one: Record, other: Record) -> Distance:
    """At the recorded times of the run without a flow, or else of `one`."""
    stands, moves = (one, other) if other.resolver is not None else (other, one)
    if moves.resolver is None:
        raise ValueError(
            "Neither of the two runs has its flow, so that they share no times: compare a run of "
            "gflow.descend, or one from a file, with one of gflow.simulate in this session."
        )
    leaves = stands.whole.leaves
    if set(leaves) != set(moves.leaves):
        raise ValueError(
            f"One run has the leaves {', '.join(sorted(leaves))}, the other "
            f"{', '.join(sorted(moves.leaves))}: they are not of one model."
        )
    for run in (stands, moves):
        if run.counts_steps:
            raise ValueError(
                "A run whose t counts steps has no flow time: give descend learning_rate=, so that "
                "t = Σ η."
            )
    whole = stands.whole
    rows = np.flatnonzero((whole.t >= moves.t[0]) & (whole.t <= moves.t[-1]))
    if not rows.size:
        raise ValueError(
            f"One run covers t = {whole.t[0]:.6g} … {whole.t[-1]:.6g}, the other "
            f"{moves.t[0]:.6g} … {moves.t[-1]:.6g}: they have no times in common."
        )
    found = moves.record_at(whole.t[rows])["leaves"]
    square = np.zeros(len(rows))
    for name, leaf in leaves.items():
        off = np.asarray(leaf["value"])[rows] - np.asarray(found[name]["value"])
        square += np.sum(off.reshape(len(rows), -1) ** 2, axis=1)
    return Distance(whole.t[rows], np.sqrt(square))
