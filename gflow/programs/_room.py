"""Room for compiled programs: a long session does not run out of memory maps.

Linux allows a process `vm.max_map_count` memory maps, most often 65 530. Every compiled XLA
program takes some, from two to some dozens, and XLA dies of a segmentation fault where there are
no more. JAX never forgets a program by itself. Public calls therefore ask for room: beyond a
share of the limit the programs are forgotten, and what is used again compiles again (or is read
from JAX's persistent cache). Arrays, trajectories and running computations keep what they hold.
"""

import gc
import math
from pathlib import Path

import jax

MAPS, LIMIT = Path("/proc/self/maps"), Path("/proc/sys/vm/max_map_count")

#: What JAX reports of a program that it compiles or reads from its persistent cache.
_COMPILATION = "/jax/core/compile/backend_compile_duration"


class Room:
    """Forgets compiled programs when `share` of the memory maps is in use.

    Counting the maps takes milliseconds when there are many, so that they are counted only once
    in `every` programs, or in as many calls.
    """

    def __init__(self, *, share: float = 0.5, every: int = 100):
        self.every, self.releases = every, 0
        self.limit = _limit()
        self.most = share * self.limit
        self._seen = 0

    def noticed(self, count: int = 1) -> None:
        """`count` programs or calls more."""
        self._seen += count

    def make(self) -> bool:
        """Called before something compiles; says whether programs were forgotten."""
        self.noticed()
        if self._seen < self.every:
            return False
        self._seen = 0
        if maps() <= self.most:
            return False
        jax.clear_caches()
        gc.collect()
        self.releases += 1
        # where most of what is left belongs to others, forgetting at every look helps nobody
        left = maps()
        if left > self.most:
            self.most = 0.5 * (left + self.limit)
        return True


def maps() -> int:
    """Memory maps of this process; 0 where nothing counts them."""
    try:
        return MAPS.read_bytes().count(b"\n")
    except OSError:
        return 0


def _limit() -> float:
    """How many maps a process may have; ∞ where nothing limits them."""
    try:
        return float(LIMIT.read_text())
    except OSError:
        return math.inf


room = Room()


def _notice(event: str, duration_secs: float, **kwargs: str | int) -> None:
    if event == _COMPILATION:
        room.noticed()


jax.monitoring.register_event_duration_secs_listener(_notice)
