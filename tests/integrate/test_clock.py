"""A trajectory in another clock: w' = w² from 1e-100, where t has no digits left for its end."""

import math
import pickle

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

import gflow

START, LEVEL = 1e-100, 0.5


class Number(eqx.Module):
    weight: gflow.Scaled


def cubic(model):
    """L = −w³/3, hence w = 1/(1/w₀ − t): r = log(w/w₀), and 1/w − 1/w₁ is left until w₁."""
    return -jnp.sum(model.weight.value**3) / 3.0


@pytest.fixture(scope="module")
def run():
    model = Number(gflow.Scaled(jnp.ones(1), math.log(START)))
    watched = {"square": lambda m: m.weight.value[0] ** 2}
    return gflow.escape(model, cubic, level=LEVEL, observables=watched)


def test_it_is_a_trajectory_that_ended_at_the_level(run):
    assert isinstance(run, gflow.Trajectory)
    assert run.status is gflow.Status.stopped
    assert run.successful
    assert "0.5" in run.cause
    weight = run.observables["weight"][:, 0]
    assert weight[-1] == pytest.approx(LEVEL, rel=1e-13)
    np.testing.assert_allclose(run.observables["weight.log_norm"], np.log(weight), rtol=1e-12)
    np.testing.assert_allclose(run.observables["square"], weight**2, rtol=1e-12)
    np.testing.assert_allclose(run.loss, -(weight**3) / 3, rtol=1e-12)
    np.testing.assert_allclose(run.clock, np.log(weight / START), rtol=1e-9, atol=1e-12)


def test_times_before_and_left(run):
    weight = run.observables["weight"][:, 0]
    np.testing.assert_allclose(run.t[1:], 1 / START - 1 / weight[1:], rtol=1e-8)
    np.testing.assert_allclose(run.remaining, 1 / weight - 1 / LEVEL, rtol=1e-8, atol=1e-12)
    assert run.t[-1] == run.t[-2]  # the digits of t are used up
    off = np.abs(run.t - (1 / START - 1 / weight))
    # log w is held to a rounding, and takes another with every step: so many of 1/w
    rounding = np.spacing(math.log(1 / START)) * np.arange(2, len(run.t) + 2) / weight
    assert np.all(off <= run.error["t"] + rounding)
    assert off[-1] > 0.1 * run.error["t"][-1]  # there is something to bound


@pytest.mark.parametrize("level", [3e-100, 1e-40, 0.1, 0.4999])
def test_a_norm_on_the_way(run, level):
    found = run.at_norm(level)
    assert found.t == pytest.approx(1 / START - 1 / level, rel=1e-8)
    assert found.remaining == pytest.approx(1 / level - 1 / LEVEL, rel=1e-7)
    assert abs(found.t - (1 / START - 1 / level)) <= found.error
    assert found.error < 1e-6 * found.t
    assert found.model.weight.value[0] == pytest.approx(level, rel=1e-12)


def test_any_condition_on_the_way(run):
    loss = run.crossing(gflow.stop.loss_below(-1e-90))
    assert loss.model.weight.value[0] == pytest.approx(3e-90 ** (1 / 3), rel=1e-12)
    inverse = run.crossing(gflow.stop.below(lambda m: 1 / m.weight.value[0], 100.0))
    assert inverse.remaining == pytest.approx(100.0 - 1 / LEVEL, rel=1e-7)
    with pytest.raises(ValueError, match="Ask for a level between"):
        run.at_norm(0.6)


def test_between_recorded_times(run):
    t = 0.3 / START
    assert run.model(t=t).weight.value[0] == pytest.approx(START / 0.7, rel=1e-8)
    more = gflow.escape(run.like, cubic, level=LEVEL).with_times([t, 0.9 / START])
    assert len(more.t) == len(more.clock) == len(run.t) + 2
    assert np.all(np.diff(more.clock) > 0)
    row = int(np.flatnonzero(np.isclose(more.t, t, rtol=1e-12))[0])
    assert more.observables["weight"][row, 0] == pytest.approx(START / 0.7, rel=1e-8)
    assert more.error["weight"][row] <= 1e-6 * START


def test_the_end_is_continued_with_all_digits(run):
    assert float(run.final.weight.log_scale) == pytest.approx(math.log(LEVEL), rel=1e-12)
    on = gflow.simulate(run.final, cubic, t1=1.0)
    assert on.t[0] == 0.0
    assert on.final.weight.value[0] == pytest.approx(1 / (1 / LEVEL - 1.0), rel=1e-7)
    middle = run.model(step=len(run.t) // 2)
    again = gflow.escape(middle, cubic, level=LEVEL)
    assert again.t[-1] == pytest.approx(run.remaining[len(run.t) // 2], rel=1e-7)


def test_files_and_pickles_hold_the_clock(run, tmp_path):
    run.save(tmp_path / "escape.nc")
    loaded = gflow.Trajectory.load(tmp_path / "escape.nc", like=run.like)
    for other in (loaded, pickle.loads(pickle.dumps(run))):
        np.testing.assert_array_equal(other.clock, run.clock)
        np.testing.assert_array_equal(other.t, run.t)
        np.testing.assert_array_equal(other.error["t"], run.error["t"])
        np.testing.assert_array_equal(other.final.weight.value, run.final.weight.value)
        assert other.status is run.status
        with pytest.raises(ValueError, match="within its first transition"):
            other.stages()
    assert run.to_xarray()["clock"].dims == ("t",)
