"""Which experiments there are: those shipped, plug-ins of other packages, and files by path.

A package offers experiments in the entry-point group `gflow.experiments`:

    [project.entry-points."gflow.experiments"]
    my-paper = "my_package.my_paper:experiment"

The names are known without loading anything. What is not ours is loaded in a process of its own.
"""

import concurrent.futures
import dataclasses
import difflib
import importlib
import importlib.metadata
import json
import os
import subprocess
from collections import defaultdict
from pathlib import Path

from ._experiment import Experiment
from ._interpreter import ending, interpreter
from ._load import ATTRIBUTE

GROUP = "gflow.experiments"
SHIPPED = (
    "gradual-rank",
    "gradual-rank-full",
    "adapters",
    "exact-linear",
    "weight-decay",
    "condensation",
    "linear-icl",
    "cross-entropy",
    "odelora",
    "post-training",
    "gradual-rank-vit",
    "adapters-vit",
    "gradual-rank-text",
    "symmetry",
    "heads",
    "depth-collapse",
    "depth-networks",
)
#: Seconds in which an experiment is to be loaded.
PATIENCE = 300.0


class Unusable(ValueError):
    """No experiment can be run by this name or path, and why."""


@dataclasses.dataclass(frozen=True)
class Source:
    """A name, where it comes from in words, and the reference that `_load` takes."""

    name: str
    origin: str
    reference: str


@dataclasses.dataclass(frozen=True)
class Entry:
    """An experiment as it is listed; `error` says why it cannot be run."""

    name: str
    paper: str
    summary: str
    origin: str
    reference: str
    error: str | None = None


def sources() -> dict[str, list[Source]]:
    """By name, the shipped first; a name with several sources belongs to none of them."""
    found: dict[str, list[Source]] = defaultdict(list)
    for name in SHIPPED:
        module = f"{__package__}.{name.replace('-', '_')}"
        found[name].append(Source(name, "gflow", f"{module}:{ATTRIBUTE}"))
    for point in importlib.metadata.entry_points(group=GROUP):
        package = f" {point.dist.name} {point.dist.version}" if point.dist else ""
        origin = f"the package{package} ({point.value})"
        found[point.name].append(Source(point.name, origin, point.value))
    return dict(found)


def entries() -> list[Entry]:
    """All of them; those that are broken, or share a name, with their error."""
    known = sources()
    with concurrent.futures.ThreadPoolExecutor(max_workers=4) as pool:
        return list(pool.map(lambda name: _entry(name, known[name]), known))


def find(word: str) -> Entry:
    """The experiment of a name, or of the path of a file or a folder.

    **Raises** Unusable, in a sentence.
    """
    known = sources()
    if word not in known or word.endswith(".py") or os.sep in word:
        if word.endswith(".py") or os.sep in word or os.path.exists(word):
            return _at(Path(word), known)
        near = difflib.get_close_matches(word, known, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(known)}."
        raise Unusable(f"No experiment is called {word!r}. {hint} A file is named by its path.")
    found = _entry(word, known[word])
    if found.error is not None:
        raise Unusable(found.error)
    return found


def _entry(name: str, those: list[Source]) -> Entry:
    if len(those) > 1:
        return _broken(those[0], clash(name, *(one.origin for one in those)))
    (source,) = those
    if source.origin == "gflow":
        ours: Experiment = importlib.import_module(source.reference.partition(":")[0]).experiment
        return Entry(ours.name, ours.paper, ours.summary, source.origin, source.reference)
    found = _described(source.reference)
    if "error" in found:
        return _broken(source, f"{name}, of {source.origin}, cannot be loaded: {found['error']}")
    if found["name"] != name:
        return _broken(
            source,
            f"{source.origin} calls its entry point {name!r} and the experiment behind it "
            f"{found['name']!r}: both are to have one name.",
        )
    return Entry(name, found["paper"], found["summary"], source.origin, source.reference)


def _broken(source: Source, why: str) -> Entry:
    return Entry(source.name, "", "", source.origin, source.reference, why)


def _at(path: Path, known: dict[str, list[Source]]) -> Entry:
    if not path.exists():
        raise Unusable(f"There is no file {path}.")
    reference = str(path.resolve())
    found = _described(reference)
    if "error" in found:
        raise Unusable(f"{path} cannot be run: {found['error']}")
    name = found["name"]
    others = known.get(name, [])
    if others and not (len(others) == 1 and _described(others[0].reference) == found):
        raise Unusable(clash(name, *(one.origin for one in others), str(path)))
    return Entry(name, found["paper"], found["summary"], str(path), reference)


def clash(name: str, *origins: str) -> str:
    """Two experiments of one name would write one folder."""
    return f"Several experiments are called {name!r}: {'; '.join(origins)}. Rename all but one."


def _described(reference: str) -> dict[str, str]:
    """What `_load` says of an experiment, from a process of its own."""
    command, environment = interpreter("_load", reference)
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"it was not loaded within {PATIENCE:g} s."}
    said = done.stderr.decode("utf-8", "replace").splitlines()
    if done.returncode:
        return {"error": ending(done.returncode, said)}
    try:
        return json.loads(done.stdout)
    except ValueError:
        return {"error": "the process that loaded it ended before it was done."}
