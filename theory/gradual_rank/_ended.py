"""Why a path ends, in words."""

from collections.abc import Sequence

import numpy as np

from gflow.internal import Flow, coordinate_label

from ._orbits import Orbit
from ._saddle_leaf import SaddleLeaf, layout_of
from ._turns import rate_of_turning


def degenerate(orbit: Orbit, where: str) -> str:
    """That the saddle at the end of an orbit is approached as a power of time."""
    return (
        f"degenerate saddle: the flow creeps into the saddle after {where} as a power of time, not "
        "exponentially (what moves last relaxes there at "
        f"{orbit.approach:.1g} of its speed before: no curvature). What follows has no time of the "
        "form T·Λ + C and is not predicted"
    )


def complete(flow: Flow, parts: Sequence[SaddleLeaf], tau: float) -> str:
    """That nothing grows any more, and what would if rounding were real."""
    if rate := rate_of_turning(flow, parts, layout_of(parts)):
        return (
            "an unstable saddle: nothing that is dormant grows, but a mode feels a force that "
            f"no column is left to learn, and the learned ones turn to it at rate {rate:.3g} "
            "from the part of size α that they have along it. When they do is not predicted. "
            "Give the leaf more columns"
        )
    ended = "complete: nothing that is dormant feels a force that makes it grow"
    if held_back := sum(p.held_back for p in parts):
        ended += f"; decay holds {held_back} back that would"
    if held := sum(int(np.sum(p.at_kink)) for p in parts):
        ended += f"; a kink of the loss holds {held} at zero"
    due = [p.candidates(faint=True) for p in parts]
    faint = [
        (float(d.wait[j]), float(d.rate[j]), i, int(j))
        for i, d in enumerate(due)
        for j in np.flatnonzero(np.isfinite(d.wait))
    ]
    if not faint:
        return ended
    wait, rate, part, item = min(faint)
    what = "1 force counts" if len(faint) == 1 else f"{len(faint)} forces count"
    return (
        f"{ended}. {what} as zero, being little more than rounding: if it is real, that of "
        f"{rate:.2g} would switch {coordinate_label(parts[part].coordinate(item))} at "
        f"T ≈ {tau + wait:.3g}"
    )
