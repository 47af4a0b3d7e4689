"""What a page is made of: folders that `gflow reproduce` has written, and saved runs."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from .. import _document as document

#: The content of report.json, and of a row of it, and of what types each is.
FIELDS: dict[str, Any] = {
    "name": str, "paper": str, "versions": dict, "settings": dict, "seconds": (int, float),
    "rows": list, "figures": list, "runs": list, "error": (str, type(None)), "passed": bool,
}  # fmt: skip
NUMBERS = ("predicted", "measured", "error_bar", "tolerance")
ROW: dict[str, Any] = {
    "quantity": str, "unit": str, "paper": str, "verdict": str, "reason": str, "passed": bool,
    **dict.fromkeys(NUMBERS, (int, float, type(None))),
}  # fmt: skip
PNG = b"\x89PNG\r\n\x1a\n"


class Unreadable(ValueError):
    """Nothing that a page could be made of, and why."""


@dataclasses.dataclass(frozen=True)
class Results:
    """The folder of one experiment: its report.json, figures by name, printed text, other data."""

    folder: Path
    content: dict[str, Any]
    figures: dict[str, bytes]
    text: str
    data: list[str]

    @property
    def name(self) -> str:
        return self.content["name"]

    @property
    def rows(self) -> list[dict[str, Any]]:
        return self.content["rows"]


@dataclasses.dataclass(frozen=True)
class SavedRun:
    """A file that `Trajectory.save` has written, and the run in it."""

    path: Path
    trajectory: Any


def gathered(paths: list[Path]) -> list[Results | SavedRun]:
    """All that lies at the paths, in their order. **Raises** Unreadable."""
    found: dict[Path, Results | SavedRun] = {}
    for path in paths:
        for one in _at(path):
            found.setdefault((one.path if isinstance(one, SavedRun) else one.folder).resolve(), one)
    return list(found.values())


def _at(path: Path) -> list[Results | SavedRun]:
    if path.suffix == ".nc":
        return [_run(path)]
    if path.name == "report.json":
        path = path.parent
    if not path.is_dir():
        what = "is no folder and no .nc file" if path.exists() else "does not exist"
        raise Unreadable(f"{path} {what}. Give what `gflow reproduce` wrote, or a saved run.")
    if (path / "report.json").is_file():
        return [_results(path)]
    folders = sorted(file.parent for file in path.glob("*/report.json"))
    if not folders:
        raise Unreadable(
            f"{path} holds no report.json, nor does a folder in it: it is not the --out of "
            "`gflow reproduce`. Give that folder, one of an experiment, or a run.nc."
        )
    return [_results(folder) for folder in folders]


def _results(folder: Path) -> Results:
    path = folder / "report.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
        _check(content, path)
        files = [folder / name for name in content["figures"]]
        figures = {file.stem: file.read_bytes() for file in files}
        printed = folder / "report.txt"
        text = printed.read_text(encoding="utf-8", errors="replace") if printed.is_file() else ""
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise Unreadable(f"{path} is not JSON ({error}): it is cut off, or foreign.") from None
    except OSError as error:
        raise Unreadable(f"{error.filename or path} cannot be read: {error.strerror}.") from None
    for name, content_of in figures.items():
        if not content_of.startswith(PNG):
            raise Unreadable(f"{folder / name}.png is no PNG: delete it, or reproduce it again.")
    return Results(folder, content, figures, text, content["runs"])


def _run(path: Path) -> SavedRun:
    from gflow import Trajectory

    try:
        return SavedRun(path, Trajectory.load(path))
    except ValueError as error:
        raise Unreadable(" ".join(str(error).split())) from None


def _check(content: Any, path: Path) -> None:
    """**Raises** Unreadable for what no version of `gflow reproduce` writes."""
    _has(content, FIELDS, f"{path} is no report of `gflow reproduce`: it")
    for key, ending in (("figures", ".png"), ("runs", ".nc")):
        for name in content[key]:
            # a name alone: nothing beside the folder is read
            if not isinstance(name, str) or Path(name).name != name or not name.endswith(ending):
                raise Unreadable(f"{path} is damaged: its {key} include {str(name)[:40]!r}.")
    seen = set()
    for i, row in enumerate(content["rows"]):
        _has(row, ROW, f"{path} is damaged: row {i}")
        quantity, verdict = row["quantity"], row["verdict"]
        if verdict not in document.VERDICTS:
            raise Unreadable(f"{path} is damaged: the verdict on {quantity!r} is {verdict!r}.")
        if row["passed"] != (verdict == "confirmed"):
            raise Unreadable(
                f"{path} is damaged: {quantity!r} is {verdict} and has passed = {row['passed']}."
            )
        if quantity in seen:
            raise Unreadable(f"{path} is damaged: {quantity!r} is in it twice.")
        seen.add(quantity)


def _has(found: Any, fields: dict[str, Any], subject: str) -> None:
    if not isinstance(found, dict):
        raise Unreadable(f"{subject} is no object.")
    for key, kind in fields.items():
        if key not in found:
            raise Unreadable(f"{subject} has no {key!r}.")
        value = found[key]
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
        if not fits or (number and not _finite(value)):
            raise Unreadable(f"{subject} has {key} = {str(value)[:40]!r}.")


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond floats
        return False
