"""An experiment in a process of its own, whose death is its own.

The child is a fresh interpreter, `python -m theory.reproduce._child`, with the parent's import
path. What it prints passes through as it comes; how it ended is in its report.json.
"""

import codecs
import collections
import contextlib
import json
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gflow.internal import Stream

from . import _document as document
from ._interpreter import ending, interpreter
from ._registry import Entry

#: Lines of the child's standard error that report.json keeps when it dies, and their length.
KEPT, WIDTH = 40, 300


def run_apart(
    entry: Entry, folder: Path, *, fast: bool, live: bool, out: Stream, errors: Stream
) -> dict[str, Any]:
    """Run an experiment in a process of its own; returns the content of its report.json.

    What it says goes to `out` and `errors`, as it comes if `live`. The child is stopped when this
    process is interrupted or terminated, and report.json says so.
    """
    content = _blank(entry, fast)
    document.write(folder, content)
    task = {
        "reference": entry.reference,
        "folder": str(folder.resolve()),
        "fast": fast,
        "live": live,
    }
    command, environment = interpreter("_child", json.dumps(task))
    began, last = time.monotonic(), collections.deque[str](maxlen=KEPT)
    how = "Interrupted."
    try:
        with _terminable():
            status = _passed_through(command, environment, out, errors, last)
        how = ending(status, last)
    finally:
        content = _read(folder, content)
        if content["error"] is not None or how:
            content["error"] = "\n".join([how or str(content["error"]), *last])
            content["seconds"] = round(time.monotonic() - began, 3)
            content["passed"] = False
            document.write(folder, content)
    return content


def _blank(entry: Entry, fast: bool) -> dict[str, Any]:
    """The report of an experiment that never said anything."""
    return {
        "name": entry.name,
        "paper": entry.paper,
        "versions": {},
        "settings": {"fast": fast},
        "seconds": 0.0,
        "rows": [],
        "figures": [],
        "runs": [],
        "error": "The experiment never began.",
        "passed": False,
    }


def _read(folder: Path, otherwise: dict[str, Any]) -> dict[str, Any]:
    try:
        return document.read(folder)
    except (OSError, ValueError):
        return otherwise


def _passed_through(
    command: list[str],
    environment: dict[str, str],
    out: Stream,
    errors: Stream,
    last: collections.deque[str],
) -> int:
    """Exit status of `command`; its output is ours, and `last` keeps its last errors."""
    child = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    lanes = (
        (child.stdout, out, collections.deque[str](maxlen=0)),
        (child.stderr, errors, last),
    )
    threads = [threading.Thread(target=_pump, args=lane, daemon=True) for lane in lanes]
    for thread in threads:
        thread.start()
    try:
        status = child.wait()
    finally:
        if child.poll() is None:
            child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(5.0)
            child.kill()
            child.wait()
        for thread in threads:
            # a grandchild that lives on may hold the pipe open
            thread.join(5.0)
    return status


def _pump(source: Any, sink: Any, last: collections.deque[str]) -> None:
    """Copy bytes as they come, and the last lines; go on when nobody listens any more."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    tail = ""
    while piece := source.read1(65536):
        text = decoder.decode(piece)
        with contextlib.suppress(OSError, ValueError):
            sink.write(text)
            sink.flush()
        *lines, tail = (tail + text).split("\n")
        last.extend(line[:WIDTH] for line in lines)
    if tail:
        last.append(tail[:WIDTH])
    source.close()


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM as an exception, so that it ends the child as well."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, _: Any) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
