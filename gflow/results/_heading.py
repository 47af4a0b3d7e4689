r"""Where weights go that grow for ever: their direction at infinity, and how far they are from it.

Towards a minimum at infinity weights grow like log t (a product of D factors does, a factor like
its D-th root), and their direction arrives like 1/log t. What is added between two late times has
the direction of the end sooner than the whole has: W = Ŵ log t + W̃ of a linear map has it at once.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

#: At which shares of the logarithm of time a run is compared with itself.
_MARKS = 2.0 ** np.array([-2.0, -1.5, -1.0, -0.5, 0.0])

#: What is left of x^{−1/2} once x has doubled, over what it has just changed by.
_SLOWEST = 1.0 / (2.0**0.5 - 1.0)

#: Growth by less than this share, while the logarithm doubles, is that of a weight at rest.
_GROWING = 0.05


class Heading(NamedTuple):
    """Where one weight goes.

    `direction`: of norm one, the weight's at infinity; `left`: the angle to it at the end of the
    run; `error`: how far `direction` itself may be off. Both in radians.
    """

    direction: Float[np.ndarray, "..."]
    left: float
    error: float


def heading(t: np.ndarray, loss: np.ndarray, weight: Callable[[int], np.ndarray]) -> Heading | None:
    r"""The heading of a weight at the last of the times `t`, which count from the start of the run.

    With x = log(t/t_half), t_half the time at which the loss has first lost half of what it loses:
    what W gained from x/2 to x is the direction. Its error is what is left to turn if it turns like
    x^{−1/2} or faster, from the largest angle to what W gained in four parts since x/4. A weight
    that has stopped growing keeps its own direction, known to its last increment.
    None where the loss has not fallen, at times that are too early to be told apart, and for a
    weight that is zero.

    `weight`: the weight at a row.
    """
    lost = np.flatnonzero((loss <= 0.5 * (loss[0] + loss[-1])) & (t > 0.0))
    if not lost.size:
        return None
    first = int(lost[0])
    x = np.log(t[first:] / t[first])
    if not x[-1] > 1.0:
        return None

    def at(mark: float) -> np.ndarray:
        i = int(np.clip(np.searchsorted(x, mark), 1, len(x) - 1))
        share = (mark - x[i - 1]) / (x[i] - x[i - 1])
        before, after = (np.asarray(weight(first + j), float) for j in (i - 1, i))
        return before + share * (after - before)

    seen = [at(mark) for mark in _MARKS * x[-1]]
    late = seen[-1]
    size = float(np.linalg.norm(late))
    if size == 0.0:
        return None
    gained = late - seen[2]
    grown = float(np.linalg.norm(gained)) / size
    if grown < _GROWING:
        return Heading(late / size, grown, grown)
    direction = gained / (grown * size)
    turned = max(angle(b - a, direction) for a, b in itertools.pairwise(seen))
    return Heading(direction, angle(late, direction), _SLOWEST * turned)


def angle(a: np.ndarray, b: np.ndarray) -> float:
    """Between two directions, to all its digits where it is small; π of a zero."""
    norms = float(np.linalg.norm(a)), float(np.linalg.norm(b))
    if 0.0 in norms:
        return float(np.pi)
    a, b = a / norms[0], b / norms[1]
    return float(2.0 * np.arctan2(np.linalg.norm(a - b), np.linalg.norm(a + b)))
