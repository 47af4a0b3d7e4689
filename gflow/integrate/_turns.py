"""Which of two methods the members of a batch take their next round by.

Step by step, as a single run switches, a batch would compute both methods for every member. Here a
round is of one method, a member for which it is the other's turn waits for the next, and between
two rounds those of one kind are collected.
"""

import numpy as np

from ..solvers._switching import Switching
from ..solvers._turn import Turn


class Turns:
    """Which members are `stiff`, at first none, and the `steps` that each took by either method."""

    def __init__(self, solver: Switching, members: int):
        self.methods = Turn(solver, stiff=False), Turn(solver, stiff=True)
        self.stiff = np.zeros(members, bool)
        self.steps = {name: np.zeros(members, int) for name in ("explicit_steps", "stiff_steps")}

    def next(self, left: np.ndarray) -> np.ndarray:
        """Of the members left those that advance now: the kind of which there are more."""
        stiff = self.stiff[left]
        return left[stiff == (2 * np.sum(stiff) > len(left))]

    def method(self, members: np.ndarray) -> Turn:
        """Of these members, which are of one kind."""
        return self.methods[int(self.stiff[members[0]])]

    def after(self, members: np.ndarray, count: np.ndarray, turned: np.ndarray) -> None:
        """A round took these members `count` steps, and then it is the other's turn for some."""
        name = "stiff_steps" if self.stiff[members[0]] else "explicit_steps"
        self.steps[name][members] += count
        self.stiff[members] ^= turned
