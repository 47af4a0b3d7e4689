"""What has changed between two results of one experiment."""

import dataclasses
from collections import Counter
from collections.abc import Iterable
from typing import Any

from .. import _document as document
from ._sources import Results, SavedRun, Unreadable

#: Numbers that differ by less, relatively, differ by rounding.
ROUNDING = 1e-12


@dataclasses.dataclass(frozen=True)
class Change:
    """A row that is not what it was: `before` or `after` is None where it was or is missing."""

    quantity: str
    kinds: tuple[str, ...]
    before: dict[str, Any] | None
    after: dict[str, Any] | None


@dataclasses.dataclass(frozen=True)
class Difference:
    """Of one experiment: the state of the whole, settings and versions, and rows that changed."""

    name: str
    facts: list[tuple[str, ...]]
    changes: list[Change]
    unchanged: int


def differences(
    after: list[Results | SavedRun], before: list[Results | SavedRun]
) -> list[Difference]:
    """Experiment by experiment, those of `after` first. **Raises** Unreadable."""
    new, old = _by_name(after), _by_name(before)
    return [
        _between(name, old.get(name), new.get(name)) for name in [*new, *sorted(old.keys() - new)]
    ]


def _by_name(found: list[Results | SavedRun]) -> dict[str, Results]:
    results = [one for one in found if isinstance(one, Results)]
    if not results:
        raise Unreadable(
            "Two reports differ row by row, and saved runs have no rows: give folders."
        )
    name, times = Counter(one.name for one in results).most_common(1)[0]
    if times > 1:
        folders = ", ".join(str(one.folder) for one in results if one.name == name)
        raise Unreadable(f"{name!r} is there {times} times, in {folders}: compare one with one.")
    return {one.name: one for one in sorted(results, key=lambda one: one.name)}


def _between(name: str, before: Results | None, after: Results | None) -> Difference:
    if before is None or after is None:
        missing = ("not there", "there") if before is None else ("there", "not there")
        return Difference(name, [("experiment", *missing)], [], 0)
    old, new = ({row["quantity"]: row for row in one.rows} for one in (before, after))
    changes = []
    for quantity in dict.fromkeys([*new, *old]):
        kinds = tuple(_kinds(old.get(quantity), new.get(quantity)))
        if kinds:
            changes.append(Change(quantity, kinds, old.get(quantity), new.get(quantity)))
    changes.sort(key=_weight)
    facts: list[tuple[str, ...]] = [
        ("ended", *(one.content["error"] or "in good order" for one in (before, after)))
    ]
    for part in ("settings", "versions"):
        a, b = before.content[part], after.content[part]
        facts += [(f"{part}: {key}", _said(a, key), _said(b, key)) for key in sorted({*a, *b})]
    facts = [fact for fact in facts if fact[1] != fact[2]]
    return Difference(name, facts, changes, len(old.keys() | new.keys()) - len(changes))


def _said(found: dict[str, Any], key: str) -> str:
    return str(found[key]) if key in found else "not there"


def _kinds(before: dict[str, Any] | None, after: dict[str, Any] | None) -> Iterable[str]:
    if before is None or after is None:
        yield "appeared" if before is None else "gone"
        return
    old, new = (document.VERDICTS.index(row["verdict"]) for row in (before, after))
    if old != new:
        yield "verdict worse" if new > old else "verdict better"
    bars = sum(row["error_bar"] or 0.0 for row in (before, after))
    if _moved(before["measured"], after["measured"], bars):
        yield "measured"
    if _moved(before["predicted"], after["predicted"], 0.0):
        yield "predicted"
    if _moved(before["tolerance"], after["tolerance"], 0.0):
        yield "allowed"
    if before["unit"] != after["unit"]:
        yield "unit"


def _moved(a: float | None, b: float | None, bars: float) -> bool:
    """Whether two numbers differ by more than their bars and rounding."""
    if a is None or b is None:
        return a is not b
    return abs(a - b) > bars + ROUNDING * max(abs(a), abs(b))


def _weight(change: Change) -> int:
    order = ("verdict worse", "gone", "appeared", "verdict better")
    return next((i for i, kind in enumerate(order) if kind in change.kinds), len(order))


def in_words(found: list[Difference]) -> str:
    """`2 verdicts worse, 1 better; 3 rows gone, 0 new; 4 others changed, 80 not`."""
    kinds = [kind for one in found for change in one.changes for kind in change.kinds]
    count = Counter(kinds)
    firsts = {"verdict worse", "verdict better", "gone", "appeared"}
    others = sum(not firsts & set(c.kinds) for one in found for c in one.changes)
    return (
        f"{count['verdict worse']} verdicts worse, {count['verdict better']} better; "
        f"{count['gone']} rows gone, {count['appeared']} new; {others} others changed, "
        f"{sum(one.unchanged for one in found)} did not"
    )
