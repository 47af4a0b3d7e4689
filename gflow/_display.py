"""How results show themselves: a few lines and tables, as text and as HTML."""

import abc
import html
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

#: Rows of a table, and lines after it, that a session or a notebook shows.
SHOWN = 24


class Table(NamedTuple):
    """Cells as text, every row as long as the head."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


class Summary(NamedTuple):
    """What there is to say of an object: a title, facts by name, tables, and lines after them."""

    title: str
    facts: Sequence[tuple[str, str]] = ()
    tables: Sequence[Table] = ()
    notes: Sequence[str] = ()

    def text(self, shown: int | None = None) -> str:
        """Lines in columns; of tables and notes the first `shown` rows and the last."""
        width = max((len(name) for name, _ in self.facts), default=0)
        lines = [self.title, *(f"  {name:{width}}  {value}" for name, value in self.facts)]
        for table in self.tables:
            lines += aligned(_shortened(table, shown))
        return "\n".join([*lines, *_short(self.notes, shown)])

    def html(self, shown: int | None = SHOWN) -> str:
        """The same as escaped HTML, in the colours of the page."""
        parts = [f"<strong>{html.escape(self.title)}</strong>"]
        if self.facts:
            parts.append(_html_table(None, self.facts))
        for table in self.tables:
            short = _shortened(table, shown)
            parts.append(_html_table(short.head, short.rows))
        parts += [f"<div>{html.escape(note)}</div>" for note in _short(self.notes, shown)]
        return f'<div style="overflow-x: auto">{"".join(parts)}</div>'


class Displayed(abc.ABC):
    """An object that shows a summary of itself; `str` is all of it."""

    @abc.abstractmethod
    def _summary(self) -> Summary:
        """What is shown."""

    def __repr__(self) -> str:
        return self._summary().text(SHOWN)

    def __str__(self) -> str:
        return self._summary().text()

    def _repr_html_(self) -> str:
        return self._summary().html()


def aligned(table: Table) -> list[str]:
    """The lines of a table, its columns below each other."""
    every = [table.head, *table.rows]
    widths = [max(len(row[i]) for row in every) for i in range(len(table.head))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in every]
    lines.insert(1, "  ".join("-" * w for w in widths))
    return [line.rstrip() for line in lines]


def power_of_ten(log: float) -> str:
    """e^log as 2.5e-101, or as 10^-1000000 where floats do not reach."""
    if math.isnan(log):
        return "unknown"
    if log == -math.inf:
        return "0"
    if abs(log) < 700.0:
        return f"{math.exp(log):.3g}"
    return f"10^{log / math.log(10.0):.8g}"


def span(logs: np.ndarray) -> str:
    """From the smallest to the largest of numbers given by their logarithms."""
    if not logs.size:
        return "none"
    ends = power_of_ten(float(np.min(logs))), power_of_ten(float(np.max(logs)))
    return ends[0] if ends[0] == ends[1] else f"{ends[0]} … {ends[1]}"


def _shortened(table: Table, shown: int | None) -> Table:
    if shown is None or len(table.rows) <= shown + 1:
        return table
    left_out = ["…", *[""] * (len(table.head) - 1)]
    return Table(table.head, [*table.rows[: shown - 1], left_out, table.rows[-1]])


def _short(lines: Sequence[str], shown: int | None) -> Sequence[str]:
    if shown is None or len(lines) <= shown:
        return lines
    return [*lines[: shown - 1], f"… and {len(lines) - shown + 1} more lines: print() shows all"]


def _html_table(head: Sequence[str] | None, rows: Sequence[Sequence[str]]) -> str:
    def cells(row: Sequence[str], tag: str) -> str:
        style = ' style="text-align: left"'
        return "".join(f"<{tag}{style}>{html.escape(cell)}</{tag}>" for cell in row)

    top = "" if head is None else f"<thead><tr>{cells(head, 'th')}</tr></thead>"
    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    return f"<table>{top}<tbody>{body}</tbody></table>"
