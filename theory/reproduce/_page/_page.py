"""The whole page, and where it is written."""

import base64
import hashlib
import os
from pathlib import Path

from .. import _document as document
from . import _sections as sections
from ._changes import changed
from ._difference import differences, in_words
from ._html import Markup, raw, tag
from ._sources import Results, SavedRun, Unreadable, gathered

#: What a file begins with that may be overwritten.
MARK = "<!doctype html>\n<!-- gflow report -->\n"
READING = (
    ("confirmed", "met within error bar and allowance, both small enough to tell."),
    ("undecided", "this run cannot tell; the reason says why, and what would decide."),
    ("refuted", "off by more than error bar and allowance explain."),
)


def write_page(paths: list[Path], out: Path, against: Path | None) -> str:
    """Write the page of all that lies at `paths`; returns one line on what it says.

    The page depends on what it shows alone: it has no date. **Raises** Unreadable, and writes
    nothing, where a path or `out` cannot be used.
    """
    found = gathered(paths)
    before = None if against is None else gathered([against])
    changes = None if before is None else differences(found, before)
    said = _said(found)
    parts: list[str] = []
    if changes is not None:
        said += f"; {in_words(changes)}"
        parts.append(changed(changes, str(against)))
    _write(out, _page(found, parts))
    return said


def _said(found: list[Results | SavedRun]) -> str:
    results, runs = _apart(found)
    rows = [row for one in results for row in one.rows]
    died = sum(one.content["error"] is not None for one in results)
    verdicts = document.counts({"rows": rows})
    said = [f"{_counted(len(results), 'experiment')}: {verdicts}"] if results else []
    said += [f"{died} died"] if died else []
    said += [_counted(len(runs), "saved run")] if runs else []
    return "; ".join(said)


def _counted(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _apart(found: list[Results | SavedRun]) -> tuple[list[Results], list[SavedRun]]:
    results = [one for one in found if isinstance(one, Results)]
    return results, [one for one in found if isinstance(one, SavedRun)]


def _page(found: list[Results | SavedRun], first: list[str]) -> str:
    results, runs = _apart(found)
    names = {i: f"experiment-{i + 1}" for i in range(len(results))}
    body: list[str] = [tag("h1", "gflow report"), tag("p", _said(found), ".")]
    if results:
        body.append(sections.index(results, names))
    body += first
    if results:
        body += [tag("h2", "What is not confirmed", id="open"), sections.open_questions(results)]
    body += [sections.experiment(one, names[i]) for i, one in enumerate(results)]
    body += [sections.run(one, f"run-{i + 1}") for i, one in enumerate(runs)]
    if results:
        words = (tag("p", sections.verdict(word), ": ", text) for word, text in READING)
        body.append(tag("section", tag("h2", "Verdicts", id="verdicts"), *words))
    style, script = (
        Path(__file__).with_name(f"page.{kind}").read_text(encoding="utf-8")
        for kind in ("css", "js")
    )
    # nothing is loaded from anywhere, and no script runs but ours
    policy = (
        f"default-src 'none'; img-src data:; style-src {_digest(style)}; "
        f"script-src {_digest(script)}"
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"gflow report: {_said(found)}"),
        raw("style", style),
    )
    skip = tag("a", "To the results", href="#results", class_="skip")
    whole = tag("body", skip, tag("main", *body, id="results"), raw("script", script))
    return MARK + Markup(tag("html", head, whole, lang="en")) + "\n"


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _write(out: Path, page: str) -> None:
    """In one piece. **Raises** Unreadable where it cannot be, or something else would be lost."""
    try:
        if out.is_dir():
            raise Unreadable(f"--out {out} is a folder: give a file, such as {out}/report.html.")
        if out.exists() and not out.read_bytes().startswith(MARK.encode()):
            raise Unreadable(f"--out {out} is there and is no page of `gflow report`: it is kept.")
        part = out.with_name(out.name + ".part")
        part.write_text(page, encoding="utf-8", newline="\n")
        os.replace(part, out)
    except OSError as error:
        raise Unreadable(f"The page cannot be written to {out}: {error.strerror}.") from None
