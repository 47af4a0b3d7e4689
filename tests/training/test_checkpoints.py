"""A run on disk as far as it has come: killed and called again it is the uninterrupted run."""

import os
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gflow
from gflow.objectives import SquaredLoss

X = np.random.default_rng(2).standard_normal((10, 3))
LOSS = SquaredLoss(X, X[:, :2] * np.array([1.0, -0.5]))
KEY = jax.random.key(4)


def model():
    return gflow.models.FactoredLinear(
        gflow.Factored.small((2, 3), 2, log_alpha=-1.0, key=jax.random.key(0))
    )


RULES = {
    "gradient descent": dict(learning_rate=0.1),
    "adam on batches": dict(optimizer=optax.adam(0.02), batch=3, key=KEY),
}


def same(one, other):
    np.testing.assert_array_equal(one.t, other.t)
    np.testing.assert_array_equal(one.loss, other.loss)
    for name, leaf in one.leaves.items():
        for key, array in leaf.items():
            np.testing.assert_array_equal(array, other.leaves[name][key])
    for a, b in zip(one.training.arrays, other.training.arrays, strict=True):
        np.testing.assert_array_equal(a, b)
    assert one.training.made == other.training.made
    assert one.statistics["steps"] == other.statistics["steps"]
    assert one.method == other.method


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_it_goes_on_from_the_file(rule, tmp_path):
    path = tmp_path / "run.nc"
    settings = dict(save_every=4, **rule)
    whole = gflow.descend(model(), LOSS, steps=60, **settings)
    first = gflow.descend(model(), LOSS, steps=24, checkpoint=path, checkpoint_every=7, **settings)
    assert first.training.made == 24
    run = gflow.descend(model(), LOSS, steps=60, checkpoint=path, checkpoint_every=7, **settings)
    same(run, whole)
    like = model() if "learning_rate" in rule else gflow.to_factors(model())
    same(gflow.Trajectory.load(path, like=like), whole)
    # nothing is left to do, and nothing is done
    before = os.stat(path).st_mtime_ns
    same(gflow.descend(model(), LOSS, steps=60, checkpoint=path, **settings), whole)
    assert os.stat(path).st_mtime_ns == before
    assert os.listdir(tmp_path) == ["run.nc"]


def test_a_run_that_diverges_leaves_its_last_good_steps(tmp_path):
    path = tmp_path / "run.nc"

    def rate(step):
        return jnp.where(step < 25, 0.1, 1e9)

    settings = dict(learning_rate=rate, save_every=5, checkpoint=path, checkpoint_every=10)
    with pytest.warns(UserWarning, match=r"still has the run up to step 20|diverged"):
        run = gflow.descend(model(), LOSS, steps=60, **settings)
    assert run.status is gflow.Status.diverged
    kept = gflow.Trajectory.load(path, like=model())
    assert kept.training.made == 20
    assert np.all(np.isfinite(kept.loss))
    np.testing.assert_array_equal(kept.loss, run.loss[: len(kept.loss)])


def test_files_of_other_runs_are_refused(tmp_path):
    path = tmp_path / "run.nc"
    settings = dict(steps=10, checkpoint=path, learning_rate=0.1)
    gflow.descend(model(), LOSS, **settings)
    more = settings | {"steps": 20}
    with pytest.raises(ValueError, match="the checkpoint of another run"):
        gflow.descend(model(), LOSS, **more | {"learning_rate": 0.2})
    for change in (
        {"batch": 3, "key": KEY},
        {"decay": 0.1},
        {"decay": lambda t: 0.1 * jnp.exp(-t)},
        {"learning_rate": lambda step: jnp.where(step < 5, 0.1, 0.05)},
    ):
        with pytest.raises(ValueError, match="another key, minibatch, decay or learning rate"):
            gflow.descend(model(), LOSS, **more | change)
    drawn = settings | {"batch": 3, "key": KEY, "checkpoint": tmp_path / "drawn.nc"}
    gflow.descend(model(), LOSS, **drawn)
    for change in ({"key": jax.random.key(5)}, {"batch": 4}):
        with pytest.raises(ValueError, match="another key"):
            gflow.descend(model(), LOSS, **drawn | {"steps": 20} | change)
    other = SquaredLoss(X, 2.0 * X[:, :2])
    with pytest.raises(ValueError, match="where this objective has"):
        gflow.descend(model(), other, **more)
    another = gflow.models.FactoredLinear(
        gflow.Factored.small((2, 3), 2, log_alpha=-1.0, key=jax.random.key(1))
    )
    with pytest.raises(ValueError, match="starts elsewhere"):
        gflow.descend(another, LOSS, **more)
    flow = gflow.simulate(model(), LOSS, t1=0.5)
    flow.save(tmp_path / "flow.nc")
    with pytest.raises(ValueError, match=r"no run of gflow\.descend"):
        gflow.descend(model(), LOSS, **more | {"checkpoint": tmp_path / "flow.nc"})
    with pytest.raises(ValueError, match="give one of the two"):
        gflow.descend(model(), LOSS, **more, resume=gflow.descend(model(), LOSS, learning_rate=0.1,
                                                                  steps=2))  # fmt: skip
    with pytest.raises(ValueError, match="give its path"):
        gflow.descend(model(), LOSS, steps=3, learning_rate=0.1, checkpoint_every=2)
    # and what was there is there
    assert gflow.Trajectory.load(path, like=model()).training.made == 10


SCRIPT = """
import jax
jax.config.update("jax_enable_x64", True)
import sys
sys.path.insert(0, {folder!r})
from test_checkpoints import LOSS, model
import gflow
gflow.descend(model(), LOSS, steps=3000, learning_rate=0.05, save_every=10,
              checkpoint={path!r}, checkpoint_every=50)
"""


@pytest.mark.slow
def test_killed_at_any_moment(tmp_path):
    path = tmp_path / "run.nc"
    code = SCRIPT.format(folder=os.path.dirname(__file__), path=str(path))
    rng = np.random.default_rng(0)
    for _ in range(4):
        process = subprocess.Popen([sys.executable, "-c", code])
        while process.poll() is None and not path.exists():
            time.sleep(0.05)
        time.sleep(float(rng.uniform(0.0, 0.7)))
        process.send_signal(signal.SIGKILL)
        process.wait()
        # whole at every moment
        assert gflow.Trajectory.load(path, like=model()).training.made % 50 == 0
    settings = dict(steps=3000, learning_rate=0.05, save_every=10)
    run = gflow.descend(model(), LOSS, checkpoint=path, checkpoint_every=50, **settings)
    same(run, gflow.descend(model(), LOSS, **settings))
