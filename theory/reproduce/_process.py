"""An experiment in a process of its own, whose death is its own.

The child is a fresh interpreter, `python -m theory.reproduce.process`, with the parent's import
path. What it prints passes through as it comes; how it ended is in its report.json.
"""

import codecs
import collections
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import _document as document
from ._registry import Experiment

#: Lines of the child's standard error that report.json keeps when it dies, and their length.
KEPT, WIDTH = 40, 300


def run_apart(experiment: Experiment, folder: Path, *, fast: bool, quiet: bool) -> dict[str, Any]:
    """Run `experiment` in a process of its own; returns the content of its report.json.

    With `quiet` nothing goes to standard output. The child is stopped when this process is
    interrupted or terminated, and report.json says so.
    """
    content = _blank(experiment, fast)
    document.write(folder, content)
    task = {
        "name": experiment.name, "paper": experiment.paper, "module": experiment.module,
        "folder": str(folder.resolve()), "fast": fast, "live": not quiet,
    }  # fmt: skip
    command = [sys.executable, "-X", "faulthandler", "-m", __name__, json.dumps(task)]
    path = os.pathsep.join(p or os.getcwd() for p in sys.path)
    environment = os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"}
    began, last = time.monotonic(), collections.deque[str](maxlen=KEPT)
    how = "Interrupted."
    try:
        with _terminable():
            status = _passed_through(command, environment, quiet, last)
        how = _ending(status, last)
    finally:
        content = _read(folder, content)
        if content["error"] is not None or how:
            content["error"] = "\n".join([how or str(content["error"]), *last])
            content["seconds"] = round(time.monotonic() - began, 3)
            content["passed"] = False
            document.write(folder, content)
    return content


def _blank(experiment: Experiment, fast: bool) -> dict[str, Any]:
    """The report of an experiment that never said anything."""
    return {
        "name": experiment.name, "paper": experiment.paper, "versions": {},
        "settings": {"fast": fast}, "seconds": 0.0, "rows": [],
        "error": "The experiment never began.", "passed": False,
    }  # fmt: skip


def _read(folder: Path, otherwise: dict[str, Any]) -> dict[str, Any]:
    try:
        return document.read(folder)
    except (OSError, ValueError):
        return otherwise


def _passed_through(
    command: list[str], environment: dict[str, str], quiet: bool, last: collections.deque[str]
) -> int:
    """Exit status of `command`; its output is ours, and `last` keeps its last errors."""
    child = subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    out = sys.stderr if quiet else sys.stdout
    lanes = (
        (child.stdout, out, collections.deque[str](maxlen=0)),
        (child.stderr, sys.stderr, last),
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


def _ending(status: int, last: collections.deque[str]) -> str:
    """What an exit status means; empty for success. A shell reports signal n as 128 + n."""
    if status == 0:
        return ""
    number = -status if status < 0 else status - 128
    if number in set(signal.Signals):
        return f"Ended by {signal.Signals(number).name} ({signal.strsignal(number)})."
    said = next((line for line in reversed(last) if line.strip()), "it said nothing")
    return f"Ended with exit status {status}: {said}"


def set_up() -> None:
    """float64, figures without a display, and compiled programs kept from run to run.

    The cache lies in $JAX_COMPILATION_CACHE_DIR, else in gflow/jax-<version> under
    $XDG_CACHE_HOME or ~/.cache; delete the folder to be rid of it.
    """
    os.environ.setdefault("MPLBACKEND", "Agg")
    # On every hit XLA complains about two tuning flags that are no features of any machine.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import jax

    jax.config.update("jax_enable_x64", True)
    if jax.config.values["jax_compilation_cache_dir"] is None:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(home) / "gflow" / f"jax-{jax.__version__}"
        jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def main() -> None:
    """The child: run the experiment described in the argument."""
    # Ctrl-C reaches both processes; the parent stops this one
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    set_up()
    task = json.loads(sys.argv[1])
    from ._report import Report

    name, paper, module = (task.pop(key) for key in ("name", "paper", "module"))
    report = Report(name, paper, Path(task.pop("folder")), **task)
    report.write()
    try:
        Experiment(name, paper, "", module).run(report)
    except BaseException:
        report.write()
        raise
    report.finish()


if __name__ == "__main__":
    main()
