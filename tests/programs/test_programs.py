"""Long sessions: programs are forgotten before the memory maps run out, and nothing else is."""

import os
import subprocess
import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gflow
from gflow.programs import _room as programs

ROOT = Path(__file__).resolve().parents[2]
counted = pytest.mark.skipif(not programs.MAPS.exists(), reason="nothing counts memory maps here")

#: Every model has another number of weights, so that every one compiles. ½Σ(θ − 1)² from θ = 0
#: has θ = 1 − e^{−t}.
SESSION = """
import sys
import equinox as eqx, jax, jax.numpy as jnp, numpy as np
jax.config.update("jax_enable_x64", True)
import gflow
from gflow.programs import _room as programs

class Plain(eqx.Module):
    theta: jax.Array

class Distance(eqx.Module):
    def __call__(self, model):
        return 0.5 * jnp.sum((model.theta - 1.0) ** 2)

many, programs.room = int(sys.argv[1]), programs.Room(every=10)
start = programs.maps()
programs.room.most = start + 3000
kept, most = None, 0
for n in range(1, many + 1):
    model = Plain(jnp.asarray(np.zeros(n)))
    run = gflow.simulate(model, Distance(), t1=1.0, rtol=1e-6, error_bars=False)
    kept = kept or run
    most = max(most, programs.maps())
    assert np.allclose(run.final.theta, 1 - np.exp(-1.0), rtol=1e-5), n
# what was made before the first release goes on
assert np.allclose(kept.model(t=0.5).theta, 1 - np.exp(-0.5), rtol=1e-5)
again = gflow.simulate(kept.model(t=0.5), Distance(), t1=1.0, rtol=1e-6, error_bars=False)
print(programs.room.releases, most - start)
"""


#: What is compiled is not to be fast.
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


def session(models: int) -> tuple[int, int]:
    """Releases, and the largest growth of the number of maps."""
    done = subprocess.run(
        [sys.executable, "-c", SESSION, str(models)], capture_output=True, text=True, cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": QUICK},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    releases, growth = done.stdout.split()
    return int(releases), int(growth)


@counted
@pytest.mark.slow
def test_a_hundred_models_in_one_process():
    releases, growth = session(100)
    assert releases >= 3
    # without a release it is 36 000; what compiles between two looks comes on top of the 3 000
    assert growth < 5000


def test_asking_for_room_looks_at_the_maps_once_in_many_calls(monkeypatch):
    looks = []
    monkeypatch.setattr(programs, "maps", lambda: looks.append(None) or 0)
    room = programs.Room(every=100)
    assert not any(room.make() for _ in range(1000))
    assert len(looks) == 10


def test_programs_are_counted_where_they_compile(monkeypatch):
    room = programs.Room(every=10**9)
    monkeypatch.setattr(programs, "room", room)
    eqx.filter_jit(lambda x: 3.0 * x - 1.0)(jnp.ones(7))
    assert room._seen >= 1


class Distance(eqx.Module):
    def __call__(self, model):
        return 0.5 * (model["theta"] - 1.0) ** 2


@pytest.mark.parametrize("left", [100, 900])
def test_room_is_made_at_the_share_and_once(monkeypatch, left):
    """Beyond half of 1000 maps caches are cleared; not again where that does not help."""
    cleared, now = [], iter([500, 501, left, 720, left + 60, 960, 960, 960])
    monkeypatch.setattr(programs, "_limit", lambda: 1000.0)
    monkeypatch.setattr(programs, "maps", lambda: next(now))
    monkeypatch.setattr(programs.jax, "clear_caches", lambda: cleared.append(1))
    room = programs.Room(every=1)
    assert not room.make()
    assert room.make()
    # 900 maps that are not JAX's: the next release waits for 950
    assert room.make() is (left == 100)
    assert len(cleared) == room.releases == (2 if left == 100 else 1)


def test_every_public_call_asks(monkeypatch):
    asked = []
    monkeypatch.setattr(programs, "room", programs.Room(every=1))
    monkeypatch.setattr(programs, "maps", lambda: asked.append(1) or 0)
    model, loss = {"theta": jnp.asarray(0.0)}, Distance()
    gflow.simulate(model, loss, t1=0.1, error_bars=False)
    assert len(asked) == 1


def test_leaves_compile_at_most_their_draw(monkeypatch):
    """Outside compiled calls a leaf computes in NumPy; a draw is one program for a shape."""
    room = programs.Room(every=10**9)
    monkeypatch.setattr(programs, "room", room)
    key, logs = jax.random.key(0), np.full((3, 5), -40.0)

    def compiled(make) -> int:
        before = room._seen
        make()
        return room._seen - before

    def used(leaf: gflow.Hadamard):
        moved = leaf.at_record({"log_s": logs + 39.0, "log_d": logs}, 1.0)
        return leaf.value, leaf.log_abs(), leaf.log_s, moved.value, leaf.rescaled(-50.0)

    drawn = gflow.Hadamard.small((3, 5), log_alpha=-40, key=key)
    assert compiled(lambda: gflow.Hadamard.small((3, 7), log_alpha=-40, key=key)) <= 1
    assert compiled(lambda: gflow.Factored.small((3, 7), 2, log_alpha=-40, key=key)) <= 1
    assert compiled(lambda: used(drawn)) == 0
    assert compiled(lambda: gflow.Hadamard(logs, 1.0 + logs, log_alpha=-3.0)) == 0
    assert compiled(lambda: gflow.Hadamard.from_scales(log_s=logs, log_d=logs - 1.0)) == 0
    assert compiled(lambda: gflow.Factored(logs, logs, -40.0)) == 0
    assert compiled(lambda: gflow.Frozen(logs[0]).value) == 0
    assert compiled(lambda: gflow.Scaled(logs, -2.0)) == 0


def test_traced_and_concrete_leaves_agree():
    def numbers(u, v):
        leaf = gflow.Hadamard(u, v, log_alpha=-3.0)
        frozen = gflow.Frozen(u)
        return leaf.value, leaf.log_s, leaf.conserved(), leaf.exponent_d, frozen.value

    u, v = np.array([1e-3, -2.0, 0.5]), np.array([2e-3, 1.0, 0.5 + 1e-9])
    concrete = numbers(u, v)
    for one, other in zip(concrete, jax.jit(numbers)(u, v), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=1e-14, atol=1e-15)
    np.testing.assert_allclose(concrete[0], u * v, rtol=1e-8)
    assert all(isinstance(x, jax.Array) for x in concrete)
