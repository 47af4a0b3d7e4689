"""The parts of a page: the index, what is not confirmed, an experiment, a run."""

import base64
import io
import json
from collections import Counter
from typing import Any

from .. import _document as document
from ._html import Cell, Markup, facts, fold, table, tag
from ._sources import Results, SavedRun

#: A sign beside the word, so that no verdict is told by colour alone.
SIGNS = {"confirmed": "✓", "undecided": "?", "refuted": "✗"}
HEAD = ["quantity", "verdict", "predicted", "measured", "miss", "error bar", "allowed", "unit",
        "reason"]  # fmt: skip
#: In the order in which they are of interest.
WORST_FIRST = ("refuted", "undecided", "confirmed")


def verdict(word: str) -> Markup:
    return tag("span", f"{SIGNS[word]} {word}", class_=word)


def number(value: float | None, digits: int = 8) -> Cell:
    return Cell("–") if value is None else Cell(f"{value:.{digits}g}", float(value))


def counts(rows: list[dict[str, Any]]) -> Markup:
    found = Counter(row["verdict"] for row in rows)
    parts = [tag("span", f"{SIGNS[v]} {found[v]} {v}", class_=v) for v in document.VERDICTS]
    return Markup(", ".join(parts))


def state(content: dict[str, Any]) -> str:
    return "finished" if content["error"] is None else f"died: {_first(content['error'])}"


def _first(text: str) -> str:
    return next(iter(text.splitlines()), "")


def index(results: list[Results], names: dict[int, str]) -> Markup:
    """A line an experiment; `names`: the id of its section."""
    rows = []
    for i, one in enumerate(results):
        found = Counter(row["verdict"] for row in one.rows)
        link = tag("a", one.name, href=f"#{names[i]}")
        numbers = (Cell(str(found[v]), found[v]) for v in document.VERDICTS)
        seconds = Cell(f"{one.content['seconds']:.0f}", float(one.content["seconds"]))
        rows.append([link, *numbers, seconds, state(one.content), one.content["paper"]])
    head = ["experiment", *document.VERDICTS, "seconds", "state", "paper"]
    return table("Experiments", head, rows)


def open_questions(results: list[Results]) -> Markup:
    """Every verdict that is not a confirmation, over all experiments, and every death."""
    rows = []
    for word in ("refuted", "undecided"):
        for one in results:
            for row in one.rows:
                if row["verdict"] == word:
                    rows.append([row["quantity"], verdict(word), one.name, row["reason"]])
    rows += [
        [one.name, "died", one.name, _first(one.content["error"])]
        for one in results
        if one.content["error"] is not None
    ]
    if not rows:
        return tag("p", "Nothing is refuted and nothing is undecided.")
    return table(
        "Refuted, undecided or died", ["quantity", "verdict", "experiment", "reason"], rows
    )


def _row(row: dict[str, Any], paper: str) -> list[Cell | str]:
    name: str = row["quantity"]
    if row["paper"] != paper:
        name = Markup(tag("span", name) + " " + tag("span", row["paper"], class_="soft"))
    predicted, measured = row["predicted"], row["measured"]
    miss = None if predicted is None or measured is None else abs(measured - predicted)
    numbers = [number(predicted), number(measured)]
    numbers += [number(x, 3) for x in (miss, row["error_bar"], row["tolerance"])]
    return [name, verdict(row["verdict"]), *numbers, row["unit"], row["reason"]]


def experiment(one: Results, name: str) -> Markup:
    """Everything that its folder holds, what is not confirmed first."""
    content, rows = one.content, one.rows
    parts: list[str] = [
        tag("h2", one.name, id=name),
        tag("p", content["paper"]),
        tag("p", counts(rows), f"; {content['seconds']:.0f} s; {one.folder}"),
    ]
    if content["error"] is not None:
        parts.append(tag("p", "It died: ", _first(content["error"]), class_="died"))
        parts.append(fold("Its last words", tag("pre", content["error"])))
    for word in WORST_FIRST:
        chosen = [_row(row, content["paper"]) for row in rows if row["verdict"] == word]
        if not chosen:
            continue
        caption = f"{one.name}: {len(chosen)} {word}"
        shown = table(caption, HEAD, chosen)
        parts.append(fold(f"{len(chosen)} confirmed", shown) if word == "confirmed" else shown)
    for figure, png in one.figures.items():
        alt = f"Figure {figure} of the experiment {one.name}, {content['paper']}"
        parts.append(picture(png, alt, figure))
    if one.data:
        parts.append(tag("p", "Runs in its folder: ", ", ".join(one.data)))
    if one.text.strip():
        parts.append(fold("What it printed", tag("pre", one.text)))
    for title in ("settings", "versions"):
        pairs = ((k, _json(v)) for k, v in content[title].items())
        parts.append(fold(title.capitalize(), facts(pairs)))
    return tag("section", *parts, aria_labelledby=name)


def _json(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def picture(png: bytes, alt: str, caption: str) -> Markup:
    source = "data:image/png;base64," + base64.b64encode(png).decode()
    image = tag("img", src=source, alt=alt, loading="lazy")
    return tag("figure", image, tag("figcaption", caption))


def run(one: SavedRun, name: str) -> Markup:
    """A saved run: what it says of itself, its loss, the stages found in it."""
    trajectory = one.trajectory
    title, *lines = str(trajectory).splitlines()
    rows = [
        [s.label, number(s.tau), number(s.t), number(s.error, 3), number(s.loss), _ranks(s.rank)]
        for s in trajectory.stages()
    ]
    head = ["switches", "τ", "t", "error bar of t", "loss after", "rank after"]
    stages = table(f"Stages of {one.path.name}", head, rows) if rows else "No stage was found."
    made = trajectory.settings
    return tag(
        "section",
        tag("h2", one.path.name, id=name),
        tag("p", title),
        tag("pre", "\n".join(lines)),
        picture(_loss(trajectory), f"Loss against time of the run {one.path.name}", "loss"),
        stages,
        fold("Settings", facts((k, _json(v)) for k, v in made.items())),
        aria_labelledby=name,
    )


def _ranks(rank: dict[str, Any]) -> str:
    return " ".join(f"{name} {value}" for name, value in rank.items())


def _loss(trajectory: Any) -> bytes:
    import matplotlib.pyplot as plt

    from gflow.plot import STYLE

    with plt.rc_context(STYLE):
        axes = trajectory.plot()
        file = io.BytesIO()
        axes.figure.savefig(file, format="png", dpi=200)
        plt.close(axes.figure)
    return file.getvalue()
