"""Compiled programs kept from process to process, in a folder of the user's cache.

Most of the time of a first table is XLA compiling, which a second process need not do again. JAX
keeps programs if it is told where; here it is told, unless the user has done so or has switched it
off. The folder is bounded: when a process finds more in it than `LARGEST`, what was not used for
longest goes.
"""

import contextlib
import functools
import hashlib
import importlib
import os
import platform
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jaxlib

#: Bytes of all programs, above which the folder is halved.
LARGEST = 2**28
#: Seconds of compilation from which on a program is worth a file.
_WORTH = 0.01

#: What XLA says of every program that it loads on many processors, whose own preferences it takes
#: for missing features (openxla/xla issue 44565).
_LOADER = b"cpu_aot_loader.cc"

#: What Linux says of the processor.
_PROCESSOR = Path("/proc/cpuinfo")

_one_at_a_time = threading.RLock()


def folder() -> Path:
    """Where programs are kept: gflow/programs under $XDG_CACHE_HOME, else under ~/.cache."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "gflow" / "programs"


def keep_programs() -> None:
    """Have JAX keep what it compiles, unless its configuration says where, or not to."""
    given = _configured("jax_compilation_cache_dir") is not None
    if given or not _configured("jax_enable_compilation_cache"):
        return
    try:
        here = folder() / _machine()
        here.mkdir(parents=True, exist_ok=True)
        _bound(folder())
    except OSError:  # a home that cannot be written to keeps nothing
        return
    jax.config.update("jax_compilation_cache_dir", str(here))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _WORTH)
    _silence_the_loader()


def _configured(name: str) -> Any:
    return getattr(jax.config, name)


def _machine() -> str:
    """The version of XLA and the processor: another one might not know the instructions."""
    kind = [platform.machine(), platform.processor()]
    if _PROCESSOR.is_file():
        lines = _PROCESSOR.read_text().splitlines()
        kind += sorted({x for x in lines if x.startswith(("flags", "Features", "model name"))})
    return f"{jaxlib.__version__}-{hashlib.sha256(repr(kind).encode()).hexdigest()[:8]}"


def _bound(root: Path) -> None:
    """Halve a folder that has more than `LARGEST` in it."""
    files = []
    for path in root.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # another process is at it as well
            known = path.stat()
            if path.is_file():
                files.append((max(known.st_atime, known.st_mtime), known.st_size, path))
    left = sum(size for _, size, _ in files)
    if left <= LARGEST:
        return
    for _, size, path in sorted(files):
        if left <= LARGEST // 2:
            return
        path.unlink(missing_ok=True)
        left -= size


def _silence_the_loader() -> None:
    """Keep from the user what XLA writes of every program it loads, and nothing else.

    It writes to file descriptor 2 from where no level of logging reaches it once JAX is imported.
    A JAX that keeps its programs otherwise is left as it is: the lines are then seen.
    """
    with contextlib.suppress(ImportError, AttributeError):
        cache = importlib.import_module("jax._src.compilation_cache")
        name = "get_executable_and_time"
        setattr(cache, name, _sifted(getattr(cache, name)))


def _sifted(load: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(load)
    def sifted(*args: Any, **kwargs: Any) -> Any:
        with _one_at_a_time, _without(_LOADER):
            return load(*args, **kwargs)

    return sifted


@contextlib.contextmanager
def _without(words: bytes) -> Iterator[None]:
    """Lines with these words do not reach standard error; the others come when it is over."""
    with contextlib.ExitStack() as ends:
        try:
            kept = ends.enter_context(tempfile.TemporaryFile())
            stderr = os.dup(2)
        except OSError:  # a process without room, or without standard error
            yield
            return
        os.dup2(kept.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            kept.seek(0)
            rest = b"".join(line for line in kept if words not in line)
            if rest:
                os.write(2, rest)
