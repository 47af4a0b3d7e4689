"""`gflow sweep FILE`; `gflow/_cli.py` has its arguments."""

import argparse
import difflib
import importlib
import importlib.util
import json
import os
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ._progress import SweepProgress

_KEYS = ("build", "out", "seeds", "grid", "t1", "tau1", "decay", "rtol", "curves", "error_bars",
         "max_steps", "chunk")  # fmt: skip


def main(arguments: argparse.Namespace) -> int:
    """Run a sweep; returns the exit status that `gflow sweep -h` explains."""
    try:
        given = _read(arguments.file)
        build = _function(given.pop("build"), arguments.file.parent)
        beside = arguments.file.parent / given.pop("out", arguments.file.stem)
        found = _swept(build, arguments.out or beside, given, arguments)
    except ValueError as error:
        print(f"gflow sweep: {error}", file=sys.stderr)
        return 2
    failed = found.failed
    if arguments.json:
        print(json.dumps({"path": str(found.path), "done": found.done, "failed": len(failed)}))
    else:
        print(found)
    return 1 if failed else 0


def _read(path: Path) -> dict[str, Any]:
    """What the file says. **Raises:** ValueError for a mistake in it."""
    try:
        given = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}.") from error
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is no TOML: {error}.") from error
    for key in given:
        if key not in _KEYS:
            near = difflib.get_close_matches(key, _KEYS, n=1) or [", ".join(_KEYS)]
            raise ValueError(f"{path} has {key!r}, which is unknown: did you mean {near[0]}?")
    if not isinstance(given.get("build"), str) or ":" not in given["build"]:
        raise ValueError(
            f'{path} has build = {given.get("build")!r}: write build = "model.py:build", a file '
            "beside it (or a module) and a function."
        )
    if not isinstance(given.get("out", ""), str):
        raise ValueError(f"{path} has out = {given['out']!r}: write the name of a folder.")
    return given


def _function(written: str, folder: Path) -> Callable[..., Any]:
    """What `model.py:build` or `package.module:build` names."""
    module_name, _, name = written.rpartition(":")
    try:
        if module_name.endswith(".py"):
            path = folder / module_name
            if not path.is_file():
                raise ValueError(f"build = {written!r}: there is no file {path}.")
            spec = importlib.util.spec_from_file_location(path.stem, path)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.path.insert(0, str(path.parent))
            _exact()
            spec.loader.exec_module(module)
        else:
            sys.path.insert(0, os.getcwd())
            _exact()
            module = importlib.import_module(module_name)
    except ValueError:
        raise
    except Exception as error:  # whatever the user's file does
        raise ValueError(
            f"build = {written!r} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    if not callable(getattr(module, name, None)):
        raise ValueError(f"build = {written!r}: there is no function {name} in {module_name}.")
    return getattr(module, name)


def _exact() -> None:
    """In float64, before any array is made."""
    import jax

    jax.config.update("jax_enable_x64", True)


def _swept(build: Any, out: Path, given: dict[str, Any], arguments: argparse.Namespace):
    from ._sweep import sweep

    _joined(arguments)
    joined = arguments.coordinator is not None
    return sweep(
        build,
        given.pop("grid", {}),
        out=out,
        retry_failed=arguments.retry_failed,
        progress=_line if arguments.json else True,
        process_id=None if joined else arguments.process_id,
        num_processes=None if joined else arguments.num_processes,
        **given,
    )


def _joined(arguments: argparse.Namespace) -> None:
    """Join the distributed runtime of JAX, where asked to. **Raises:** ValueError in vain."""
    if arguments.coordinator is None:
        return
    import jax

    address = None if arguments.coordinator == "auto" else arguments.coordinator
    try:
        jax.distributed.initialize(address, arguments.num_processes, arguments.process_id)
    except Exception as error:
        raise ValueError(
            f"JAX's distributed runtime cannot be joined at {arguments.coordinator}: {error}"
        ) from error


def _line(progress: SweepProgress) -> None:
    """NaN is no JSON."""
    known = progress._asdict()
    if progress.left != progress.left:
        known["left"] = None
    print(json.dumps(known), flush=True)
