"""How far a sweep is: a bar on a terminal, lines of JSON, or what a user does with the numbers."""

import time
from collections.abc import Callable
from typing import NamedTuple

from .._progress import Bar


class SweepProgress(NamedTuple):
    """Runs `done` of `total` (of this process), those that `failed`, and seconds spent and left.

    `left` is NaN before the first chunk is done; `storing` is the part of `seconds` that went into
    writing files.
    """

    done: int
    total: int
    failed: int
    seconds: float
    left: float
    storing: float


#: What is told after every chunk.
Told = Callable[[SweepProgress], object]


class Progress:
    """Counts runs, and tells a bar or a function of them. Nothing is shown but on a terminal."""

    def __init__(self, shown: bool | Told, total: int, done: int, failed: int):
        self.total, self.done, self.failed = total, done, failed
        self.before, self.began, self.storing = done, time.perf_counter(), 0.0
        self.told = shown if callable(shown) else None
        self.bar = Bar(shown is True, total, "runs", done)
        self._tell()

    def add(self, runs: int, failed: int, storing: float = 0.0) -> None:
        self.done += runs
        self.storing += storing
        self.failed += failed
        self._tell()

    def close(self) -> None:
        self.bar.close()

    def _tell(self) -> None:
        self.bar.to(self.done, **({"failed": self.failed} if self.failed else {}))
        if self.told is not None:
            seconds, new = time.perf_counter() - self.began, self.done - self.before
            left = seconds / new * (self.total - self.done) if new else float("nan")
            numbers = (self.done, self.total, self.failed, seconds, left, self.storing)
            self.told(SweepProgress(*numbers))
