"""Runs that keep observables, and the weights of a few steps: what they know is what all know."""

import functools
import pickle

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from staged_runs import model, objective

import gflow
import theory

TIMES = np.linspace(0.0, 600.0, 5001)
WATCHED = {"norm": lambda m: jnp.sum(m.weight.value**2)}


@functools.cache
def run(save=None, **options):
    save = gflow.save.observables(TIMES) if save == "few" else None
    return gflow.simulate(
        model(64), objective(), tau1=8.0, observables=WATCHED, save=save, **options
    )


def test_numbers_at_every_step_and_time_weights_at_a_few():
    few, all_of_them = run("few"), run()
    assert len(few.t) == len(np.union1d(all_of_them.t, TIMES))
    assert len(few.leaves["weight"]["value"]) == len(few.checkpoints) <= 64 < len(all_of_them.t)
    assert set(few.observables) == {"norm"}
    rows = np.searchsorted(few.t, all_of_them.t)
    np.testing.assert_array_equal(few.t[rows], all_of_them.t)
    np.testing.assert_array_equal(few.loss[rows], all_of_them.loss)
    np.testing.assert_array_equal(few.error["norm"][rows] > 0, all_of_them.error["norm"] > 0)
    at = all_of_them.record_at(TIMES)
    mine = few.observables["norm"][np.searchsorted(few.t, TIMES)]
    np.testing.assert_allclose(mine, at["observables"]["norm"], rtol=1e-7, atol=1e-9)


def test_stages_models_and_comparison_go_on_from_checkpoints():
    few, all_of_them = run("few"), run()
    for one, other in zip(few.stages(), all_of_them.stages(), strict=True):
        assert one.activated == other.activated
        assert one.deactivated == other.deactivated
        assert abs(one.t - other.t) <= one.error + other.error
        assert one.t <= few.t[one.step]
        assert one.step in few.checkpoints
    for t in (10.0, 250.0, 601.5):
        np.testing.assert_allclose(
            few.model(t=t).weight.value, all_of_them.model(t=t).weight.value, atol=1e-7
        )
    np.testing.assert_array_equal(few.final.weight.value, all_of_them.final.weight.value)
    level = gflow.stop.loss_below(0.05)
    assert few.crossing(level).t == pytest.approx(all_of_them.crossing(level).t, abs=1e-6)
    prediction = theory.gradual_rank.predict(model(64), objective())
    found = theory.compare(few, prediction)
    assert found.passed
    assert len(found.rows) == len(theory.compare(all_of_them, prediction).rows)
    for draw in (gflow.plot.loss, lambda x: gflow.plot.weights(x, "weight")):
        assert draw(few).lines
    other = few.with_observables({"one": lambda m: m.weight.value[0]})
    assert len(other.observables["one"]) == len(few.checkpoints)


def test_files_and_pickles(tmp_path):
    few = run("few")
    few.save(tmp_path / "few.nc")
    loaded = gflow.Trajectory.load(tmp_path / "few.nc", like=few.like)
    for other in (loaded, pickle.loads(pickle.dumps(few))):
        np.testing.assert_array_equal(other.t, few.t)
        np.testing.assert_array_equal(other.checkpoints, few.checkpoints)
        np.testing.assert_array_equal(other.observables["norm"], few.observables["norm"])
        ends = (run.whole.observables["weight"][-1] for run in (other, few))
        np.testing.assert_array_equal(*ends)
        np.testing.assert_array_equal(other.final.weight.value, few.final.weight.value)
        assert [x.t for x in other.stages()] == [x.t for x in few.stages()]
    on = gflow.simulate(loaded.final, objective(), t1=float(few.t[-1]) + 1.0)
    assert on.t[0] == few.t[-1]


def test_conditions_end_it_where_they_end_any():
    stop = gflow.stop.loss_below(0.05)
    few = gflow.simulate(model(64), objective(), tau1=8.0, stop=stop, save=gflow.save.observables())
    assert few.status is gflow.Status.stopped
    assert few.loss[-1] == pytest.approx(0.05, rel=1e-9)
    assert few.checkpoints[-1] == len(few.t) - 1
    assert 0.5 * jnp.sum(few.final.weight.value**2) > 0.1


def test_members_of_a_batch():
    models = eqx.filter_vmap(
        lambda key: gflow.models.DiagonalLinear(gflow.Hadamard.small(4, log_alpha=-20.0, key=key))
    )(jax.random.split(jax.random.key(0), 3))
    options = dict(tau1=6.0, observables=WATCHED)
    whole = gflow.simulate_batch(models, objective(), **options)
    few = gflow.simulate_batch(
        models, objective(), save=gflow.save.observables([5.0, 60.0]), **options
    )
    for one, other in zip(few, whole, strict=True):
        assert len(one.checkpoints) < len(other.t)
        assert {5.0, 60.0} <= set(one.t)
        np.testing.assert_array_equal(one.loss[-1], other.loss[-1])
        np.testing.assert_array_equal(one.final.weight.value, other.final.weight.value)
        assert [x.activated for x in one.stages()] == [x.activated for x in other.stages()]


@pytest.mark.slow
def test_memory_is_that_of_the_numbers():
    # 300 weights at 4000 times: value, logarithms, force would be 80 MB with their companions
    leaf = gflow.Hadamard.small(300, log_alpha=-5.0, key=jax.random.key(1))
    x = np.random.default_rng(0).normal(size=(20, 300))
    fit = gflow.objectives.SquaredLoss(jnp.asarray(x), jnp.asarray(x[:, 0]))
    found = gflow.simulate(
        gflow.models.DiagonalLinear(leaf), fit, t1=1.0, observables=WATCHED,
        save=gflow.save.observables(np.linspace(0.0, 1.0, 4_000)),
    )  # fmt: skip
    arrays = jax.tree.leaves((found.leaves, found.refined, found.loss, found.descent, found.t))
    assert sum(a.nbytes for a in arrays) < 64 * 2 * 4 * 300 * 8 + 20 * 5_000 * 8
    norms = found.observables["norm"]
    assert len(norms) == len(found.t) >= 4_000
    assert norms[-1] == pytest.approx(float(jnp.sum(found.final.weight.value**2)), rel=1e-12)
