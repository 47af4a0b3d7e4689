"""Runs that end at a condition of the user: at the moment it is met, and with the right bar."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq

import gflow
from gflow.integrate._conditions import conditions

TARGET = np.array([1.0, 0.5])


def loss(model):
    return 0.5 * jnp.sum((model["w"].value - TARGET) ** 2)


def start(size=1e-2):
    """θ = s²/4 with s·d so small that it follows the logistic curve below."""
    return {
        "w": gflow.Hadamard.from_scales(
            log_s=np.log(2.0 * np.sqrt(size)) * np.ones(2), log_d=np.full(2, -60.0), log_alpha=-5.0
        )
    }


def theta(t, size=1e-2):
    """θ' = 2θ(T − θ) from θ(0) = `size`."""
    return TARGET / (1.0 + (TARGET / size - 1.0) * np.exp(-2.0 * TARGET * t))


def exact_loss(t, size=1e-2):
    return 0.5 * np.sum((theta(t, size) - TARGET) ** 2)


def first(model):
    return model["w"].value[0]


def test_the_loss_comes_down_to_a_level():
    run = gflow.simulate(start(), loss, t1=1e3, stop=gflow.stop.loss_below(1e-3))
    exact = brentq(lambda t: exact_loss(t) - 1e-3, 0.1, 50.0, xtol=1e-14)
    assert run.status is gflow.Status.stopped
    assert run.successful
    assert run.cause == "the loss came down to 0.001"
    assert abs(run.t[-1] - exact) <= run.statistics["stop_error"] < 1e-6
    assert run.loss[-1] == pytest.approx(1e-3, rel=1e-9)
    np.testing.assert_allclose(run.final["w"].value, theta(exact), rtol=1e-7)
    assert np.all(np.diff(run.t) > 0)
    assert np.all(run.error["w"][-1] < 1e-6)


def test_a_function_of_the_model_rises_to_a_level():
    stop = gflow.stop.above(first, 0.75)
    run = gflow.simulate(start(), loss, stop=stop, observables={"twice": lambda m: 2.0 * first(m)})
    # 0.75/0.25 = e^{2t}/99
    assert run.t[-1] == pytest.approx(0.5 * np.log(3.0 * 99.0), rel=1e-8)
    assert run.cause == "first rose to 0.75"
    assert run.observables["stop"][-1] == pytest.approx(0.75, rel=1e-9)
    assert run.observables["twice"][-1] == pytest.approx(1.5, rel=1e-9)


def test_of_several_the_first_counts():
    stops = [gflow.stop.above(first, 0.75), gflow.stop.loss_below(0.3), gflow.stop.loss_below(1e-4)]
    run = gflow.simulate(start(), loss, t1=100.0, stop=stops, error_bars=False)
    times = [brentq(lambda t, x=x: exact_loss(t) - x, 0, 50) for x in (0.3, 1e-4)]
    assert run.t[-1] == pytest.approx(min(0.5 * np.log(3.0 * 99.0), *times), rel=1e-7)


def test_a_condition_that_is_not_met_ends_nothing():
    run = gflow.simulate(start(), loss, t1=2.0, stop=gflow.stop.loss_below(1e-9))
    assert run.status is gflow.Status.reached
    assert run.cause == ""
    assert run.t[-1] == 2.0


def test_every_member_of_a_batch_ends_where_it_meets_it():
    models = [start(size) for size in (1e-2, 1e-3, 1e-4)]
    stack = jax.tree.map(lambda *x: jnp.stack(x), *models)
    stop = gflow.stop.above(first, 0.5)
    batch = gflow.simulate_batch(stack, loss, in_axes=(0, None), t1=30.0, stop=stop)
    for run, size in zip(batch, (1e-2, 1e-3, 1e-4), strict=True):
        assert run.status is gflow.Status.stopped
        assert run.t[-1] == pytest.approx(0.5 * np.log(1.0 / size - 1.0), rel=1e-8)


def test_a_run_goes_on_from_there():
    run = gflow.simulate(start(), loss, t1=1e3, stop=gflow.stop.loss_below(0.1))
    on = gflow.simulate(run.final, loss, t1=6.0)
    assert on.t[0] == run.t[-1]
    np.testing.assert_allclose(on.final["w"].value, theta(6.0), rtol=1e-6)


@pytest.mark.parametrize(
    ("stop", "match"),
    [
        (gflow.stop.loss_below(10.0), "would end at once.*reads 0.61"),
        (gflow.stop.above(lambda m: first(m) / 0.0, 0.5), "reads inf at the start"),
        (gflow.stop.above(lambda m: m["w"].value, 0.5), r"reads one number.*shape \(2,\)"),
    ],
)
def test_what_is_no_condition_is_refused(stop, match):
    with pytest.raises(ValueError, match=match):
        gflow.simulate(start(), loss, t1=1.0, stop=stop)


def test_a_reading_takes_no_name_of_the_user():
    stop = gflow.stop.above(first, 0.5)
    with pytest.raises(ValueError, match="observable is called 'stop'"):
        gflow.simulate(start(), loss, t1=1.0, stop=stop, observables={"stop": first})
    run = gflow.simulate(
        start(), loss, t1=0.1, stop=gflow.stop.loss_below(1e-3), observables={"stop": first}
    )
    assert run.observables["stop"][0] == pytest.approx(1e-2)


def test_a_condition_is_one_of_stop():
    for stop in (lambda m: 1.0, "loss", [gflow.stop.loss_below(1.0), 2.0]):
        with pytest.raises(ValueError, match=r"is no condition.*loss_below"):
            conditions(stop)


def test_a_level_is_a_finite_number():
    with pytest.raises(ValueError, match="finite level"):
        gflow.stop.loss_below(np.nan)
