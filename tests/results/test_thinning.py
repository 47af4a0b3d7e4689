"""Runs that keep a part of their steps, and pickled ones: the stages and weights of the whole."""

import pickle

import jax
import numpy as np
import pytest
from matrices import LOG10, quadratic

import gflow
from gflow.integrate import _recorder as recorder
from gflow.results._plateaus import plateau_steps, thinned

LOG_ALPHA = -20 * LOG10


def test_half_of_the_steps_and_all_that_matter():
    t = np.linspace(0.0, 10.0, 401)
    descent = 1e-6 + np.exp(-(((t - 3.0) / 0.2) ** 2)) + np.exp(-(((t - 7.0) / 0.1) ** 2))
    rows = thinned(descent)
    assert len(rows) < 0.55 * len(t)
    assert {0, 400} <= set(rows.tolist())
    before, after = plateau_steps(descent), rows[plateau_steps(descent[rows])]
    np.testing.assert_array_equal(before, after)
    for peak in (120, 280):
        assert {peak - 1, peak, peak + 1} <= set(rows.tolist())


@pytest.fixture(scope="module")
def runs():
    model, objective = quadratic(0, LOG_ALPHA)

    def run():
        return gflow.simulate(model, objective, tau1=8.0, rtol=1e-8)

    whole = run()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recorder, "KEPT", 1)
        patch.setattr(recorder, "LEAST_ROWS", 100)
        return whole, run()


def test_fewer_steps_are_kept(runs):
    whole, part = runs
    assert part.statistics["accepted"] == whole.statistics["accepted"] == len(whole.t) - 1
    assert len(part.t) < 0.7 * len(whole.t)
    np.testing.assert_array_equal(part.loss[-1], whole.loss[-1])


def test_stages_are_the_same(runs):
    whole, part = (run.stages() for run in runs)
    model, objective = quadratic(0, LOG_ALPHA)
    best = gflow.simulate(model, objective, tau1=8.0, rtol=1e-11).stages()
    assert len(whole) == len(part) == len(best) >= 3
    for one, other, true in zip(whole, part, best, strict=True):
        assert abs(one.t - other.t) <= one.error + other.error
        assert one.activated == other.activated
        # a bar on half of the steps is a coarser one, and still one: it holds, and tells of rtol
        assert abs(other.t - true.t) <= other.error + true.error < 1e3 * 1e-8 * other.t
        np.testing.assert_allclose(one.value["weight"], other.value["weight"], rtol=0, atol=1e-6)


def test_between_the_steps_that_are_kept(runs):
    whole, part = runs
    middle = 0.5 * (whole.t[1:] + whole.t[:-1])[::7]
    values = [run.with_times(middle) for run in runs]
    values = [v.observables["weight"][np.searchsorted(v.t, middle)] for v in values]
    np.testing.assert_allclose(values[0], values[1], rtol=0, atol=1e-7)
    logs = [run.model(t=middle[4]).weight.log_singular_values() for run in runs]
    np.testing.assert_allclose(*logs, rtol=0, atol=1e-6)
    assert jax.tree.structure(whole.final) == jax.tree.structure(part.final)


def test_a_pickle_holds_what_is_recorded(runs):
    whole = runs[0]
    again = pickle.loads(pickle.dumps(whole))
    for name in ("weight", "weight.log_singular", "weight.above_sqrt_alpha"):
        np.testing.assert_array_equal(again.observables[name], whole.observables[name])
        np.testing.assert_array_equal(again.error[name], whole.error[name])
    with pytest.raises(ValueError, match="needs its flow"):
        again.model(t=0.5 * whole.t[-1])
    for one, other in zip(whole.stages(), again.stages(), strict=True):
        assert abs(one.t - other.t) <= one.error + other.error


def test_the_axis_of_a_rank_says_what_is_counted(runs):
    assert "singular values" in gflow.plot.ranks(runs[0], "weight").get_ylabel()
