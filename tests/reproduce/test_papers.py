"""The shape of a paper: of those shipped, of the template, of the example in the docs."""

import ast
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from papers import written

from gflow import _cli as cli
from theory.reproduce._registry import SHIPPED

ROOT = Path(__file__).parents[2]
REPRODUCE = ROOT / "theory" / "reproduce"
MEASURES = sorted(REPRODUCE.rglob("measure.py"))


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_paper_is_a_folder(name):
    folder = REPRODUCE / name.replace("-", "_")
    experiment = importlib.import_module(f"theory.reproduce.{folder.name}").experiment
    assert experiment.name == name
    assert callable(importlib.import_module(experiment.module).run)
    assert experiment.fast is not None
    assert experiment.fast != experiment.settings
    rooms = [folder]
    if (module := folder / "run.py").is_file():  # parts that several papers share lie beside them
        rooms += [
            REPRODUCE / room for room in re.findall(r"^from \.\.(\w+)", module.read_text(), re.M)
        ]
    for part in ("problem", "measure", "draw"):
        assert any(list(room.rglob(f"{part}.py")) for room in rooms), part


def test_measuring_needs_no_figures():
    assert len(MEASURES) > 10
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in MEASURES]
    code = (
        "import importlib, sys\n"
        f"for name in {modules}:\n    importlib.import_module(name)\n"
        "print('matplotlib' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "False", done.stderr


def test_papers_use_what_strangers_can():
    """Nothing private of gflow or theory, and `theory.reproduce` by its public names."""
    for path in REPRODUCE.glob("[!_]*/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                parts = [*(node.module or "").split("."), *(a.name for a in node.names)]
                assert not any(part.startswith("_") for part in parts), (path, parts)


def template_lines(text: str) -> int:
    """Lines of problem, measure and draw that are neither empty, docstring nor comment."""
    count = 0
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef) and node.name in ("problem", "measure", "draw"):
            first = node.body[1] if ast.get_docstring(node) else node.body[0]
            count += 1 + int(node.end_lineno or 0) - first.lineno + 1
    return count


def test_the_template_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["new", "wide-heads"]) == 0
    path = tmp_path / "wide_heads.py"
    assert "gflow reproduce wide_heads.py" in capsys.readouterr().out
    text = path.read_text()
    assert "my" + "-paper" not in text
    assert template_lines(text) <= 30
    assert cli.main(["reproduce", "wide_heads.py", "--fast", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == written(tmp_path / "results", "wide-heads")
    assert report["passed"]
    assert len(report["rows"]) > 20
    assert report["settings"] == {"fast": True, "exponents": [64]}
    assert (tmp_path / "results" / "wide-heads" / "loss.png").stat().st_size > 10_000
    # an existing file is left as it is, and so is what the template was made into
    path.write_text("mine")
    assert cli.main(["new", "wide-heads"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Wide", "lower-case"),
        ("../up", "lower-case"),
        ("a--b", "lower-case"),
        ("adapters", "'adapters'"),
        ("json", "hide"),
        ("3-heads", "begin the name"),
        ("class", "begin the name"),
    ],
)
def test_names_that_a_paper_cannot_have(name, says, tmp_path, capsys):
    assert cli.main(["new", name, "--folder", str(tmp_path)]) == 2
    assert says in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_missing_is_a_sentence(tmp_path, capsys):
    assert cli.main(["new", "my-paper", "--folder", str(tmp_path / "no")]) == 2
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.slow
def test_the_example_of_the_docs_runs(tmp_path):
    page = (ROOT / "docs" / "extend" / "a_paper.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len([line for line in example.splitlines() if line.strip()]) <= 30
    (tmp_path / "logistic.py").write_text(example)
    out = ["--out", str(tmp_path)]
    assert cli.main(["reproduce", str(tmp_path / "logistic.py"), *out]) == 0
    report = written(tmp_path, "logistic")
    assert report["passed"]
    assert (tmp_path / "logistic" / "course.png").exists()
    # it can refute: another rate in the closed form does
    (tmp_path / "logistic.py").write_text(example.replace("exp(-2", "exp(-2.01"))
    assert example.count("exp(-2") == 1
    assert cli.main(["reproduce", str(tmp_path / "logistic.py"), "--fast", *out]) == 1
