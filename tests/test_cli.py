"""The command line: listing, errors, report.json, exit status."""

import json
import re
from pathlib import Path

import pytest

from theory.reproduce import cli
from theory.reproduce.registry import EXPERIMENTS, Experiment
from theory.reproduce.report import Report

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def experiment(monkeypatch):
    """An experiment whose single row is decided by the test."""

    def make(measured: float):
        class Fake(Experiment):
            def run(self, report: Report) -> None:
                report.say("a table")
                report.add("answer", 42.0, measured, tolerance=0.5, error_bar=0.1)

        fake = Fake("fake", "no paper", "for tests", "nowhere")
        monkeypatch.setitem(EXPERIMENTS, "fake", fake)
        monkeypatch.setattr(cli, "_set_up", lambda: None)

    return make


def test_list_names_every_experiment(capsys):
    assert cli.main(["list"]) == 0
    printed = capsys.readouterr().out
    for name, experiment in EXPERIMENTS.items():
        assert name in printed
        assert experiment.paper in printed


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["reproduce", "gradual-rnk"], "Did you mean 'gradual-rank'?"),
        (["reproduce", "quantum"], "There are: gradual-rank"),
        (["reproduce"], "--all"),
    ],
)
def test_unknown_experiments_are_named(arguments, says, capsys):
    assert cli.main(arguments) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(("measured", "status"), [(42.3, 0), (43.0, 1), (float("nan"), 1)])
def test_report_and_exit_status(experiment, measured, status, tmp_path, capsys):
    experiment(measured)
    assert cli.main(["reproduce", "fake", "--out", str(tmp_path)]) == status
    report = json.loads((tmp_path / "fake" / "report.json").read_text())
    assert set(report) == {"name", "paper", "versions", "settings", "rows", "passed"}
    assert set(report["rows"][0]) == {
        "quantity", "predicted", "measured", "error_bar", "tolerance", "passed",
    }  # fmt: skip
    assert report["passed"] is (status == 0)
    assert report["settings"] == {"fast": False}
    assert "jax" in report["versions"]
    assert "a table" in capsys.readouterr().out


def test_json_is_the_report(experiment, tmp_path, capsys):
    experiment(42.0)
    assert cli.main(["reproduce", "fake", "--json", "--fast", "--out", str(tmp_path)]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "fake" / "report.json").read_text())
    assert printed["settings"]["fast"] is True


def test_an_experiment_without_rows_has_not_passed(tmp_path):
    assert not Report("empty", "no paper", tmp_path).passed


def test_readme_example_runs_and_agrees(capsys):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    own_model = next(b for b in blocks if "eqx.Module" in b)
    lines = [line for line in own_model.splitlines() if line.strip()]
    assert len(lines) <= 20
    exec(compile(own_model, "README.md", "exec"), {})
    table = capsys.readouterr().out
    rows = [line for line in table.splitlines() if re.match(r"\d+ ", line)]
    assert len(rows) == 3
    assert all(line.endswith("agrees") for line in rows)


@pytest.mark.slow
def test_gradual_rank_reproduces_in_fast_mode(tmp_path):
    assert cli.main(["reproduce", "gradual-rank", "--fast", "--out", str(tmp_path)]) == 0
    folder = tmp_path / "gradual-rank"
    report = json.loads((folder / "report.json").read_text())
    assert report["passed"]
    assert len(report["rows"]) > 40
    for name in ("fixture", "softmax_head", "softmax_head_checks", "diabetes", "digits"):
        assert (folder / f"{name}.png").stat().st_size > 20_000
        assert (folder / f"{name}.pdf").exists()
