"""Experiments of other people: found by entry point and by path; what is broken is named."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import papers
import pytest
from papers import written
from terminals import PLACES, standard_error

from gflow import _cli as cli
from theory.reproduce import Experiment, _command
from theory.reproduce._registry import Entry

ROOT = Path(__file__).parents[2]
GOOD = "report.add('answer', 42.0, 42.0, tolerance=0.5)"


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder on the import path, as packages are installed in."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    return folder


def listed(capsys) -> dict[str, dict]:
    capsys.readouterr()
    assert cli.main(["list", "--json"]) == 0
    return {one["name"]: one for one in json.loads(capsys.readouterr().out)}


def test_an_entry_point_is_listed_and_runs(site, tmp_path, capsys):
    with papers.write(site, "stranger", GOOD).open("a") as file:
        file.write("\n\nprint('a greeting at every import')\n")
    papers.distribution(site, "strange-papers", stranger="stranger:experiment")
    one = listed(capsys)["stranger"]
    assert one["summary"] == "for tests"
    assert one["origin"] == "the package strange-papers 1.0 (stranger:experiment)"
    assert cli.main(["list"]) == 0
    assert "from the package strange-papers 1.0" in capsys.readouterr().out
    assert cli.main(["reproduce", "stranger", "--out", str(tmp_path)]) == 0
    report = written(tmp_path, "stranger")
    assert report["passed"]
    assert [row["quantity"] for row in report["rows"]] == ["answer"]
    # the same paper by its path is no rival of itself
    path = str(site / "stranger.py")
    assert cli.main(["reproduce", path, "--fast", "--out", str(tmp_path)]) == 0
    assert written(tmp_path, "stranger")["settings"] == {"fast": True, "size": 1}


def test_broken_plug_ins_are_named_and_break_nothing(site, tmp_path, capsys):
    (site / "raises.py").write_text("import os\n\nraise RuntimeError('boom')\n")
    (site / "leaves.py").write_text("import os\nprint('on my way')\nos._exit(3)\n")
    (site / "quits.py").write_text("import sys\nsys.exit()\n")
    (site / "nothing.py").write_text("experiment = 3\n")
    (site / "syntax.py").write_text("experiment = (\n")
    papers.write(site, "other", GOOD)
    papers.distribution(
        site,
        "bad",
        raises="raises:experiment",
        leaves="leaves:experiment",
        quits="quits:experiment",
        nothing="nothing:experiment",
        syntax="syntax:experiment",
        missing="no_such_module:experiment",
        renamed="other:experiment",
    )
    found = listed(capsys)
    says = {
        "raises": "RuntimeError: boom (line 3 of raises.py)",
        "leaves": "Ended with exit status 3",
        "quits": "SystemExit",
        "nothing": "experiment is 3",
        "syntax": "SyntaxError",
        "missing": "No module named 'no_such_module'",
        "renamed": "are to have one name",
    }
    for name, sentence in says.items():
        assert sentence in found[name]["error"], name
        assert "the package bad 1.0" in found[name]["error"]
        assert "\n" not in found[name]["error"]
    assert found["adapters"]["error"] is None
    assert cli.main(["list"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("gradual-rank")
    assert "boom" in printed.err
    assert "on my way" not in printed.out
    assert cli.main(["reproduce", "raises", "--out", str(tmp_path)]) == 2
    assert "boom" in capsys.readouterr().err
    assert not (tmp_path / "raises").exists()


def test_one_name_belongs_to_one_experiment(site, tmp_path, capsys):
    papers.write(site, "adapters", GOOD)
    papers.write(site, "twice", GOOD)
    papers.distribution(site, "first", adapters="adapters:experiment", twice="twice:experiment")
    papers.distribution(site, "second", twice="twice:experiment")
    found = listed(capsys)
    assert "gflow; the package first 1.0 (adapters:experiment)" in found["adapters"]["error"]
    for part in ("'twice'", "the package first 1.0", "the package second 1.0", "Rename"):
        assert part in found["twice"]["error"]
    for name in ("adapters", "twice"):
        assert cli.main(["reproduce", name, "--out", str(tmp_path)]) == 2
        assert "Several experiments" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [site]


def test_all_runs_what_it_can_and_does_not_pass_over_the_rest(tmp_path, monkeypatch, capsys):
    good = Entry("good", "no paper", "", "gflow", "good:experiment")
    bad = Entry("bad", "", "", "elsewhere", "bad:experiment", "bad cannot be loaded: boom")
    content = {"name": "good", "seconds": 0.0, "rows": [], "error": None}
    ran = []
    monkeypatch.setattr(_command, "run_apart", lambda one, *a, **k: ran.append(one) or content)
    for found, status in (([good], 0), ([good, bad], 1), ([bad], 1)):
        monkeypatch.setattr(_command, "entries", lambda found=found: found)
        assert cli.main(["reproduce", "--all", "--out", str(tmp_path)]) == status
        assert ("boom" in capsys.readouterr().err) == (bad in found)
    assert ran == [good, good]


@pytest.mark.parametrize(("stream", "shown"), PLACES)
def test_a_bar_of_experiments_stands_below_what_they_say(stream, shown, tmp_path, monkeypatch):
    found = [Entry(name, "no paper", "", "gflow", f"{name}:experiment") for name in ("one", "two")]

    def run(one, folder, *, out, errors, **settings):
        out.write(f"{one.name} begins\nand en")
        out.write("ds\n")
        errors.write("unfinished")
        return {"name": one.name, "seconds": 0.0, "rows": [], "error": None}

    monkeypatch.setattr(_command, "entries", lambda: found)
    monkeypatch.setattr(_command, "run_apart", run)
    said = standard_error(monkeypatch, stream)
    monkeypatch.setattr(sys, "stdout", said)
    assert cli.main(["reproduce", "--all", "--out", str(tmp_path)]) == 0
    text = said.getvalue()
    for line in ("one begins", "and ends", "two begins", "unfinished"):
        assert line in text
    assert ("2/2 experiments" in text) == shown
    # what is said begins where the bar has been wiped out
    assert not shown or all(text[text.index(f"{n} begins") - 1] == "\r" for n in ("one", "two"))


def test_files_of_one_name_are_refused(tmp_path, capsys):
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    paths = [str(papers.write(folder, "same", GOOD)) for folder in (one, two)]
    out = str(tmp_path / "out")
    assert cli.main(["reproduce", *paths, "--out", out]) == 2
    printed = capsys.readouterr().err
    assert all(path in printed for path in paths)
    shipped = str(papers.write(one, "exact-linear", GOOD))
    assert cli.main(["reproduce", shipped, "--out", out]) == 2
    assert f"gflow; {shipped}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "experiment is missing"),
        ("def f(:\n", "SyntaxError: invalid syntax (line 1 of paper.py)"),
        ("import os\n\nx = 1 / 0\n", "ZeroDivisionError: division by zero (line 3 of paper.py)"),
    ],
)
def test_a_file_that_cannot_be_run(text, says, tmp_path, capsys):
    path = tmp_path / "paper.py"
    path.write_text(text)
    assert cli.main(["reproduce", str(path), "--out", str(tmp_path)]) == 2
    printed = capsys.readouterr().err
    assert f"{path} cannot be run: " in printed
    assert says in printed
    assert "Traceback" not in printed


Settings = dataclasses.make_dataclass("Settings", [("size", object, 1)])
Other = dataclasses.make_dataclass("Other", [("size", object, 1)])
Hidden = dataclasses.make_dataclass("Hidden", [("fast", bool, True)])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"name": "Upper"}, "lower-case letters"),
        ({"name": "../up"}, "lower-case letters"),
        ({"name": ""}, "lower-case letters"),
        ({"paper": "two\nlines"}, "one line of text"),
        ({"summary": " "}, "one line of text"),
        ({"settings": Settings}, "instance of a dataclass"),
        ({"settings": {"seeds": 3}}, "instance of a dataclass"),
        ({"settings": Settings(object())}, "report.json"),
        ({"settings": Settings(float("nan"))}, "report.json"),
        ({"settings": Hidden()}, "called fast"),
        ({"fast": Other()}, "both go to one"),
    ],
)
def test_what_an_experiment_may_be(change, says):
    good = {
        "name": "a",
        "paper": "b",
        "summary": "c",
        "module": "d",
        "settings": Settings(),
        "fast": Settings(2),
    }
    Experiment(**good)
    with pytest.raises((ValueError, TypeError), match=says):
        Experiment(**{**good, **change})


def test_a_folder_is_a_paper(tmp_path):
    """With relative imports, a module that is loaded only when it runs, and its own helper."""
    folder = tmp_path / "whole-paper"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from theory.reproduce import Experiment\n"
        "from .settings import Settings\n"
        "experiment = Experiment('whole', 'no paper', 'a folder', f'{__name__}.run', Settings())\n"
    )
    (folder / "settings.py").write_text(
        "import dataclasses\n\n@dataclasses.dataclass\nclass Settings:\n    answer: float = 42.0\n"
    )
    (folder / "run.py").write_text(
        "from .settings import Settings\n\n\ndef run(report, settings: Settings):\n"
        "    report.add('answer', 42.0, settings.answer, 0.0)\n"
    )
    assert cli.main(["reproduce", str(folder), "--out", str(tmp_path)]) == 0
    assert written(tmp_path, "whole")["settings"] == {"fast": False, "answer": 42.0}


def test_a_theory_of_the_papers_own_folder_hides_nothing(tmp_path):
    """Siblings can be imported as by a script, but `theory` is gflow's."""
    (tmp_path / "theory.py").write_text("raise RuntimeError('not me')\n")
    (tmp_path / "helper.py").write_text("answer = 42.0\n")
    path = papers.write(
        tmp_path,
        "sibling",
        "import helper, theory",
        "report.add('answer', helper.answer, 42.0, 0.0)",
        "report.add('theory', 1.0, float(callable(theory.compare)), 0.0)",
    )
    # as the installed command does: the working folder is not on the import path
    done = subprocess.run(
        [sys.executable, "-P", "-m", "gflow", "reproduce", path.name, "--out", "out"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert written(tmp_path / "out", "sibling")["passed"]


def test_a_file_does_not_take_the_name_of_a_module(tmp_path, capsys):
    path = papers.write(tmp_path, "json", GOOD)
    assert cli.main(["reproduce", str(path), "--out", str(tmp_path)]) == 2
    assert "its name is taken" in capsys.readouterr().err


def test_a_paper_without_run_dies_with_a_sentence(tmp_path):
    path = papers.write(tmp_path, "idle", "pass")
    path.write_text(path.read_text().replace("def run(", "def go("))
    assert cli.main(["reproduce", str(path), "--out", str(tmp_path)]) == 1
    assert "has no function run(report, settings)" in written(tmp_path, "idle")["error"]
