"""A `theory` of the user's own, first on the import path: said, and what to do."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def gflow(folder: Path, *arguments: str, options: tuple[str, ...] = ()):
    """`python -m gflow` in a folder, which Python puts first on the import path."""
    return subprocess.run(
        [sys.executable, *options, "-m", "gflow", *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        cwd=folder,
    )


@pytest.fixture(params=["theory.py", "theory/__init__.py"])
def theirs(request, tmp_path):
    path = tmp_path / request.param
    path.parent.mkdir(exist_ok=True)
    path.write_text("raise RuntimeError('imported')\n")
    return path


@pytest.mark.parametrize(
    "arguments", [("list",), ("reproduce", "adapters"), ("new", "my-paper"), ("list", "--json")]
)
def test_the_papers_are_not_to_be_had(theirs, arguments):
    done = gflow(theirs.parents[theirs.name == "__init__.py"], *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    (sentence,) = done.stderr.splitlines()
    for part in (str(theirs), str(ROOT / "theory" / "__init__.py"), "Rename"):
        assert part in sentence


def test_the_doctor_says_whose_it_is(theirs):
    folder = theirs.parents[theirs.name == "__init__.py"]
    done = gflow(folder, "doctor")
    assert done.returncode == 1
    (line,) = (x for x in done.stdout.splitlines() if x.split()[1] == "theory")
    assert line.startswith("bad")
    assert str(theirs) in line
    assert "Rename" in line
    assert "diffrax" in done.stdout
    # the installed command does not look into the folder, but a notebook there would
    done = gflow(folder, "doctor", options=("-P",))
    assert done.returncode == 0
    (line,) = (x for x in done.stdout.splitlines() if x.split()[1] == "theory")
    assert line.startswith("warning")
    assert str(theirs) in line


def test_a_version_needs_nothing(theirs):
    done = gflow(theirs.parents[theirs.name == "__init__.py"], "--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("gflow ")


def test_no_theory_at_all(monkeypatch):
    import importlib.util

    from gflow._theory import find_theory

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "theory", None)
    found = find_theory()
    assert found.path is None
    assert "Install gflow again" in str(found.fault)
