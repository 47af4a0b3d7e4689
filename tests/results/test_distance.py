"""Distances between the paths of two runs of one model."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gflow
from gflow.models import DiagonalLinear
from gflow.objectives import SquaredLoss

X = np.array([[1, 0.5, 0.7, 0], [0.5, 1, 0.1, 0.7]])
LOSS = SquaredLoss(X, np.array([1.0, -0.4]), "half_sum")


def model(seed=0):
    key = jax.random.key(seed)
    return DiagonalLinear(gflow.Hadamard.small(4, log_alpha=-2.0, key=key))


def flow(t1=4.0):
    return gflow.simulate(model(), LOSS, t1=t1)


def test_descent_is_off_by_its_learning_rate():
    run, far = flow(), []
    for eta in (0.02, 0.01):
        steps = gflow.descend(model(), LOSS, learning_rate=eta, steps=round(4.0 / eta))
        found = steps.distance(run)
        np.testing.assert_array_equal(found.t, steps.t[steps.t <= run.t[-1]])
        assert found.distance[0] == 0.0
        far.append(np.max(found.distance))
        back = run.distance(steps)
        np.testing.assert_array_equal(back.distance, found.distance)
    assert far[0] / far[1] == pytest.approx(2.0, abs=0.1)


def test_it_is_the_norm_of_all_leaves():
    def bowl(m):
        return 0.5 * (jnp.sum((m["a"] - 1.0) ** 2) + jnp.sum((m["b"] - 2.0) ** 2))

    one = {"a": jnp.array([3.0, 1.0]), "b": jnp.array([[2.0, 6.0]])}
    other = {"a": jnp.array([1.0, 1.0]), "b": jnp.array([[2.0, 2.0]])}
    runs = [gflow.simulate(m, bowl, t1=2.0) for m in (one, other)]
    found = runs[0].distance(runs[1])
    np.testing.assert_allclose(found.distance, np.sqrt(20.0) * np.exp(-found.t), rtol=1e-7)
    np.testing.assert_array_equal(found.t, runs[0].t)


def test_what_shares_no_times_is_refused(tmp_path):
    run = flow()
    run.save(tmp_path / "run.nc")
    loaded = gflow.Trajectory.load(tmp_path / "run.nc")
    assert np.max(loaded.distance(run).distance) < 1e-12
    with pytest.raises(ValueError, match="Neither of the two runs has its flow"):
        loaded.distance(loaded)
    other = gflow.simulate({"w": jnp.ones(3)}, lambda m: jnp.sum(m["w"] ** 2), t1=1.0)
    with pytest.raises(ValueError, match="not of one model"):
        run.distance(other)
    adam = optax.adam(0.1)
    hidden = optax.GradientTransformation(adam.init, lambda *x: adam.update(*x))
    blind = gflow.descend(model(), LOSS, optimizer=hidden, steps=3)
    with pytest.raises(ValueError, match="counts steps"):
        blind.distance(run)
    late = gflow.simulate(run.final, LOSS, t1=9.0)
    with pytest.raises(ValueError, match="no times in common"):
        late.distance(flow(2.0))
