"""Error bars against errors that are known."""

import jax.numpy as jnp
import numpy as np
import pytest
import small_heads

import gflow
from gflow.integrate._bars import error_bar


@pytest.mark.parametrize("steps", [40, 1000])
def test_a_bar_holds_where_the_run_and_its_companion_cross(steps):
    t = np.linspace(0.0, 10.0, steps)
    error, other = np.cos(t) * np.exp(-0.3 * t), 0.05 * np.exp(-0.3 * t)
    difference = np.abs(error - other)
    if steps > 100:
        assert np.min(difference / np.abs(error)) < 0.2  # they cross between two steps
    bar = error_bar(t, 1.0 + error, 1.0 + other)
    assert np.all(bar >= np.abs(error))
    assert np.median(bar / np.abs(error)) < 4.0


def test_a_bar_is_that_of_the_step_where_errors_only_die_out():
    t = np.linspace(0.0, 10.0, 101)
    error = np.exp(-3.0 * t)
    bar = error_bar(t, error, error / 32.0)
    assert np.all(bar >= error)
    assert np.all(bar[t < 7.0] <= 4.0 * error[t < 7.0])


def test_what_is_unknown_at_some_steps_is_unknown_there_alone():
    t, error = np.arange(9.0), np.full(9, 1e-3)
    error[4] = np.nan
    known = np.isfinite(error_bar(t, error, 0.0 * t))
    np.testing.assert_array_equal(known, np.abs(t - 4.0) > 1.0)


def test_a_settled_state_has_the_bar_of_a_settled_state():
    """The time of a transition is known to rtol/ε, by far more than it lasts: there the bar is all
    of the change, and behind it what it would be without.
    """

    epsilon = 1e-40

    def loss(a):
        return 0.5 * (jnp.prod(a) - 1.0) ** 2

    run = gflow.simulate(epsilon * jnp.ones(3), loss, t1=2.0 / epsilon)
    (name,) = run.leaves
    assert np.all(np.abs(run.observables[name][-1] - 1.0) < 1e-12)
    for bar in (run.error["loss"][-1], np.max(run.error[name][-1])):
        assert bar < 1e-8
    assert np.max(run.error["loss"]) > 0.5  # companion and run are apart for rtol/ε


@pytest.mark.parametrize("rtol", [pytest.param(1e-6, marks=pytest.mark.slow), 1e-8])
def test_times_that_are_known_less_well_than_a_drop_lasts(rtol):
    """Of plain weights from 1e-8, whose companion is through a drop of ten units of time, at 4e8,
    long before the run or after it; against the same heads in units."""

    def half_drops(run):
        return [run.crossing(gflow.stop.loss_below(level)) for level in small_heads.MIDDLES]

    start, loss = small_heads.heads, small_heads.loss
    units = gflow.simulate(start(1e-8), loss, rtol=1e-9, error_bars=False)
    plain = gflow.simulate(start(1e-8, units=None), loss, t1=1.1e10, rtol=rtol)
    for one, other in zip(half_drops(plain), half_drops(units), strict=True):
        assert abs(one.t - other.t) <= one.error < 1e-3 * one.t
