"""What a run of discrete training records, continues and saves; what it refuses."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from counted_losses import Counted, Hashable
from descent_problems import HALF_SUM, RATE, X, Y, gd_problem, mixed, small
from kinds import Linear

import gflow
from gflow.models import DiagonalLinear
from gflow.objectives import SquaredLoss

# --- the trajectory -------------------------------------------------------------------


def test_attributes_of_the_trajectory():
    model = small()
    traj = gflow.descend(
        model, HALF_SUM, learning_rate=0.05, steps=250, save_every=100,
        observables={"norm": lambda m: jnp.sum(m.weight.value**2)},
    )  # fmt: skip
    np.testing.assert_allclose(traj.t, 0.05 * np.array([0, 100, 200, 250]), rtol=1e-15)
    np.testing.assert_array_equal(traj.tau, traj.t / 10.0)
    assert traj.loss[0] == HALF_SUM(model)
    assert traj.loss[-1] == pytest.approx(float(HALF_SUM(traj.final)), rel=1e-12)
    value = traj.observables["weight"]
    np.testing.assert_allclose(traj.observables["norm"], np.sum(value**2, axis=1), rtol=1e-12)
    np.testing.assert_allclose(
        np.exp(traj.observables["weight.log_abs"]), np.abs(value), rtol=1e-12
    )
    assert traj.error == {}
    assert traj.successful
    assert traj.status == "made the requested number of steps"
    assert traj.method == "gradient descent, learning rate 0.05, in log coordinates"
    assert traj.statistics["steps"] == 250
    assert np.all(traj.descent > 0)


def test_method_names_what_ran():
    kwargs = dict(steps=2, batch=1, key=jax.random.key(0))
    model = mixed()
    traj = gflow.descend(model, HALF_SUM, learning_rate=0.01, **kwargs)
    assert traj.method == (
        "stochastic gradient descent, minibatches of 1, learning rate 0.01, in factor and log "
        "and raw coordinates"
    )
    traj = gflow.descend(model, HALF_SUM, optimizer=optax.sgd(0.01), **kwargs)
    assert traj.method == "Optax sgd, minibatches of 1, learning rate 0.01, on plain factors"


@pytest.mark.parametrize(("steps", "records"), [(1, 2), (2000, 2001), (4001, 1335)])
def test_at_most_about_2000_records_and_the_last_step_is_one(steps, records):
    traj = gflow.descend(small(), HALF_SUM, learning_rate=0.001, steps=steps)
    assert len(traj.t) == records
    assert traj.t[-1] == pytest.approx(0.001 * steps, rel=1e-14)
    assert np.all(np.diff(traj.t) > 0)


def test_continuing_from_the_final_model_equals_going_straight():
    model, rate = small(-6.0), 0.5
    straight = gflow.descend(model, HALF_SUM, learning_rate=rate, steps=200)
    half = gflow.descend(model, HALF_SUM, learning_rate=rate, steps=100)
    rest = gflow.descend(half.final, HALF_SUM, learning_rate=rate, steps=100)
    np.testing.assert_allclose(rest.t, straight.t[100:], rtol=1e-14)
    for name in ("log_s", "log_d", "sign_s", "sign_d"):
        np.testing.assert_allclose(
            rest.leaves["weight"][name], straight.leaves["weight"][name][100:], rtol=0, atol=1e-12
        )
    flow = gflow.simulate(rest.final, HALF_SUM, t1=101.0)  # and into the flow
    assert flow.t[0] == 100.0
    np.testing.assert_array_equal(flow.final.weight.sign_d, rest.final.weight.sign_d)


def test_save_and_load(tmp_path):
    model, objective = gd_problem()
    traj = gflow.descend(model, objective, learning_rate=RATE, steps=33)
    traj.save(tmp_path / "descent.nc")
    loaded = gflow.Trajectory.load(tmp_path / "descent.nc", like=model)
    assert eqx.tree_equal(loaded.final, traj.final)
    np.testing.assert_array_equal(loaded.t, traj.t)
    np.testing.assert_array_equal(loaded.loss, traj.loss)
    assert loaded.method == traj.method


def test_divergence_keeps_what_there_is_and_says_why():
    model = small(-1.0)
    with pytest.warns(UserWarning, match="gflow.descend diverged.*learning rate"):
        traj = gflow.descend(model, HALF_SUM, learning_rate=9.0, steps=1000)
    assert not traj.successful
    assert traj.status.startswith("diverged")
    assert "learning rate" in traj.status
    assert 0 < traj.statistics["steps"] < 1000
    assert len(traj.t) == traj.statistics["steps"] + 1
    assert np.all(np.isfinite(traj.loss))
    assert float(HALF_SUM(traj.final)) == pytest.approx(traj.loss[-1])


def test_divergence_of_an_optimizer():
    with pytest.warns(UserWarning, match="gflow.descend diverged"):
        traj = gflow.descend(small(-1.0), HALF_SUM, optimizer=optax.sgd(9.0), steps=1000)
    assert not traj.successful
    assert np.all(np.isfinite(traj.loss))


def test_another_rate_seed_start_or_number_of_steps_does_not_compile():
    count = Hashable()
    objective = Counted(HALF_SUM, count)
    gflow.descend(small(-10.0, seed=0), objective, learning_rate=0.1, steps=100, decay=0.1)
    count.clear()
    gflow.descend(small(-99.0, seed=1), objective, learning_rate=0.2, steps=7, decay=0.3)
    assert len(count) <= 1  # what it closes over is read once a run


# --- bad input ------------------------------------------------------------------------


class NoData(eqx.Module):
    def __call__(self, model):
        return jnp.sum(model.weight.value**2)


class Penalised(eqx.Module):
    inputs: jax.Array
    targets: jax.Array

    def __call__(self, model):
        fit = SquaredLoss(self.inputs, self.targets, "mean")(model)
        return fit + 1.0


KEY = jax.random.key(0)
EQUAL_SIZES = DiagonalLinear(gflow.Hadamard(jnp.ones(4), jnp.ones(4)))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(), "learning_rate=η .* or optimizer=.*neither"),
        (dict(learning_rate=0.0), "learning_rate = 0.0 must be a finite number above 0"),
        (dict(learning_rate=-1), "learning_rate = -1 must be"),
        (dict(learning_rate=math.nan), "learning_rate = nan must be"),
        (dict(learning_rate=math.inf), "learning_rate = inf must be"),
        (dict(optimizer="adam"), "optimizer = 'adam' is no Optax.*optax.adam"),
        (dict(optimizer=optax.sgd(0.1), decay=0.1), "decay = 0.1 belongs to.*add_decayed_weights"),
        (dict(optimizer=optax.sgd(0.1), decay={"weight": 0.1}), "decay = .* belongs to"),
        (dict(learning_rate=0.1, decay=-0.1), "decay = -0.1"),
        (dict(learning_rate=0.1, decay={"wieght": 0.1}), "Did you mean.*weight"),
        (dict(learning_rate=0.1, steps=0), "steps = 0.*at least 1"),
        (dict(learning_rate=0.1, save_every=0), "save_every = 0"),
        (dict(learning_rate=0.1, key=KEY), "give batch="),
        (dict(learning_rate=0.1, batch=1), "batch = 1 needs a key.*jax.random.key"),
        (dict(learning_rate=0.1, batch=1, key=3), "not one typed key"),
        (dict(learning_rate=0.1, batch=1, key=jax.random.split(KEY)), "not one typed key"),
        (dict(learning_rate=0.1, batch=0, key=KEY), "batch = 0: choose from 1 to 2"),
        (dict(learning_rate=0.1, batch=3, key=KEY), "batch = 3: choose from 1 to 2"),
        (
            dict(learning_rate=0.1, batch=1, key=KEY, objective=NoData()),
            "objective.inputs.*NoData does not have",
        ),
        (
            dict(learning_rate=0.1, batch=1, key=KEY, objective=Penalised(X, Y[:, None])),
            "predicts shape",
        ),
        (dict(learning_rate=0.1, log_alpha=math.inf), "log_alpha = inf must be finite"),
        (
            dict(learning_rate=0.1, model=Linear(jnp.ones(4, jnp.float32))),
            "float32.*allow_float32",
        ),
        (
            dict(optimizer=optax.sgd(0.1), model=Linear(jnp.ones(4, jnp.float32))),
            "float32.*allow_float32",
        ),
        (
            dict(optimizer=optax.sgd(0.1), model=EQUAL_SIZES),
            r"\|u\| = \|v\|.*allow_frozen_sign",
        ),
        (dict(optimizer=optax.sgd(0.1), model=small(-1e4)), "below the float range"),
    ],
)  # fmt: skip
def test_bad_input_is_named_with_its_remedy(kwargs, message):
    kwargs = {"model": small(), "objective": HALF_SUM, "steps": 10, **kwargs}
    model, objective = kwargs.pop("model"), kwargs.pop("objective")
    with pytest.raises(ValueError, match=f"(?s){message}"):
        gflow.descend(model, objective, **kwargs)


def test_a_loss_that_is_no_sum_over_examples_has_no_minibatches():
    class Rooted(eqx.Module):
        inputs: jax.Array
        targets: jax.Array

        def __call__(self, model):
            return jnp.sqrt(SquaredLoss(self.inputs, self.targets, "sum")(model))

    with pytest.raises(ValueError, match=r"neither the mean nor the sum.*biased"):
        gflow.descend(
            small(), Rooted(X, jnp.array([1.0, 2.0])), learning_rate=0.1, steps=10, batch=1, key=KEY
        )


def test_a_frozen_sign_is_allowed_where_asked_for():
    traj = gflow.descend(
        EQUAL_SIZES, HALF_SUM, learning_rate=0.1, steps=200, allow_frozen_sign=True
    )
    assert np.all(np.isneginf(traj.leaves["weight"]["log_d"]))
    assert np.all(traj.observables["weight"] >= 0)
    assert traj.loss[-1] < 0.1 * traj.loss[0]
