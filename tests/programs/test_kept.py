"""Compiled programs kept from process to process: where, how many, and in silence."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gflow.programs import _kept

SCRIPT = """
import jax
import jax.numpy as jnp
jax.config.update("jax_enable_x64", True)
jax.numpy.ones(3) + 1  # before gflow is there
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))
import gflow
model = gflow.models.DiagonalLinear(gflow.Hadamard.small(2, log_alpha=-9.0, key=jax.random.key(0)))
loss = gflow.objectives.SquaredLoss(jnp.eye(2), jnp.array([1.0, 2.0]))
run = gflow.simulate(model, loss, t1=1.0)
print(hits.count("/jax/compilation_cache/cache_hits"), float(run.loss[-1]).hex())
"""


def run(home, **more):
    """Hits, the loss, and what was written to standard error."""
    others = ("JAX_", "TF_", "XLA_")
    environment = {name: x for name, x in os.environ.items() if not name.startswith(others)}
    environment |= {
        "XDG_CACHE_HOME": str(home),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    } | more
    out = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True
    )
    hits, loss = out.stdout.split()
    return int(hits), loss, out.stderr


@pytest.mark.slow
def test_a_second_process_compiles_nothing_and_says_nothing(tmp_path):
    first, second = run(tmp_path), run(tmp_path)
    kept = list((tmp_path / "gflow/programs").rglob("*-cache"))
    assert kept
    assert first[0] == 0
    assert second[0] > 0.5 * len(kept)  # all but what is at the limit of being worth it
    assert second[1] == first[1]
    assert "" == first[2] == second[2]


@pytest.mark.slow
def test_who_has_switched_it_off_or_keeps_them_elsewhere_is_left_alone(tmp_path):
    run(tmp_path, JAX_ENABLE_COMPILATION_CACHE="false")
    own = tmp_path / "own"
    run(tmp_path, JAX_COMPILATION_CACHE_DIR=str(own))
    assert not (tmp_path / "gflow").exists()
    locked = tmp_path / "file"
    locked.write_text("no folder")
    assert run(locked)[0] == 0


def test_the_folder_is_halved_by_what_was_not_used_for_longest(tmp_path, monkeypatch):
    monkeypatch.setattr(_kept, "LARGEST", 1000)
    for k in range(10):
        path = tmp_path / f"jaxlib-{k % 2}" / f"{k}-cache"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(100))
        os.utime(path, (1000 + 7 * k % 10, 1000))
    _kept._bound(tmp_path)
    assert len(list(tmp_path.rglob("*-cache"))) == 10
    (tmp_path / "more-cache").write_bytes(bytes(100))
    _kept._bound(tmp_path)
    left = {int(p.name[0]) for p in tmp_path.rglob("?-cache")}
    age = {k: 7 * k % 10 for k in range(10)}
    assert left == {k for k in range(10) if age[k] > 5}


def test_only_the_loaders_lines_are_kept_back(capfd):
    with _kept._without(b"cpu_aot_loader.cc"):
        os.write(2, b"E1 cpu_aot_loader.cc:195] feature\nsomething else\n")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "something else\nafter\n"


def test_what_the_loader_raises_is_raised(capfd):
    def load():
        os.write(2, b"before\n")
        raise ValueError("broken entry")

    with pytest.raises(ValueError, match="broken"):
        _kept._sifted(load)()
    assert capfd.readouterr().err == "before\n"
