"""On which side of kinks at zero the dormant weights of an orbit are, and whether they stay there.

A weight that a kink holds at zero is released on the orbit to the side that no longer pushes it
back. A dormant weight whose ½ log(s/d) is of order one may change its sign on the orbit.
"""

import dataclasses
from collections.abc import Callable, Sequence

import equinox as eqx
import numpy as np

from gflow.internal import Flow

from ._fast_system import FastSystem, joined
from ._motion import velocities
from ._orbits import Degenerate, Orbit
from ._saddle_leaf import SaddleLeaf

#: Speeds of an orbit that differ by less of the largest do not differ.
_SAME = 1e-6


def choose_sides(
    parts: Sequence[SaddleLeaf],
    orbit: Orbit,
    fast: Callable[[Sequence[SaddleLeaf]], FastSystem],
    floors: Sequence[np.ndarray],
) -> list[SaddleLeaf] | None:
    """Weights held at zero on the side to which the orbit releases them; None where none is.

    `fast`: makes the fast system for the sides that parts are on.

    **Raises:** Degenerate where one is released twice, or where its kink is not convex then: both
    of its sides lead away from it, or the other one does not push (a dead unit).
    """
    held = [np.ravel(p.at_kink) for p in parts]
    if not any(np.any(x) for x in held):
        return None
    states = np.concatenate([orbit.state, joined(orbit.saddle.pieces)[None]])
    pushes, here = [], list(parts)
    for _ in range(2):
        now = fast(here)
        loose = eqx.tree_at(lambda f: f.pieces, now, tuple(p.loose() for p in now.pieces))
        pushes.append(_split(orbit, velocities(loose, states)))
        here = [p.leaning(p.at_kink) for p in here]
    chosen, turned = list(parts), False
    rows = zip(parts, held, *pushes, floors, strict=True)
    for i, (p, over, near, far, floor) in enumerate(rows):
        at = np.flatnonzero(over)
        if not at.size:
            continue
        lean, floor = np.ravel(p.signs())[at], np.broadcast_to(np.ravel(floor), over.size)[at]
        own, other = lean * near[:, at], lean * far[:, at]
        out = (own > floor) | (other < -floor)
        begins = np.diff(out.astype(int), axis=0, prepend=0) > 0
        concave = begins & (own > other + floor)
        if np.any(concave) or np.any(np.sum(begins, axis=0) > 1):
            raise Degenerate(
                f"weights of {p.name!r} that a kink held at zero are released where its other "
                "side does not push them back, or are caught again within one transition; the "
                "limit does not say where they go. Simulate from these factors"
            )
        leave = np.zeros(over.size, bool)
        leave[at] = np.any(other < -floor, axis=0)
        chosen[i] = p.leaning(leave.reshape(p.weight.shape))
        turned |= bool(leave.any())
    return chosen if turned else None


def check_forces(
    parts: Sequence[SaddleLeaf], orbit: Orbit, sided: Callable[[list[np.ndarray], int], Flow]
) -> None:
    """**Raises:** Degenerate where forces on the orbit depend on more than signs that stay.

    `sided`: makes the flow on the other side of some weights, and for other sizes of all.
    """
    none = [np.zeros(p.weight.shape, bool) for p in parts]
    if any(_differs(orbit, sided(none, draw)) for draw in (1, 2)):
        raise Degenerate(
            "in the next transition the force on dormant weights depends on which of them is "
            "larger (ReLU, max), so exponents and factors alone do not fix what they gain. "
            "Simulate from these factors"
        )
    rows = zip(parts, _split(orbit, orbit.state), strict=True)
    crossed = [p.crossed(x, orbit.s) for p, x in rows]
    if any(np.any(x) for x in crossed) and _differs(orbit, sided(crossed, 0)):
        name = next(p.name for p, x in zip(parts, crossed, strict=True) if np.any(x))
        raise Degenerate(
            f"the next transition changes the sign of weights of {name!r} while the loss has a "
            "kink at zero of them; this is not followed. Simulate from these factors"
        )


def _differs(orbit: Orbit, flow: Flow) -> bool:
    """Whether another flow would have moved otherwise along an orbit."""
    other = velocities(dataclasses.replace(orbit.fast, flow=flow), orbit.state)
    miss = np.max(np.abs(other - orbit.velocity))
    return bool(miss > _SAME * np.max(np.abs(orbit.velocity)))


def _split(orbit: Orbit, states: np.ndarray) -> list[np.ndarray]:
    """States of the fast system by parts."""
    sizes = [p.flat().size for p in orbit.fast.pieces]
    return np.split(states, np.cumsum(sizes)[:-1], axis=-1)
