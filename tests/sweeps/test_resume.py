"""A sweep that is stopped goes on where it was, and ends as one that was not."""

import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import small_sweeps
from small_sweeps import sweep

import gflow
from gflow.sweeps import _store, _sweep
from gflow.sweeps._store import existing

SCRIPT = Path(small_sweeps.__file__)


class Killed(BaseException):
    """What nothing catches."""


def contents(path):
    """Every number of a store, by chunk, run and name."""
    store = existing(path)
    found = {}
    for k in store.finished():
        for i, row in enumerate(store.rows(k)):
            for name, x in row.items():
                found[k, i, name] = (x.shape, x.dtype.kind, x.tobytes())
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "sweep"
    sweep(path)
    found = contents(path)
    assert {k for k, _, _ in found} == {0, 1, 2, 3}
    return path, found


def count_chunks(monkeypatch):
    """The chunks that are run from here on."""
    ran = []
    run_chunk = _sweep.run_chunk
    monkeypatch.setattr(
        _sweep,
        "run_chunk",
        lambda job, plan, members: (ran.append(members), run_chunk(job, plan, members))[1],
    )
    return ran


@pytest.mark.parametrize("kind", ["computing", "writing", "renaming"])
def test_stopped_at_any_moment_it_ends_as_uninterrupted(kind, whole, tmp_path, monkeypatch):
    at = random.Random(kind).randint(2, 4)
    calls = 0

    def stop(*_):
        nonlocal calls
        calls += 1
        if calls == at:
            raise Killed

    with monkeypatch.context() as patch:
        run_chunk, replace, fsync = _sweep.run_chunk, _store.os.replace, _store.os.fsync
        if kind == "computing":
            patch.setattr(_sweep, "run_chunk", lambda *a: (stop(), run_chunk(*a))[1])
        elif kind == "writing":
            patch.setattr(_store.os, "fsync", lambda f: (stop(), fsync(f))[1])
        else:
            patch.setattr(_store.os, "replace", lambda *a: (stop(), replace(*a))[1])
        with pytest.raises(Killed):
            sweep(tmp_path)
    before = set(existing(tmp_path).finished())
    assert len(before) < 4
    ran = count_chunks(monkeypatch)
    sweep(tmp_path)
    assert len(ran) == 4 - len(before)
    assert contents(tmp_path) == whole[1]
    assert list(tmp_path.glob(".*")) == []


def test_what_is_finished_is_not_run_again(whole, monkeypatch):
    ran = count_chunks(monkeypatch)
    again = sweep(whole[0])
    assert ran == []
    assert again.done == 8


def processes(path, *shares, calls=0):
    begun = [
        subprocess.Popen(
            [sys.executable, SCRIPT, path, str(i), str(of), str(calls)], stderr=subprocess.PIPE
        )
        for i, of in shares
    ]
    said = [process.communicate()[1] for process in begun]
    return [process.returncode for process in begun], said


def test_killed_and_two_processes_equal_one(whole, tmp_path):
    """What is left by kill −9 between writing and renaming, finished by two processes."""
    codes, _ = processes(tmp_path, (0, 1), calls=2)
    assert codes == [-signal.SIGKILL]
    assert len(list(tmp_path.glob(".*.part"))) == 1
    assert len(existing(tmp_path).finished()) == 1
    codes, said = processes(tmp_path, (0, 2), (1, 2))
    assert codes == [0, 0], said
    assert contents(tmp_path) == whole[1]
    assert list(tmp_path.glob(".*.part")) == []


def test_each_process_runs_its_own_share(tmp_path, monkeypatch):
    ran = count_chunks(monkeypatch)
    sweep(tmp_path, process_id=1, num_processes=2)
    assert sorted(members[0] for members in ran) == [2, 6]
    runs = gflow.open_sweep(tmp_path)
    assert runs.done == 4
    status = runs.runs()["status"].values
    assert (status == "reached").sum() == 4
    assert np.isnan(runs.stages()["t"].values).all((0, 2)).tolist() == [True, True, False, False]


FIFTY = '''
import os, random, signal, sys, time
import numpy as np
import gflow
from gflow.sweeps import _sweep
import small_sweeps

def run_chunk(job, plan, members):
    """Numbers that depend on the run, after a while."""
    time.sleep(0.01)
    rows = []
    for run in members:
        draw = np.random.default_rng(run)
        t = np.sort(draw.random(1 + run % 50))
        rows.append({"status": np.array("reached"), "reason": np.array(""), "t": t})
    return rows

_sweep.run_chunk = run_chunk
_sweep.jax.local_devices = lambda: [None]
_sweep.jax.process_index, _sweep.jax.process_count = (lambda: 0), (lambda: 1)
_sweep.Job.start = lambda self, plan, run: (0, 0, {})

def run(path):
    grid = {"a": list(range(20))}
    gflow.sweep(lambda a, seed: None, grid, seeds=4, chunk=2, tau1=1.0, out=path, progress=False)

run(sys.argv[1])
draw = random.Random(0)
killed = 0
for i in range(50):
    path = f"{sys.argv[2]}/{i // 10}"
    child = os.fork()
    if child == 0:
        run(path)
        os._exit(0)
    time.sleep(draw.uniform(0.0, 0.4))
    os.kill(child, signal.SIGKILL)
    killed += os.waitpid(child, 0)[1] == signal.SIGKILL
for i in range(5):
    run(f"{sys.argv[2]}/{i}")
print(killed)
'''


@pytest.mark.slow
def test_fifty_kills_lose_nothing(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FIFTY, tmp_path / "whole", tmp_path],
        capture_output=True, text=True, check=False, cwd=SCRIPT.parent,
        env={**__import__("os").environ, "JAX_ENABLE_X64": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 25
    expected = contents(tmp_path / "whole")
    for i in range(5):
        assert contents(tmp_path / str(i)) == expected
