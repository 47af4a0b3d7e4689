"""Whole runs along plateaus of any length against the limit algorithm of `theory`."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gflow
import theory
from gflow.models import DiagonalLinear
from gflow.objectives import SquaredLoss

LOG10 = math.log(10.0)
EPS = np.finfo(float).eps


TEACHER = np.array([3, -2.2, 1.7, 1.2, -0.8, 0.5, 0, 0, 0, 0])


@functools.cache
def regression():
    inputs = np.random.default_rng(0).normal(size=(40, 10))
    return SquaredLoss(inputs, inputs @ TEACHER, "half_mean")


def tilted(log_alpha, larger):
    """Ten weights that all start with s, or all with d, four times the other."""
    shift = math.log(2.0) * (1 if larger == "s" else -1)
    return DiagonalLinear(
        gflow.Hadamard.from_scales(
            log_s=jnp.full(10, log_alpha + shift),
            log_d=jnp.full(10, log_alpha - shift),
            log_alpha=log_alpha,
        )
    )


@functools.cache
def predicted(larger):
    # each weight its own size, or the four that never activate would be no rivals at all
    return theory.gradual_rank.predict(tilted(-50.0, larger), regression())


@pytest.mark.parametrize("rtol", [1e-4, 1e-8])
@pytest.mark.parametrize("larger", ["s", "d"])
def test_weights_that_change_sides_leave_the_plateaus_at_rounding(larger, rtol):
    # α = e^{−2·10⁶}: logarithms have 5e-10 of rounding, which must not reach the weights. With
    # s larger weights 1 and 4 change sides, with d larger 0, 2, 3 and 5. At rtol = 10⁻⁴ four
    # transitions fit into one round, between which coordinates are made anew anyway.
    log_alpha, prediction = -2e6, predicted(larger)
    run = gflow.simulate(
        tilted(log_alpha, larger), regression(), tau1=4.5, rtol=rtol, error_bars=False
    )
    start = run.leaves["weight"]["log_s"][0] > run.leaves["weight"]["log_d"][0]
    end = np.sign(run.observables["weight"][-1][:6])
    assert np.sum(end != np.where(start[:6], 1, -1)) == (2 if larger == "s" else 4)

    expected = prediction.at(log_alpha).t
    assert len(expected) == 6
    rates = np.array([stage.rate for stage in prediction.stages])
    rows = theory.compare(run, prediction).rows
    times = np.array([row.tau_measured for row in rows]) * run.scale
    assert np.max(np.abs(times - expected) * rates) <= 10 * rtol

    # on every plateau: no force on what is active, the saddle's own weights
    leaf, support = run.leaves["weight"], []
    for k, stage in enumerate(prediction.stages):
        assert not stage.deactivated
        support += [index[0] for _, index in stage.activated]
        inside = (run.t > expected[k]) & (run.t < np.append(expected, np.inf)[k + 1])
        force = np.max(np.abs(leaf["force"][inside][:, support]), axis=1)
        rest = np.argmin(force)
        assert force[rest] <= 1e-12
        value = leaf["value"][inside][rest][support]
        np.testing.assert_allclose(value, stage.value["weight"][support], rtol=0, atol=1e-11)


ONE_METHOD = gflow.solvers.Rodas5P(pivot=False)


def attempts(run):
    return run.statistics["accepted"] + run.statistics["rejected"]


@functools.cache
def small(decades, rtol=1e-8, solver=None):
    weight = gflow.Hadamard.small(10, log_alpha=-decades * LOG10, key=jax.random.key(0))
    model = DiagonalLinear(weight)
    return gflow.simulate(model, regression(), tau1=4.0, rtol=rtol, error_bars=False, solver=solver)


def test_attempts_hardly_depend_on_alpha():
    # 10⁻¹⁰⁰⁰⁰⁰⁰ has plateaus 10⁵ times as long
    for solver in (None, ONE_METHOD):
        most = attempts(small(1_000_000, solver=solver))
        assert most <= 3 * attempts(small(16, solver=solver))
        assert attempts(small(10_000, solver=solver)) <= 2 * attempts(small(100, solver=solver))
    # 10⁻³ has two thirds of its transitions merged, and so few plateaus that order 8 takes them all
    assert attempts(small(1_000_000, solver=ONE_METHOD)) <= 3 * attempts(
        small(3, solver=ONE_METHOD)
    )


@pytest.mark.parametrize("decades", [3, 16, 100, 10_000, 1_000_000])
def test_the_method_chosen_takes_fewer_attempts_than_one_for_all(decades):
    assert attempts(small(decades)) < attempts(small(decades, solver=ONE_METHOD))


@pytest.mark.parametrize("decades", [100, 10_000, 1_000_000])
@pytest.mark.parametrize("rtol", [1e-6, 1e-8])
def test_a_step_does_not_overshoot_the_next_transition(decades, rtol):
    # a step that ends beyond a transition is repeated once for every factor of ten
    run = small(decades, rtol)
    assert len(run.stages()) == 6
    assert run.statistics["rejected"] <= 6 * 20
