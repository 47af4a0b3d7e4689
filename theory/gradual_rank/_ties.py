"""Modes that are due at once: whether they enter one orbit, and what they share of it."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gflow.internal import (
    Coordinate,
    coordinate_label,
)

from ._joint_columns import JointColumns
from ._orbits import Degenerate
from ._saddle_leaf import SaddleLeaf

#: Candidates whose times agree to this relative accuracy are tied.
TIE = 1e-9
#: Weights of a group that keep the ratio of their squared sizes to this accuracy are copies.
_COPIES = 1e-6


class Winner(NamedTuple):
    part: int
    item: int
    rate: float
    size: float


def check_tie(
    parts: Sequence[SaddleLeaf], winners: Sequence[Winner], number: int, tau: float
) -> None:
    """Modes that are due at once enter one orbit, if they grow at one rate.

    Their sizes then keep the ratio the factors gave them until the orbit, whatever α is: one
    feature in several heads, equal columns of the data, modes that a symmetry makes alike.
    Columns of one matrix learn orthogonal modes, each with the size that it has.

    **Raises:** ValueError for other ties; Degenerate where heads that have learned share a mode.
    """
    if len(winners) < 2:
        return
    names = ", ".join(coordinate_label(parts[w.part].coordinate(w.item)) for w in winners)
    rates = [w.rate for w in winners]
    if np.ptp(rates) > TIE * abs(rates[0]):
        raise ValueError(
            f"An accidental tie: {names} would switch at the same τ at different rates, and "
            "the limit α → 0 does not decide which comes first. Perturb the data, or give "
            "Hadamard leaves other exponents (Hadamard.from_scales)."
        )
    directed = [w for w in winners if parts[w.part].directed]
    if len({w.part for w in directed}) < 2:
        return  # columns of one matrix learn orthogonal modes
    if len({parts[w.part].kind(w.item) for w in directed}) > 1:
        raise ValueError(
            f"A symmetric tie: {names} grow at the same rate (equal singular values of the "
            f"forces) and switch together at T = {tau:.6g}. How the columns of "
            "several heads share several modes is not predicted. Perturb the data or the "
            "target to tell them apart, or simulate."
        )
    heads = [parts[w.part] for w in directed]
    if any(p.active for p in heads):
        raise Degenerate(
            f"At stage {number} heads of {heads[0].name!r} that learned apart are about to share "
            "a mode, of which they feel equal forces. Their columns then mix across heads, which "
            "is not followed"
        )


def shares(
    parts: Sequence[SaddleLeaf], switched: dict[Coordinate, Winner], leader: Winner
) -> dict[Coordinate, float]:
    """Squares of the sizes of a group, where its weights keep that ratio: copies do.

    Heads of one force share their first mode.
    """
    led = parts[leader.part]
    if isinstance(led, JointColumns):
        first = zip(led.heads, led.shares[:, 0, 0], strict=True) if led.columns.k == 1 else ()
        alone = len(switched) == 1
        return {(name, (*head, 0)): float(x) for (name, head), x in first if alone}
    if len(switched) < 2 or any(math.isnan(w.size) for w in switched.values()):
        return {}
    squares = {c: math.exp(2.0 * (w.size - leader.size)) for c, w in switched.items()}
    total = sum(squares.values())
    found = {c: x / total for c, x in squares.items()}
    if any(parts[w.part].directed for w in switched.values()):
        return {}  # modes of one matrix, or of several that end where their own forces vanish
    sizes = {c: abs(float(parts[w.part].weight[c[1]])) for c, w in switched.items()}
    whole = sum(sizes.values())
    copies = all(abs(sizes[c] - x * whole) <= _COPIES * x * whole for c, x in found.items())
    return found if copies else {}
