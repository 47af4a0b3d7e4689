"""report.json as a document: written, read and summarised without JAX."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

VERDICTS = ("confirmed", "undecided", "refuted")


def write(folder: Path, content: dict[str, Any]) -> Path:
    """Write report.json in one piece, so that a reader never finds half of it."""
    folder.mkdir(parents=True, exist_ok=True)
    path, part = folder / "report.json", folder / "report.json.part"
    part.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(part, path)
    return path


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def counts(content: dict[str, Any]) -> str:
    """`89 confirmed, 5 undecided, 0 refuted`."""
    found = Counter(row["verdict"] for row in content["rows"])
    return ", ".join(f"{found[verdict]} {verdict}" for verdict in VERDICTS)


def failed(content: dict[str, Any]) -> bool:
    """An experiment fails when it dies, or refutes what it compares."""
    return content["error"] is not None or any(r["verdict"] == "refuted" for r in content["rows"])


def headline(content: dict[str, Any], width: int = 0) -> str:
    """One line: name (in `width` columns), time, counts, and why it ended before its end."""
    line = f"{content['name']:{width}} {content['seconds']:6.0f} s   {counts(content)}"
    if content["error"] is None:
        return line
    return f"{line}; DIED: {content['error'].splitlines()[0]}"


def summary(contents: list[dict[str, Any]]) -> str:
    """Experiment by experiment, and every verdict that is not a confirmation."""
    lines, width = [], max(len(content["name"]) for content in contents)
    for content in contents:
        lines.append(headline(content, width))
        for verdict in ("refuted", "undecided"):
            for row in content["rows"]:
                if row["verdict"] == verdict:
                    lines.append(f"    {verdict:10} {row['quantity']}: {row['reason']}")
    if len(contents) > 1:
        rows = [row for content in contents for row in content["rows"]]
        died = sum(content["error"] is not None for content in contents)
        lines.append(
            f"{len(contents)} experiments: {counts({'rows': rows})}"
            + (f"; {died} died" if died else "")
        )
    return "\n".join(lines)
