"""Wall and CPU time of runs that are taken in turns."""

import dataclasses
import gc
import statistics
import time
from collections.abc import Callable, Mapping


@dataclasses.dataclass
class Taken:
    """Seconds of several runs of one thing: by the clock, and of all its threads together."""

    wall: list[float] = dataclasses.field(default_factory=list)
    cpu: list[float] = dataclasses.field(default_factory=list)

    @property
    def medians(self) -> dict[str, float]:
        """`seconds` and `cpu_seconds`."""
        return {
            "seconds": statistics.median(self.wall),
            "cpu_seconds": statistics.median(self.cpu),
        }

    def timing(self, run: Callable[[], object]) -> object:
        """The result of one more run."""
        began, used = time.perf_counter(), time.process_time()
        result = run()
        self.cpu.append(time.process_time() - used)
        self.wall.append(time.perf_counter() - began)
        return result


def interleaved(chosen: Mapping[str, Callable[[], object]], repetitions: int) -> dict[str, Taken]:
    """Times of each, taken in turns so that a slow moment of the machine hits all."""
    times = {name: Taken() for name in chosen}
    gc.collect()
    gc.disable()
    try:
        for _ in range(repetitions):
            for name, run in chosen.items():
                times[name].timing(run)
    finally:
        gc.enable()
    return times
