"""u = v: the weight keeps its sign, and under ½(w − w*)² it follows the logistic curve."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

import gflow

LOG_ALPHA = -11.0
#: The third weight is u·(−v) and grows to a negative target.
TARGET = np.array([1.0, 0.45, -0.2])


def half_square(model):
    return 0.5 * jnp.sum((model["w"].value - jnp.asarray(TARGET)) ** 2)


def logistic(t):
    """|w|' = 2|w|(|w*| − |w|) from |w| = α²."""
    top, start = np.abs(TARGET), math.exp(2.0 * LOG_ALPHA)
    return np.sign(TARGET) * top / (1.0 + (top / start - 1.0) * np.exp(-2.0 * top * t))


@pytest.fixture(scope="module")
def run():
    size = np.full(3, math.exp(LOG_ALPHA))
    model = {"w": gflow.Hadamard(size, size * np.sign(TARGET), log_alpha=LOG_ALPHA)}
    return gflow.simulate(model, half_square, t1=88.0, allow_frozen_sign=True)


def test_it_is_refused_unless_meant(run):
    with pytest.raises(ValueError, match=r"'w' has \|u\| = \|v\|.*allow_frozen_sign"):
        gflow.simulate(run.like, half_square, t1=1.0)


def test_the_weights_follow_the_logistic_curve(run):
    exact = np.array([logistic(t) for t in run.t])
    np.testing.assert_allclose(run.observables["w"], exact, rtol=0, atol=1e-7)
    assert np.all(np.abs(run.observables["w"] - exact) <= run.error["w"] + 1e-8)


def test_the_model_at_any_time_does_too(run):
    np.testing.assert_allclose(run.final["w"].value, logistic(88.0), rtol=1e-7)
    np.testing.assert_allclose(run.model(t=12.25)["w"].value, logistic(12.25), rtol=1e-7)
    np.testing.assert_allclose(run.final["w"].conserved(), 0.0, atol=0)


def test_a_run_can_be_continued(run):
    rest = gflow.simulate(run.model(t=12.25), half_square, t1=88.0, allow_frozen_sign=True)
    assert rest.t[0] == 12.25
    np.testing.assert_allclose(rest.observables["w"][-1], logistic(88.0), rtol=1e-7)


def test_its_stages_are_those_of_the_curve(run):
    stages = run.stages()
    assert [s.activated for s in stages] == [[("w", (i,))] for i in (0, 1, 2)]
    for stage in stages:
        i = stage.activated[0][1][0]
        # where |w| is half of what it has on the plateau after it
        rest = abs(stage.value["w"][i])
        top, start = abs(TARGET[i]), math.exp(2.0 * LOG_ALPHA)
        exact = math.log((top / start - 1.0) / (2.0 * top / rest - 1.0)) / (2.0 * top)
        assert abs(stage.t - exact) <= stage.error
        assert stage.error < 1e-6
