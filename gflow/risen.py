"""Motion out of rounding: a plateau that is left though nothing on it has grown.

A smooth flow whose weights rest to their last digit leaves only along something that grows
while they rest: a dormant mode, whose log-size is followed however small it is. Weights of
order one that rest at a saddle unstable in them, a matrix of rank one that would sooner turn, a
symmetric start, leave it as well, by a part that the digits of these weights do not hold; what
float64 then follows is the growth of a rounding error, and its time is that of no solution.
"""

from typing import Any

import numpy as np

from .activity import GREW, Courses, courses
from .plateaus import FLAT
from .stages import history


def first_risen(trajectory: Any) -> int | None:
    """Recorded step of the first plateau that is left out of rounding, None where none is.

    The weights rest on it to 10⁻¹³, nothing switches in the transition after it, and no mode
    that had grown from small has been larger within it.
    """
    descent = trajectory.descent
    flat = descent <= FLAT * np.max(descent, initial=0.0)
    if not np.any(np.diff(flat.astype(int)) < 0):  # no rest is left again
        return None
    found = courses(trajectory)
    passed, active = history(trajectory, found)
    steps = [0, *(p.plateau for p in passed)]
    for k, transition in enumerate(passed):
        before, after = active[k], active[k + 1]
        start, end = steps[k], steps[k + 1]
        if not (transition.visible and flat[start] and descent[end] < descent[transition.step]):
            continue
        if all(np.array_equal(before[n], after[n]) for n in before) and not _grew(
            found, slice(start, end + 1)
        ):
            return start
    return None


def _grew(found: Courses, span: slice) -> bool:
    """Whether a mode was thirtyfold larger, and off its scale, in between.

    Of plain leaves those that started small; products are followed at any size, also where
    they come back from zero.
    """
    for course in found.leaves.values():
        logs = course.logs[span]
        top = np.max(logs, axis=0)
        with np.errstate(invalid="ignore"):
            grew = (top - logs[0] >= GREW) & (top > course.threshold)
        if np.any(grew & (course.small | ~course.active)):
            return True
    return False
