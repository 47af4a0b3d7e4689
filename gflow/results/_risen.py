"""Motion out of rounding: a plateau that is left though nothing on it has grown.

A smooth flow whose weights are at rest leaves only along something that grows while they rest: a
dormant mode, whose log-size is followed however small it is, or a weight that has been far
smaller since the start. Weights of order one that rest at a saddle unstable in them, a matrix of
rank one that would sooner turn, a symmetric start, leave it as well, by a part that is below
the error of the steps; what is then followed is the growth of that error, and its time is that
of no solution.
"""

import numpy as np

from ._activity import GREW, Courses
from ._plateaus import FLAT
from ._record import Record
from ._stages import history


def first_risen(trajectory: Record, rtol: float) -> int | None:
    """Recorded step of the first plateau that is left out of rounding, None where none is.

    The weights rest on it to `rtol` or their last digits, nothing switches in the transition
    after it, the loss falls by more than `rtol` of what it falls by (an explicit method rings by
    less), and no mode is larger in between that was far smaller before.
    """
    descent, loss = trajectory.descent, trajectory.loss
    flat = descent <= max(FLAT, rtol**2) * np.max(descent, initial=0.0)
    if not np.any(np.diff(flat.astype(int)) < 0):  # no rest is left again
        return None
    found, passed, active = history(trajectory)
    steps = [0, *(p.plateau for p in passed)]
    for k, transition in enumerate(passed):
        start, end = steps[k], steps[k + 1]
        falls = loss[start] - loss[end] > rtol * np.ptp(loss)
        if not (transition.visible and flat[start] and falls):
            continue
        same = all(np.array_equal(active[k][n], active[k + 1][n]) for n in active[k])
        if same and not _grew(found, start, end):
            return start
    return None


def _grew(found: Courses, start: int, end: int) -> bool:
    """Whether a mode was thirtyfold larger in between, and off its scale.

    One below the digits of its leaf's largest has moved nothing. Products are followed at any
    size, also where they come back from zero. A plain weight is where it is thirtyfold what it
    was at the start of the run as well: one that has sunk and returns is no more than the error
    of the steps.
    """
    digits = np.log(np.finfo(float).eps)
    for course in found.leaves.values():
        logs = course.logs[start : end + 1]
        top = np.max(logs, axis=0)
        with np.errstate(invalid="ignore"):
            grew = (top - logs[0] >= GREW) & (top >= digits + np.max(top, initial=-np.inf))
            if course.small:
                grew &= top > course.threshold
            else:
                grew &= np.isfinite(course.logs[0]) & (top - course.logs[0] >= GREW)
        if np.any(grew):
            return True
    return False
