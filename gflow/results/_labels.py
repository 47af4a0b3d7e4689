"""Names of what switches, the same for measured and for predicted stages."""

from collections.abc import Sequence
from typing import Any

import numpy as np

Index = tuple[int, ...]
Coordinate = tuple[str, Index]


def coordinate_label(coordinate: Coordinate) -> str:
    """`weight[2]`, and `kq[head 0, 2]` for a leaf with one row a head."""
    name, index = coordinate
    head = "head " if len(index) > 1 else ""
    return f"{name}[{head}{', '.join(map(str, index))}]"


def switch_label(activated: Sequence[Coordinate], deactivated: Sequence[Coordinate]) -> str:
    """What switches, as `+kq[head 0, 2] −vo[head 0, 1]`."""
    on = [f"+{coordinate_label(c)}" for c in activated]
    off = [f"−{coordinate_label(c)}" for c in deactivated]
    return " ".join([*on, *off]) or "no switch"


def rank_label(rank: Any) -> str:
    """Ranks by leaf, heads separated by commas: `kq 1,0 vo 1,1`."""
    if not isinstance(rank, dict):
        return str(int(rank))
    parts = [f"{n} {','.join(str(int(r)) for r in np.ravel(v))}" for n, v in rank.items()]
    return " ".join(parts)
