"""A sweep on disk: a folder with `sweep.json`, which says what it is of, and a file a chunk.

Every file is written under another name, flushed, and renamed, so that it is there whole or not at
all; no two processes write the same one, and none is ever changed but to retry what failed.
"""

import contextlib
import hashlib
import json
import os
import platform
from pathlib import Path
from typing import Any

from .._arguments import file_path
from ..results._storage import versions
from ._plan import Plan
from ._ragged import Row, intact, opened, packed, rows_of

#: Of the layout of a store.
FORMAT = 1
_MANIFEST = "sweep.json"


class Store:
    """The files of one sweep.

    `about` is what `sweep.json` says: grid, seeds, chunk, settings, build and its first start.
    """

    def __init__(self, path: Path, about: dict[str, Any]):
        self.path, self.about = path, about
        self.plan = Plan(about["grid"], about["seeds"], about["chunk"])
        self.identity = hashlib.sha256(_canonical(about).encode()).hexdigest()

    def file(self, chunk: int) -> Path:
        members = self.plan.members(chunk)
        return self.path / f"runs-{members[0]:07d}-{members[-1]:07d}.nc"

    def finished(self) -> list[int]:
        """Chunks that have their file."""
        there = set(os.listdir(self.path))
        return [k for k in range(self.plan.chunks) if self.file(k).name in there]

    def write(self, chunk: int, rows: list[Row]) -> None:
        """**Raises:** ValueError where there is no room, or no right to write."""
        attrs = {
            "gflow_sweep": FORMAT,
            "sweep": self.identity,
            "chunk": chunk,
            "versions": json.dumps(versions()),
        }
        write_whole(self.file(chunk), packed(rows, attrs))

    def abandon(self) -> None:
        """Forget what the store is of, if nothing is in it."""
        if not self.finished():
            (self.path / _MANIFEST).unlink(missing_ok=True)

    @contextlib.contextmanager
    def reading(self, chunk: int):
        """The dataset of a chunk, read as it is asked for.

        **Raises:** ValueError for a file that is cut off, of another sweep or of another format.
        """
        path = self.file(chunk)
        try:
            data, attrs = opened(path)
        except Exception as error:
            raise ValueError(
                f"{path} cannot be read ({type(error).__name__}): it is cut off or no file of a "
                "sweep. Remove it and run the sweep again, which computes these runs alone."
            ) from error
        with data:
            self._check(path, chunk, attrs)
            yield data

    def rows(self, chunk: int) -> list[Row]:
        """All runs of a chunk. **Raises:** as `reading`, and where a number has changed."""
        self.verify(chunk)
        with self.reading(chunk) as data:
            return rows_of(data, len(self.plan.members(chunk)))

    def verify(self, chunk: int) -> None:
        """**Raises:** ValueError unless a file is as it was written."""
        path = self.file(chunk)
        with self.reading(chunk) as data:
            cause = None
            try:
                whole = intact(data, data.attrs)
            except Exception as error:  # what HDF5 makes of damaged bytes is not foreseen
                whole, cause = False, error
        if not whole:
            raise ValueError(
                f"{path} is damaged: its numbers are not those that were written. Remove it and "
                "run the sweep again, which computes these runs alone."
            ) from cause

    def _check(self, path: Path, chunk: int, attrs: dict[str, Any]) -> None:
        if "gflow_sweep" not in attrs:
            raise ValueError(f"{path} is NetCDF, but no file of a sweep: move it elsewhere.")
        if attrs["gflow_sweep"] != FORMAT:
            raise ValueError(
                f"{path} is in format {attrs['gflow_sweep']} of a sweep, and this version reads "
                f"format {FORMAT}: read it with the gflow that wrote it, or sweep again elsewhere."
            )
        if attrs.get("sweep") != self.identity or attrs.get("chunk") != chunk:
            raise ValueError(f"{path} belongs to another sweep: move it elsewhere.")


def established(path: str | Path, about: dict[str, Any]) -> Store:
    """The store of this sweep, begun if it is not there.

    **Raises:** ValueError for a folder that cannot be written or holds another sweep.
    """
    path = file_path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        _left_behind(path)
    except OSError as error:
        raise ValueError(
            f"The sweep cannot be stored in {path}: {error.strerror or error}."
        ) from error
    manifest = path / _MANIFEST
    if not manifest.exists():
        if any(not name.startswith(".") for name in os.listdir(path)):
            raise ValueError(
                f"{path} has files but no {_MANIFEST}: it is no sweep. Give another folder as out."
            )
        document = {"gflow_sweep": FORMAT, **about, "versions": versions()}
        write_whole(manifest, json.dumps(document, indent=2).encode(), once=True)
    store = existing(path)
    if _canonical(store.about) != _canonical(about):
        differing = [k for k in about if store.about.get(k) != about[k]]
        name = differing[0] if differing else "layout"
        old, new = _differing(store.about.get(name), about.get(name))
        raise ValueError(
            f"{path} holds a sweep with another {name}: {old} there, {new} here. Give another "
            f"folder as out, or the same {name}."
        )
    return store


def existing(path: str | Path) -> Store:
    """The store in a folder. **Raises:** ValueError where there is none."""
    path = file_path(path)
    manifest = path / _MANIFEST
    try:
        about = json.loads(manifest.read_text())
        found = about.pop("gflow_sweep")
        about.pop("versions")
    except (OSError, UnicodeDecodeError, ValueError, KeyError, AttributeError, TypeError) as error:
        what = "has no" if not manifest.exists() else "has a damaged or foreign"
        raise ValueError(f"{path} is no sweep: it {what} {_MANIFEST}.") from error
    if found != FORMAT:
        raise ValueError(
            f"{path} is a sweep in format {found}, and this version reads format {FORMAT}: read it "
            "with the gflow that wrote it, or sweep again elsewhere."
        )
    if missing := {"grid", "seeds", "chunk", "settings", "build", "start"} - set(about):
        raise ValueError(f"{manifest} lacks {', '.join(sorted(missing))}: it is damaged.")
    return Store(path, about)


def write_whole(path: Path, content: bytes, *, once: bool = False) -> None:
    """Write a file that is there whole or not at all; with `once`, of several writers the first's.

    **Raises:** ValueError where it cannot be written.
    """
    part = path.with_name(f".{path.name}.{_machine()}.{os.getpid()}.part")
    try:
        with part.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        if once:
            with contextlib.suppress(FileExistsError):
                _linked(part, path)
        else:
            os.replace(part, path)
    except OSError as error:
        raise ValueError(
            f"{path} cannot be written: {error.strerror or error}. What was finished before is "
            "kept: mend this and run again."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def _linked(part: Path, path: Path) -> None:
    """Give a file its name unless something has it."""
    try:
        os.link(part, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        os.replace(part, path)


def _left_behind(path: Path) -> None:
    """Remove what processes of this machine that are gone have begun to write."""
    for part in path.glob(f".*.{_machine()}.*.part"):
        if not _alive(int(part.name.split(".")[-2])):
            part.unlink(missing_ok=True)


def _machine() -> str:
    return platform.node().replace(".", "-")


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _canonical(about: dict[str, Any]) -> str:
    return json.dumps(about, sort_keys=True)


def _differing(old: Any, new: Any) -> tuple[str, str]:
    """The first entry that two tables differ in, or the two whole."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*new, *old]):
            if old.get(key) != new.get(key):
                return f"{key} = {old.get(key)!r:.80}", f"{key} = {new.get(key)!r:.80}"
    return f"{old!r:.80}", f"{new!r:.80}"
