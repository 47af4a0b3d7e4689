"""The commands about experiments and their results; `gflow/_cli.py` has their arguments."""

import json
import shutil
import sys
import textwrap
from pathlib import Path

from gflow.internal import Bar

from . import _document as document
from ._new import write_template
from ._page._page import write_page
from ._page._sources import Unreadable
from ._process import run_apart
from ._registry import Entry, Unusable, clash, entries, find


def list_experiments(*, as_json: bool) -> int:
    """Print every experiment; what is broken is named, on standard error or in `error`."""
    found = entries()
    if as_json:
        fields = ("name", "paper", "summary", "origin", "error")
        print(
            json.dumps(
                [{f: getattr(one, f) for f in fields} for one in found],
                indent=2,
                ensure_ascii=False,
            )
        )
        return 0
    good = [one for one in found if one.error is None]
    width = max(len(one.name) for one in good) + 2
    columns = max(shutil.get_terminal_size((100, 24)).columns, width + 40)
    for one in good:
        lines = [one.summary, one.paper]
        if one.origin != "gflow":
            lines.append(f"from {one.origin}")
        first, then = " " * width, " " * (width + 2)
        text = "\n".join(
            textwrap.fill(line, columns, initial_indent=first, subsequent_indent=then)
            for line in lines
        )
        print(f"{one.name:{width}}{text[width:]}")
    _complain(found)
    return 0


def reproduce(words: list[str], *, everything: bool, out: Path, as_json: bool, fast: bool) -> int:
    """Run experiments one after the other; returns the exit status that `gflow -h` explains."""
    broken: list[Entry] = []
    try:
        if everything and words:
            raise Unusable(f"Give names ({', '.join(words)}) or --all, not both.")
        if everything:
            found = entries()
            broken = [one for one in found if one.error is not None]
            chosen = [one for one in found if one.error is None]
        else:
            chosen = _chosen(words)
        for one in chosen:
            (out / one.name).mkdir(parents=True, exist_ok=True)
    except Unusable as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"Results cannot be written to {out}: {error.strerror}.", file=sys.stderr)
        return 2
    _complain(broken)
    if not chosen:
        return 1
    contents, interrupted = [], False
    width = max(len(one.name) for one in chosen)
    with Bar(len(chosen) > 1, len(chosen), "experiments") as bar:
        errors = bar.above(sys.stderr)
        said = errors if as_json else bar.above(sys.stdout)
        for one in chosen:
            folder = out / one.name
            bar.to(len(contents), now=one.name)
            try:
                content = run_apart(
                    one, folder, fast=fast, live=not as_json, out=said, errors=errors
                )
            except KeyboardInterrupt:
                content, interrupted = document.read(folder), True
            contents.append(content)
            if interrupted:
                break
            bar.to(len(contents))
            if not as_json:
                print(document.headline(content, width), file=said)
                print(f"Figures, data, report.txt and report.json are in {folder}.\n", file=said)
    if as_json:
        printed = contents if everything or len(chosen) > 1 else contents[0]
        print(json.dumps(printed, indent=2, ensure_ascii=False))
    else:
        print(document.summary(contents))
    return 130 if interrupted else int(bool(broken) or any(map(document.failed, contents)))


def report(paths: list[Path], *, out: Path, against: Path | None) -> int:
    """Write the page of results and saved runs, and say in one line what is on it."""
    try:
        said = write_page(paths, out, against)
    except Unreadable as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{out} is written: {said}.")
    return 0


def new(name: str, folder: Path) -> int:
    """Write a template, and say what to do with it."""
    try:
        path = write_template(name, folder)
    except Unusable as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{path} is written: run it by `gflow reproduce {path}`, then make it yours.")
    return 0


def _chosen(words: list[str]) -> list[Entry]:
    """What the words of the command line name, each once."""
    found: dict[str, Entry] = {}
    for word in dict.fromkeys(words):
        one = find(word)
        other = found.setdefault(one.name, one)
        if other.reference != one.reference:
            raise Unusable(clash(one.name, other.origin, one.origin))
    if not found:
        names = ", ".join(one.name for one in entries() if one.error is None)
        raise Unusable(f"Name an experiment or a file, or pass --all. There are: {names}.")
    return list(found.values())


def _complain(found: list[Entry]) -> None:
    for one in found:
        if one.error is not None:
            print(one.error, file=sys.stderr)
