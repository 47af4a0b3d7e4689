"""`gflow report`: one page that needs nothing, says what the reports say, and escapes all of it."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import gflow
from gflow import _cli as cli
from theory.reproduce import _page
from theory.reproduce._page._difference import differences
from theory.reproduce._page._html import escaped
from theory.reproduce._page._sources import gathered

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)
NASTY = '<script>alert("x")</script>&amp;\'"><img src=https://evil.example/a.png>\x00'


def row(quantity, verdict="confirmed", **changes):
    numbers = {"predicted": 1.0, "measured": 1.25, "error_bar": 0.125, "tolerance": 0.5}
    texts = {"unit": "τ", "paper": "Euler 1744", "reason": "0.25 off", "verdict": verdict}
    passed = verdict == "confirmed"
    return {"quantity": quantity, **texts, **numbers, "passed": passed, **changes}


def report(*rows, name="toy", **changes):
    content = {"name": name, "paper": "Euler 1744", "versions": {"gflow": "0"}, "settings": {}}
    ended = {"seconds": 1.5, "rows": list(rows), "figures": ["course.png"], "runs": [],
             "error": None, "passed": False}  # fmt: skip
    return content | ended | changes


@pytest.fixture
def folder(tmp_path):
    """Writes the folder of an experiment, with a figure and what it printed."""

    def make(content, where="toy", text="printed", figure=PIXEL):
        place = tmp_path / where
        place.mkdir(parents=True, exist_ok=True)
        (place / "report.json").write_text(json.dumps(content))
        (place / "report.txt").write_text(text)
        (place / "course.png").write_bytes(figure)
        return place

    return make


@pytest.fixture
def made(tmp_path, capsys):
    """Runs `gflow report` and returns the page."""

    def make(*arguments):
        out = tmp_path / "report.html"
        assert cli.main(["report", *map(str, arguments), "--out", str(out)]) == 0
        assert "is written" in capsys.readouterr().out
        return out.read_text(encoding="utf-8")

    return make


class Page(HTMLParser):
    """Elements with their attributes, the text of cells, and what is not as it should be."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.elements, self.faults, self.texts = [], [], [], []
        self.feed(text)
        self.close()
        self.faults += [f"{name} is not closed" for name in self.open]

    def handle_starttag(self, tag, attrs):
        if len({name for name, _ in attrs}) < len(attrs):
            self.faults.append(f"an attribute of {tag} is there twice")
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"{tag} is closed where it is not open")

    def handle_data(self, data):
        self.texts.append(data)

    def of(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def checked(text):
    page = Page(text)
    assert page.faults == []
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.elements:
        assert not any(name.startswith("on") or name == "style" for name in attributes)
        for name in ("src", "href"):
            if name in attributes:
                start = "data:image/png;base64," if tag == "img" else "#"
                assert attributes[name].startswith(start)
        if attributes.get("href"):
            assert attributes["href"][1:] in ids
        if "aria-labelledby" in attributes:
            assert attributes["aria-labelledby"] in ids
    assert all(len(image["alt"]) > 10 for image in page.of("img"))
    assert {name for name, _ in page.elements} & {"link", "iframe", "object", "base"} == set()
    assert "url(" not in text
    assert "@import" not in text
    return page


def test_a_page_says_what_the_report_says(folder, made):
    rows = [
        row("a.time"),
        row("b.time", "refuted", predicted=None),
        row("c", "undecided", measured=0.75),
    ]
    page = checked(made(folder(report(*rows))))
    said = "".join(page.texts)
    assert "1 experiment: 1 confirmed, 1 undecided, 1 refuted." in said
    values = [cell["data-value"] for cell in page.of("td") if "data-value" in cell]
    # the row that is refuted first; of it nothing is predicted, and so no miss
    assert values[:4] == ["1", "1", "1", "1.5"]
    assert values[4:7] == ["1.25", "0.125", "0.5"]
    assert values[7:12] == ["1.0", "0.75", "0.25", "0.125", "0.5"]
    assert page.of("img")[0]["alt"] == "Figure course of the experiment toy, Euler 1744"
    assert base64.b64decode(page.of("img")[0]["src"].partition(",")[2]) == PIXEL
    assert len(page.of("html")) == 1
    assert page.of("html")[0]["lang"] == "en"


def test_the_same_results_make_the_same_page(folder, made):
    place = folder(report(row("a")))
    assert made(place) == made(place / "report.json") == made(place, place)


def test_a_folder_of_folders_has_an_index(folder, made, tmp_path):
    folder(report(row("a"), name="one"), "all/one")
    folder(report(name="two", error="Killed.\nby signal 9"), "all/two")
    page = checked(made(tmp_path / "all"))
    links = [a["href"] for a in page.of("a") if a["href"].startswith("#experiment")]
    assert links == ["#experiment-1", "#experiment-2"]
    said = "".join(page.texts)
    assert "died: Killed." in said
    assert "; 1 died" in said


def test_everything_is_escaped(folder, made):
    nasty = row(NASTY, "undecided", unit=NASTY, paper=NASTY, reason=NASTY)
    content = report(nasty, name=NASTY, paper=NASTY + "2", error=NASTY)
    content |= {"settings": {NASTY: [NASTY]}, "versions": {NASTY: NASTY}}
    before = report(row(NASTY), name=NASTY)
    one, other = folder(content, text=NASTY), folder(before, "before")
    text = made(one, "--against", other)
    page = checked(text)
    assert len(page.of("script")) == 1
    assert len(page.of("img")) == 1
    assert "\x00" not in text
    assert "<script>alert" not in text
    assert NASTY.replace("\x00", "\ufffd") in "".join(page.texts)
    assert escaped("\ud800<") == "\ufffd&lt;"


def test_no_script_runs_but_ours(folder, made):
    text = made(folder(report(row("a"))))
    (policy,) = (m["content"] for m in Page(text).of("meta") if "http-equiv" in m)
    assert policy.startswith("default-src 'none'; img-src data:;")
    for tag in ("script", "style"):
        (inside,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return sum(a * b for a, b in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_text_is_legible_in_light_dark_and_print():
    style = (Path(_page.__file__).parent / "page.css").read_text()
    themes = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    assert len(themes) == 3
    for theme in themes:
        colours = dict(re.findall(r"--(\w+): (#\w{6})", theme))
        assert len(colours) == 9
        for name in ("ink", "soft", "link", "confirmed", "undecided", "refuted"):
            for ground in ("paper", "band"):
                pair = sorted(luminance(colours[x]) for x in (name, ground))
                assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5, (name, ground)
    bare = re.sub(r":root \{.*?\}", "", style, flags=re.DOTALL)
    assert set(re.findall(r"#[0-9a-f]{3,6}\b", bare)) == {"#ffffff"}  # behind figures


def test_a_difference_names_what_changed(folder):
    old = report(
        row("same"), row("worse"), row("better", "undecided"), row("gone"),
        row("within"), row("beyond"), row("predicted"), row("rounded", predicted=0.1 + 0.2),
        row("unknown", "refuted", measured=None), settings={"n": 1, "m": 2},
    )  # fmt: skip
    new = report(
        row("beyond", measured=1.51), row("better"), row("same"), row("worse", "refuted"),
        row("new"), row("within", measured=1.49), row("predicted", predicted=2.0),
        row("rounded", predicted=0.3), row("unknown", "refuted"), settings={"n": 3, "m": 2},
    )  # fmt: skip
    a, b = gathered([folder(new, "new")]), gathered([folder(old, "old")])
    (found,) = differences(a, b)
    assert {change.quantity: change.kinds for change in found.changes} == {
        "worse": ("verdict worse",),
        "better": ("verdict better",),
        "gone": ("gone",),
        "new": ("appeared",),
        "beyond": ("measured",),
        "predicted": ("predicted",),
        "unknown": ("measured",),
    }
    order = [change.quantity for change in found.changes]
    assert order[:4] == ["worse", "gone", "new", "better"]
    assert found.unchanged == 3
    assert found.facts == [("settings: n", "1", "3")]
    (back,) = differences(b, a)
    kinds = {change.quantity: change.kinds for change in back.changes}
    assert kinds["worse"] == ("verdict better",)
    assert kinds["gone"] == ("appeared",)
    (none,) = differences(a, a)
    assert (none.facts, none.changes, none.unchanged) == ([], [], 9)


def test_a_page_shows_the_difference(folder, made):
    one = folder(report(row("a", "refuted"), name="toy"), "now/toy")
    folder(report(row("a")), "then/toy")
    other = folder(report(row("z"), name="other"), "then/other").parent
    said = "".join(checked(made(one, "--against", other)).texts)
    assert "1 verdicts worse, 0 better; 0 rows gone, 0 new; 0 others changed, 0 did not" in said
    assert "verdict worse" in said
    assert "other: as a whole" in said


BROKEN = {
    "cut off": ("{", "is not JSON"),
    "a list": ("[]", "is no object"),
    "foreign": ('{"name": "x"}', "has no 'paper'"),
    "a row": (json.dumps(report(row("a") | {"verdict": "fine"})), "the verdict on 'a' is 'fine'"),
    "at odds": (json.dumps(report(row("a", passed=False))), "passed = False"),
    "twice": (json.dumps(report(row("a"), row("a"))), "twice"),
    "text": (json.dumps(report(row("a", measured="1"))), "row 0 has measured = '1'"),
    "truth": (json.dumps(report(row("a", measured=True))), "row 0 has measured = 'True'"),
    "beyond": (json.dumps(report(row("a"))).replace("1.25", "1e999"), "measured = 'inf'"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_broken_or_foreign_gets_a_sentence(case, folder, tmp_path, capsys):
    content, says = BROKEN[case]
    place = folder(report())
    (place / "report.json").write_text(content)
    refused([str(place)], says, tmp_path, capsys)


def refused(arguments, says, tmp_path, capsys):
    out = tmp_path / "page.html"
    assert cli.main(["report", *arguments, "--out", str(out)]) == 2
    said = capsys.readouterr()
    assert says in said.err
    assert len(said.err.splitlines()) == 1
    assert said.out == ""
    assert not out.exists()


def test_paths_that_cannot_be_used(folder, tmp_path, capsys):
    good = str(folder(report(row("a"))))
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.nc").write_bytes(b"nothing")
    cases = {
        "nowhere": "does not exist",
        "empty": "holds no report.json",
        "bad.nc": "cannot be read as NetCDF",
        "toy/report.txt": "is no folder and no .nc file",
    }
    for path, says in cases.items():
        refused([str(tmp_path / path)], says, tmp_path, capsys)
        refused([good, "--against", str(tmp_path / path)], says, tmp_path, capsys)
    twice = str(folder(report(row("a")), "second/toy"))
    refused([good, twice, "--against", good], "is there 2 times", tmp_path, capsys)
    refused([str(folder(report(), "third", figure=b"GIF"))], "is no PNG", tmp_path, capsys)


def test_figures_are_those_of_the_report(folder, made, tmp_path, capsys):
    place = folder(report(row("a")))
    (place / "stale.png").write_bytes(PIXEL)
    page = made(place)
    assert "Figure course of" in page
    assert "stale" not in page
    (place / "course.png").unlink()
    refused([str(place)], "course.png cannot be read: No such file", tmp_path, capsys)
    for named in ("../course.png", "course.pdf", 3):
        place = folder(report(figures=[named]), "other")
        refused([str(place)], "is damaged: its figures include", tmp_path, capsys)


def test_nothing_else_is_overwritten(folder, capsys):
    place = folder(report(row("a")))
    before = (place / "report.json").read_bytes()
    for out in (place / "report.json", place, place / "missing" / "report.html"):
        assert cli.main(["report", str(place), "--out", str(out)]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert (place / "report.json").read_bytes() == before
    assert sorted(file.name for file in place.iterdir()) == [
        "course.png", "report.json", "report.txt",
    ]  # fmt: skip


def test_a_saved_run(made, tmp_path):
    weight = gflow.Hadamard.small(3, alpha=1e-20, key=jax.random.key(0))
    objective = gflow.objectives.SquaredLoss(jnp.eye(3), jnp.array([3.0, 2.0, 1.0]))
    run = gflow.simulate(gflow.models.DiagonalLinear(weight), objective, tau1=4.0)
    run.save(tmp_path / "run.nc")
    page = checked(made(tmp_path / "run.nc"))
    said = "".join(page.texts)
    assert "1 saved run." in said
    values = [float(cell["data-value"]) for cell in page.of("td") if "data-value" in cell]
    stages = run.stages()
    assert len(stages) == 3
    assert values == [x for s in stages for x in (s.tau, s.t, s.error, s.loss)]
    assert "weight[0]" in said
    refused_against = ["report", str(tmp_path / "run.nc"), "--against", str(tmp_path / "run.nc")]
    assert cli.main(refused_against) == 2
