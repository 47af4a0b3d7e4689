"""The command line: listing, errors, report.json, exit status."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import jax.numpy as jnp
import papers
import pytest
from papers import written

import gflow
import theory
from gflow import _cli as cli
from theory.reproduce import Report
from theory.reproduce._registry import SHIPPED
from theory.reproduce._report import judged

ROOT = Path(__file__).parents[2]
ROW = {
    "quantity",
    "unit",
    "paper",
    "predicted",
    "measured",
    "error_bar",
    "tolerance",
    "verdict",
    "reason",
    "passed",
}


@pytest.fixture
def experiment(tmp_path):
    """A file with an experiment, by its path; it runs in a process of its own."""

    def make(name: str, *lines: str) -> str:
        return str(papers.write(tmp_path, name, *lines))

    return make


def answer(measured: str) -> str:
    return f"report.add('answer', 42.0, {measured}, tolerance=0.5, error_bar=0.1, unit='τ')"


def test_list_names_every_experiment(capsys):
    assert cli.main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line.split()[0] for line in lines if not line.startswith(" ")]
    assert names == list(SHIPPED)
    # the summaries begin in one column, after the longest name
    column = max(map(len, names)) + 2
    assert all(line[:column].strip() in ("", *names) for line in lines)


def test_list_as_json(capsys):
    assert cli.main(["list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in found] == list(SHIPPED)
    for one in found:
        assert set(one) == {"name", "paper", "summary", "origin", "error"}
        assert one["origin"] == "gflow"
        assert one["error"] is None
        assert "arXiv" in one["paper"]


def test_the_version_is_the_distributions(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"gflow {gflow.__version__}\n"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" in project["project"]["dynamic"]
    file = ROOT / project["tool"]["hatch"]["version"]["path"]
    assert f'__version__ = "{gflow.__version__}"' in file.read_text()
    assert f"\nversion: {gflow.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert project["project"]["scripts"] == {"gflow": "gflow._cli:main"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["reproduce", "gradual-rnk"], "Did you mean 'gradual-rank'?"),
        (["reproduce", "quantum"], "There are: gradual-rank"),
        (["reproduce"], "--all"),
        (["reproduce", "adapters", "--all"], "not both"),
        (["reproduce", "nowhere.py"], "There is no file nowhere.py"),
    ],
)
def test_unknown_experiments_are_named(arguments, says, capsys):
    assert cli.main(arguments) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("measured", "status", "verdict"),
    [("42.3", 0, "confirmed"), ("43.0", 1, "refuted")],
)
def test_report_and_exit_status(experiment, measured, status, verdict, tmp_path, capsys):
    path = experiment("fake", "report.say('a table')", answer(measured))
    assert cli.main(["reproduce", path, "--out", str(tmp_path)]) == status
    report = written(tmp_path, "fake")
    keys = "name paper versions settings seconds rows figures runs error passed"
    assert set(report) == set(keys.split())
    assert set(report["rows"][0]) == ROW
    assert report["rows"][0]["verdict"] == verdict
    assert report["rows"][0]["unit"] == "τ"
    assert report["rows"][0]["passed"] is report["passed"] is (status == 0)
    assert report["error"] is None
    assert report["settings"] == {"fast": False, "size": 2}
    assert "jax" in report["versions"]
    out = capsys.readouterr().out
    assert "a table" in out
    assert f"1 {verdict}" in out


@pytest.mark.slow
def test_json_is_one_report_or_a_list_of_them(experiment, tmp_path, capsys):
    one = experiment("one", "print('not JSON')", "report.say('a table')", answer("42"))
    two = experiment("two", answer("42"))
    options = ["--json", "--fast", "--out", str(tmp_path)]
    assert cli.main(["reproduce", one, *options]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == written(tmp_path, "one")
    assert printed["settings"] == {"fast": True, "size": 1}
    assert cli.main(["reproduce", one, two, *options]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == [written(tmp_path, "one"), written(tmp_path, "two")]


@pytest.mark.skipif(os.name != "posix", reason="signals by name")
def test_a_death_is_that_experiments_own(experiment, tmp_path, capsys):
    bodies = {
        "crash": (answer("42"), "report.say('so far')", "ctypes.string_at(0)"),
        "raises": (answer("42"), "raise RuntimeError('boom')"),
        "leaves": (answer("42"), "os._exit(0)"),
        "empty": ("report.say('nothing judged')",),
        "good": (answer("42"),),
    }
    paths = [experiment(name, *lines) for name, lines in bodies.items()]
    names = list(bodies)
    # what an earlier run left must not pass for this one's result
    stale = tmp_path / "crash" / "report.json"
    stale.parent.mkdir()
    stale.write_text(json.dumps({"passed": True, "rows": [], "error": None}))
    assert cli.main(["reproduce", *paths, "--out", str(tmp_path)]) == 1
    reports = {name: written(tmp_path, name) for name in names}
    assert [reports[name]["passed"] for name in names] == [False] * 4 + [True]
    assert "SIGSEGV" in reports["crash"]["error"]
    assert "string_at" in reports["crash"]["error"]
    assert [row["quantity"] for row in reports["crash"]["rows"]] == ["answer"]
    first, *traceback = reports["raises"]["error"].splitlines()
    assert first.endswith("RuntimeError: boom")
    assert any("raises.py" in line for line in traceback)
    assert "not finished" in reports["leaves"]["error"]
    assert "no rows" in reports["empty"]["error"]
    out = capsys.readouterr().out
    summary = out[out.rindex("crash ") :]
    for name in names:
        assert re.search(rf"^{name} ", summary, re.MULTILINE)
    assert "5 experiments: 3 confirmed, 0 undecided, 0 refuted; 4 died" in summary


def test_undecided_is_listed_and_fails_nothing(experiment, tmp_path, capsys):
    undecided = answer("50").replace("unit", "undecided='a smaller α would decide', unit")
    path = experiment("fake", undecided)
    assert cli.main(["reproduce", path, "--out", str(tmp_path)]) == 0
    report = written(tmp_path, "fake")
    assert report["rows"][0]["verdict"] == "undecided"
    assert report["passed"] is False
    assert "answer: a smaller α would decide" in capsys.readouterr().out


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_ends_both_processes(experiment, tmp_path, number, status):
    path = experiment("slow", "print(os.getpid(), flush=True)", "time.sleep(60)")
    code = (
        "import signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from gflow import _cli\n"
        f"sys.exit(_cli.main(['reproduce', {path!r}, '--out', {str(tmp_path)!r}]))\n"
    )
    began = time.monotonic()
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.send_signal(number)
    parent.communicate(timeout=30)
    assert parent.returncode == status
    assert time.monotonic() - began < 50
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    assert written(tmp_path, "slow")["error"].startswith("Interrupted")


def test_the_parent_needs_no_jax():
    code = (
        "import sys\n"
        "from gflow import _cli\n"
        "import theory.reproduce._process\n"
        "_cli.main(['list'])\n"
        "print({'jax', 'matplotlib'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "set()", done.stderr


def test_results_that_cannot_be_written_are_a_sentence(experiment, tmp_path, capsys):
    path = experiment("fake", answer("42"))
    (tmp_path / "file").write_text("")
    assert cli.main(["reproduce", path, "--out", str(tmp_path / "file")]) == 2
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="a pipe that is closed")
def test_a_reader_that_leaves_is_no_error():
    done = subprocess.run(
        f"{sys.executable} -u -m gflow list | head -n 1; echo ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.stdout.splitlines()[0].startswith("gradual-rank")
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("measured", "tolerance", "bar", "verdict"),
    [
        (1.0, 0.0, 0.0, "confirmed"),
        (1.1, 0.05, 0.04, "refuted"),
        (1.1, 0.08, 0.04, "confirmed"),
        (0.9, 0.05, 0.04, "refuted"),
        (1.0, 0.01, 0.5, "undecided"),  # a bar that could hide anything confirms nothing
        (1.6, 0.01, 0.5, "refuted"),
        (1.0, 0.01, float("inf"), "undecided"),
        (1.0, 0.01, float("nan"), "undecided"),
        (float("inf"), 0.01, 0.0, "refuted"),
    ],
)
def test_a_number_is_judged_against_tolerance_and_bar(measured, tolerance, bar, verdict):
    assert judged(1.0, measured, tolerance, bar)[0] == verdict


def test_of_many_runs_each_claim_is_recorded_by_the_worst(tmp_path):
    report = Report("many", "no paper", tmp_path)

    def compared(*values, labels=("a", "b")):
        parts = [
            theory.Number(label, 1.0, lambda run, x=x: (x, 1e-3))
            for label, x in zip(labels, values, strict=False)
        ]
        model = gflow.models.DeepLinear((jnp.eye(1), jnp.eye(1)))
        run = gflow.simulate(model, lambda m: jnp.sum(m.product**2), t1=0.1)
        return theory.compare(run, theory.Prediction.of(*parts))

    tables = {
        "one": compared(1.0, 1.001),
        "two": compared(1.0005, math.nan),
        "three": compared(3.0),
    }
    report.compare_worst("key", tables)
    first, second = report.rows
    assert (first.quantity, first.verdict, first.measured) == ("key.a", "refuted", 3.0)
    assert first.reason.startswith("three, the worst of 3: ")
    assert (second.quantity, second.verdict) == ("key.b", "undecided")
    assert second.reason.startswith("two, the worst of 2: ")
    report.compare_worst("again", {k: tables[k] for k in ("one", "two")})
    assert report.rows[2].measured == 1.0005
    assert "again" in report.text[-1]


def test_a_key_names_one_quantity(tmp_path):
    report = Report("twice", "no paper", tmp_path)
    report.add("answer", 1.0, 1.0, 0.1)
    with pytest.raises(ValueError, match=r"'twice' records 'answer' twice"):
        report.add("answer", 1.0, 1.0, 0.1)


def test_only_a_finished_report_passes(tmp_path):
    report = Report("empty", "no paper", tmp_path)
    report.finish()
    assert not report.passed
    report = Report("unfinished", "no paper", tmp_path)
    report.add("answer", 1.0, 1.0, 0.1)
    assert not report.passed
    report.finish()
    assert report.passed


def test_readme_example_runs_and_is_confirmed(capsys):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    own_model = next(b for b in blocks if "eqx.Module" in b)
    lines = [line for line in own_model.splitlines() if line.strip()]
    assert len(lines) <= 20
    exec(compile(own_model, "README.md", "exec"), {})
    table = capsys.readouterr().out
    rows = [line for line in table.splitlines() if re.match(r"\d+ +\+", line)]
    assert len(rows) == 3
    assert re.search(r"^\d+ confirmed, 0 undecided at this α, 0 refuted$", table, re.MULTILINE)
    assert all(line.endswith("confirmed") for line in rows)


@pytest.mark.slow
def test_gradual_rank_reproduces_in_fast_mode(tmp_path):
    assert cli.main(["reproduce", "gradual-rank", "--fast", "--out", str(tmp_path)]) == 0
    folder = tmp_path / "gradual-rank"
    report = json.loads((folder / "report.json").read_text())
    assert report["error"] is None
    assert len(report["rows"]) > 40
    assert {row["verdict"] for row in report["rows"]} <= {"confirmed", "undecided"}
    for name in ("fixture", "softmax_head", "softmax_head_checks", "diabetes", "digits"):
        assert (folder / f"{name}.png").stat().st_size > 20_000
        assert (folder / f"{name}.pdf").exists()
