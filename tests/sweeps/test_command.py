"""`gflow sweep FILE`: what it runs, says and returns, and that it shows no traceback."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import small_sweeps
from terminals import PLACES, standard_error

import gflow
from gflow._cli import main
from gflow.sweeps import _progress

MODEL = """
import small_sweeps
from terminals import PLACES, standard_error
build = small_sweeps.build
def broken(log10_alpha, seed):
    if seed == 1:
        raise RuntimeError("no such data")
    return small_sweeps.build(log10_alpha, seed)
number = 3
"""
FILE = """
build = "model.py:build"
out = "runs"
seeds = 4
tau1 = 1.5
chunk = 2
error_bars = false
[grid]
log10_alpha = [-8.0, -16.0]
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "sweep.toml").write_text(FILE)
    return tmp_path


def test_it_runs_goes_on_and_tells(folder, capsys):
    file = str(folder / "sweep.toml")
    assert main(["sweep", file, "--process-id", "1", "--num-processes", "2", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["done"] for line in lines[:-1]] == [0, 2, 4]
    assert lines[0]["left"] is None
    assert lines[-1] == {"path": str(folder / "runs"), "done": 4, "failed": 0}
    assert main(["sweep", file]) == 0
    said = capsys.readouterr()
    assert "8 runs, 4 seeds a setting, in 4 files" in said.out
    assert said.err == ""
    assert gflow.open_sweep(folder / "runs").done == 8


def test_failures_are_told_by_the_status(folder, capsys):
    (folder / "sweep.toml").write_text(FILE.replace(":build", ":broken"))
    assert main(["sweep", str(folder / "sweep.toml"), "--out", str(folder / "other")]) == 1
    assert "run 1: RuntimeError: no such data" in capsys.readouterr().out
    assert not (folder / "runs").exists()
    retried = ["sweep", str(folder / "sweep.toml"), "--out", str(folder / "other")]
    assert main([*retried, "--retry-failed"]) == 1


#: What stands in the file, what in its place, and what is said of it.
MISTAKES = [
    ("seeds = 4", "seed = 4", r"has 'seed', which is unknown: did you mean seeds\?"),
    ("seeds = 4", "seeds = ", "is no TOML"),
    ("model.py:build", "model.py", 'write build = "model.py:build"'),
    ("model.py:build", "models.py:build", "there is no file"),
    ("model.py:build", "model.py:number", "there is no function number"),
    ("model.py:build", "no_such_module:build", "cannot be imported: ModuleNotFoundError"),
    ('out = "runs"', "out = 3", "write the name of a folder"),
    ("log10_alpha = [-8.0, -16.0]", "p = [1]", "first run, build.* cannot be made: TypeError"),
    ("log10_alpha = [-8.0, -16.0]", "log10_alpha = 3", "give a list of values"),
    ("tau1 = 1.5", "tau1 = -1.5", "None of the first 2 runs can be run"),
    ("tau1 = 1.5", "tau1 = 'x'", "'x' is no "),
    ("chunk = 2", "chunk = 0.5", "chunk = 0.5"),
    ("chunk = 2", "curves = 'norm'", "curves names 'norm'"),
]
SCRIPT = """
import contextlib, io, json, sys
from gflow._cli import main
found = []
for file in sys.argv[1:]:
    with contextlib.redirect_stderr(io.StringIO()) as stream:
        found.append((main(["sweep", file]), stream.getvalue()))
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """Status and sentence of every mistake, in a process without the type checks of this suite."""
    files = []
    for old, new, _ in MISTAKES:
        assert old in FILE
        folder = tmp_path_factory.mktemp("mistake")
        (folder / "model.py").write_text(MODEL)
        files.append(folder / "sweep.toml")
        files[-1].write_text(FILE.replace(old, new))
    support = Path(small_sweeps.__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *files], capture_output=True, text=True, cwd=support,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("case", range(len(MISTAKES)))
def test_mistakes_are_told_in_a_sentence(case, told):
    code, error = told[case]
    assert code == 2
    assert error.startswith("gflow sweep: ")
    assert "Traceback" not in error
    assert re.search(MISTAKES[case][2], error), error


@pytest.mark.parametrize(("stream", "shown"), PLACES)
def test_a_bar_where_it_is_seen_alone(stream, shown, monkeypatch):
    said = standard_error(monkeypatch, stream)
    progress = _progress.Progress(True, 8, 2, 0)
    progress.add(6, 1)
    progress.close()
    assert ("8/8" in said.getvalue()) == shown
    assert ("failed=1" in said.getvalue()) == shown
    assert bool(said.getvalue()) == shown
