"""The part of a page that says what two reports differ in."""

from typing import Any

from ._difference import Change, Difference, in_words
from ._html import Cell, Markup, table, tag
from ._sections import number, verdict


def changed(found: list[Difference], against: str) -> Markup:
    parts: list[str] = [
        tag("h2", "Difference", id="difference"),
        tag("p", f"Before is {against}. ", in_words(found), "."),
        tag(
            "p",
            "A measured number has changed when it moved by more than both error bars together, "
            "a prediction or an allowance when it moved by more than rounding.",
        ),
    ]
    for one in found:
        if not one.facts and not one.changes:
            parts.append(tag("p", f"{one.name}: nothing changed in {one.unchanged} rows."))
            continue
        parts.append(tag("h3", one.name))
        if one.facts:
            parts.append(table(f"{one.name}: as a whole", ["what", "before", "after"], one.facts))
        if one.changes:
            head = ["quantity", "what changed", "verdict before", "after", "measured before",
                    "after", "predicted before", "after"]  # fmt: skip
            caption = f"{one.name}: {len(one.changes)} rows changed, {one.unchanged} did not"
            parts.append(table(caption, head, map(_row, one.changes)))
    return tag("section", *parts, aria_labelledby="difference")


def _row(change: Change) -> list[Cell | str]:
    both = (change.before, change.after)
    cells: list[Cell | str] = [change.quantity, ", ".join(change.kinds)]
    cells += [_verdict(row) for row in both]
    for key in ("measured", "predicted"):
        cells += [number(None if row is None else row[key]) for row in both]
    return cells


def _verdict(row: dict[str, Any] | None) -> str:
    return "–" if row is None else verdict(row["verdict"])
