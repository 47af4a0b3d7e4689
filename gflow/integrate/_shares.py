"""A batch shared out among the cores: each share is rounds of its own, on a thread of its own.

Compiled code of a small model runs on one core and holds no lock of Python meanwhile, so that
shares do not wait for each other. A member's steps are the same in any share.
"""

import math
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from ..flow._flow import Flow
from ._round import divide, united
from ._run import Rounds
from ._status import Ended, Status

#: Members that a share has at least: fewer fill the registers of a core less well.
LEAST = 32


class Shares:
    """The rounds of all members, in as many shares as there are cores for; read as `Rounds` are."""

    def __init__(
        self,
        flow: Flow,
        *,
        start: np.ndarray,
        end: np.ndarray | None,
        members: int,
        shared: bool,
        width: int,
        **options: Any,
    ):
        count = max(1, min(_cores(), members // LEAST))
        # of one size, for which one program is compiled: the last is filled up with members that
        # have ended
        self.members, self.size = members, -(-members // count)
        parts, fixed = divide(flow, True, shared)
        self.runs, self.batched = [], True
        for k in range(count):
            rows = np.arange(k * self.size, (k + 1) * self.size)
            filling, rows = rows >= members, np.minimum(rows, members - 1)
            run = Rounds(
                flow if count == 1 else united(_taken(parts, rows), fixed),
                start=start[rows],
                end=None if end is None else end[rows],
                members=self.size,
                shared=shared,
                width=min(-(-width // count), self.size),
                **options,
            )
            run.status[filling] = Status.reached
            self.runs.append(run)
        first = self.runs[0]
        self.attempts, self.companion, self.solver = first.attempts, first.companion, first.solver
        self.width = sum(run.width for run in self.runs)

    def of(self, i: int) -> tuple[Rounds, int]:
        """The rounds that member i is in, and its number there."""
        return self.runs[i // self.size], i % self.size

    def flow(self, i: int) -> Flow:
        run, j = self.of(i)
        return run.flow(j)

    def ended(self, i: int) -> Ended:
        run, j = self.of(i)
        return run.ended(j)

    @property
    def first(self) -> Any:
        """What was recorded of the start, members first."""
        return jax.tree.map(self._joined, *(run.first for run in self.runs))

    def _joined(self, *shares: np.ndarray) -> np.ndarray:
        return np.concatenate(shares)[: self.members]

    @property
    def status(self) -> np.ndarray:
        return self._joined(*(run.status for run in self.runs))

    @property
    def stationary(self) -> np.ndarray:
        return self._joined(*(run.stationary for run in self.runs))

    def total(self, name: str) -> int:
        """A number of all members together: `accepted`, `rejected`, `tried` or `room`."""
        return sum(int(np.sum(getattr(run, name))) for run in self.runs)

    @property
    def rounds(self) -> int:
        """Of the share that took most."""
        return max(run.rounds for run in self.runs)

    @property
    def counts(self) -> dict[str, np.ndarray]:
        names = self.runs[0].counts
        return {name: self._joined(*(run.counts[name] for run in self.runs)) for name in names}

    def go(self, max_steps: int, progress: bool = False) -> None:
        """Advance until every member has ended."""
        report = self._report if progress else None
        if len(self.runs) == 1:
            return self.runs[0].go(max_steps, report)
        with ThreadPoolExecutor(len(self.runs)) as pool:
            # what a thread has been told of JAX by a `with` block another one does not know
            if pool.submit(_configuration).result() != _configuration():
                return self._in_turn(max_steps, report)
            # what is compiled is compiled once
            self._share(self.runs[0], max_steps, report, 1)
            ends = [pool.submit(self._share, run, max_steps, report) for run in self.runs]
            try:
                for end in ends:
                    end.result()
            except KeyboardInterrupt:
                self._halt()
        return None

    def _share(self, run: Rounds, max_steps: int, report: Any, rounds: float = math.inf) -> None:
        try:
            run.go(max_steps, report, rounds)
        except BaseException:
            self._halt()
            raise
        if Status.interrupted in run.status:
            self._halt()

    def _in_turn(self, max_steps: int, report: Any) -> None:
        for run in self.runs:
            self._share(run, max_steps, report)

    def _halt(self) -> None:
        for run in self.runs:
            run.halted = True

    def _report(self) -> None:
        ended = sum(status is not None for status in self.status)
        line = f"{ended} of {len(self.status)} members ended, {self.total('accepted')} steps"
        with _printing:
            print(f"\r{line}", end="", file=sys.stderr, flush=True)


_printing = threading.Lock()


def _taken(tree: Any, rows: np.ndarray) -> Any:
    """These rows, on the host: an index of the device compiles a program for every shape."""
    return jax.tree.map(lambda x: jax.device_put(np.asarray(x)[rows]), tree)


def _cores() -> int:
    """Cores that this process may use; an accelerator takes a batch as one."""
    if jax.default_backend() != "cpu":
        return 1
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def _configuration() -> dict[str, Any]:
    """How JAX is configured in this thread."""
    return dict(_values())


def _values() -> Iterator[tuple[str, Any]]:
    for name in jax.config.values:
        try:
            yield name, getattr(jax.config, name)
        except AttributeError:
            continue
