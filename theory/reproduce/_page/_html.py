"""HTML that is escaped by construction: text is text unless `tag` has made it."""

import html
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

_VOID = {"img", "meta"}
#: What no page may hold, even escaped.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def escaped(text: str) -> Markup:
    return text if isinstance(text, Markup) else Markup(html.escape(_CONTROL.sub("\ufffd", text)))


def tag(name: str, /, *children: str, **attributes: str) -> Markup:
    """An element. `class_` is written class, `data_value` data-value; values are escaped."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escaped(value)}"'
        for key, value in attributes.items()
    )
    if name in _VOID:
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{''.join(map(escaped, children))}</{name}>")


def raw(name: str, text: str) -> Markup:
    """A script or a style sheet of ours, which HTML does not unescape."""
    return Markup(f"<{name}>{text}</{name}>")


class Cell(NamedTuple):
    """Of a table; `value` is what a number sorts by."""

    content: str
    value: float | None = None


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[Cell | str]]) -> Markup:
    """A table that can be sorted and scrolls by itself where it is wider than the page.

    The first cell of a row names it.
    """
    top = tag("tr", *(tag("th", title, scope="col") for title in head))
    body = [tag("tr", _cell(row[0], "th", scope="row"), *map(_cell, row[1:])) for row in rows]
    inner = tag("table", tag("caption", caption), tag("thead", top), tag("tbody", *body))
    return tag("div", inner, class_="wide", role="region", aria_label=caption, tabindex="0")


def _cell(cell: Cell | str, name: str = "td", **attributes: str) -> Markup:
    content, value = cell if isinstance(cell, Cell) else Cell(cell)
    if value is not None:
        attributes |= {"data-value": repr(value), "class": "number"}
    return tag(name, content, **attributes)


def fold(title: str, *content: str) -> Markup:
    """What is shown when it is asked for, and printed."""
    return tag("details", tag("summary", title), *content)


def facts(pairs: Iterable[tuple[str, str]]) -> Markup:
    return tag("dl", *(tag("div", tag("dt", a), tag("dd", b)) for a, b in pairs))
