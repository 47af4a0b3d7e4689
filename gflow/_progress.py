"""How far a long call is, as a bar of tqdm on standard error."""

import sys
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

from tqdm import tqdm


@runtime_checkable
class Stream(Protocol):
    """What takes text."""

    def write(self, text: str, /) -> object: ...

    def flush(self) -> None: ...


class Bar:
    """A bar up to `total`, or a count where it is None; nothing where nobody would see it.

    It is seen on a terminal and under a cell of a notebook. A file or a pipe gets nothing.
    """

    def __init__(self, shown: bool, total: float | None, unit: str, initial: float = 0.0):
        self._bar, self._above = None, []
        if shown and _seen():
            count = "{n:.6g} {unit}" if total is None else "{n:.6g}/{total:.6g} {unit}"
            left = "" if total is None else "<{remaining}"
            front = "" if total is None else "{percentage:3.0f}%|{bar}| "
            self._bar = tqdm(
                total=total, initial=initial, unit=unit, file=sys.stderr, dynamic_ncols=True,
                bar_format=f"{front}{count} [{{elapsed}}{left}{{postfix}}]",
            )  # fmt: skip

    def to(self, done: float, **notes: object) -> None:
        """Move on to `done`; `notes` stand behind the bar."""
        if self._bar is None:
            return
        self._bar.set_postfix(notes, refresh=False)
        self._bar.update(done - self._bar.n)

    def above(self, stream: Stream) -> Stream:
        """What writes to `stream` as it is, but above the bar where there is one."""
        if self._bar is None:
            return stream
        self._above.append(Above(self._bar, stream))
        return self._above[-1]

    def close(self) -> None:
        """Leave it as it stands."""
        for writer in self._above:
            writer.finish()
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Above:
    """Whole lines to a stream that a bar stands in."""

    def __init__(self, bar: tqdm, stream: Stream):
        self._bar, self._stream, self._begun = bar, stream, ""

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        if lines:
            with self._bar.external_write_mode(file=self._stream):
                self._stream.write("".join(f"{line}\n" for line in lines))
                self._stream.flush()
        return len(text)

    def flush(self) -> None:
        """A line that has begun waits for its end."""

    def finish(self) -> None:
        """Write what has no end of line."""
        if self._begun:
            self.write("\n")


def _seen() -> bool:
    """Whether standard error is a terminal, or a notebook shows it."""
    return sys.stderr.isatty() or type(sys.stderr).__module__.startswith("ipykernel")
