"""Paths that `theory.gradual_rank.predict` refuses, or ends early with a reason."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from least_squares import FIXTURE, TIMES, UNEQUAL, fixture, linear, objective, random_problem, taus

import gflow
from gflow.models import DiagonalLinear
from theory.gradual_rank import predict


def two(log_alpha=-20.0, **kwargs):
    return linear(log_alpha, **kwargs)


class Reward(eqx.Module):
    """−Σ θ: no minimum."""

    def __call__(self, model):
        return -jnp.sum(model.weight.value)


class Separable(eqx.Module):
    """Logistic loss of labels that a line separates: its minimum lies at infinity."""

    inputs: jax.Array

    def __call__(self, model):
        return jnp.mean(jnp.log1p(jnp.exp(-jax.vmap(model)(self.inputs))))


class Pair(eqx.Module):
    first: gflow.Parameter
    second: object

    def __call__(self, x):
        second = getattr(self.second, "value", self.second)
        return jnp.dot(x, self.first.value + second)


def small(log_alpha):
    return gflow.Hadamard.small(4, log_alpha=log_alpha, key=jax.random.key(0))


def frozen_sign():
    u = jnp.array([1e-3, 2e-3, 1e-3, 1e-3])
    return DiagonalLinear(gflow.Hadamard(u, u.at[1].set(1e-3), log_alpha=-7.0))


# exponents 1, 2, 3, 4 under forces 1, 2, 3, 4: equal times at unequal rates
TIED = (np.eye(4), np.arange(1.0, 5.0))


@pytest.mark.parametrize(
    ("model", "problem", "words"),
    [
        (
            two(exponents=(np.arange(1.0, 5.0), 1.0)),
            TIED,
            r"accidental tie: weight\[0\], weight\[1\].*different rates.*Perturb the data",
        ),
        (frozen_sign(), FIXTURE, r"\|u\| = \|v\| at index \(0,\)"),
        (Pair(small(-10.0), small(-20.0)), FIXTURE, r"disagree.*first: -10, second: -20.*Pass"),
        (two(0.0), FIXTURE, "0 < α < 1.*log_alpha = 0"),
        (two(2.0), FIXTURE, "0 < α < 1.*log_alpha = 2"),
        (
            DiagonalLinear(gflow.Hadamard(jnp.full(4, 1e-3), jnp.zeros(4))),
            FIXTURE,
            "without log_alpha. Pass log_alpha=",
        ),
        (Pair(small(-10.0), jnp.ones(4)), FIXTURE, r"\['second'\].*gflow.Frozen"),
        (two(), (FIXTURE[0], np.zeros(4)), "No weight feels a force"),
        (two(exponents=(0.0, 0.0)), FIXTURE, r"weight\[0\] has exponents \(0, 0\).*\(0, 2\)"),
        (two(exponents=(1.0, -0.1)), FIXTURE, r"weight\[0\] has a negative exponent"),
    ],
)
def test_what_cannot_be_predicted_is_named(model, problem, words):
    with pytest.raises(ValueError, match=words):
        predict(model, objective(problem))


def test_log_alpha_can_be_given():
    unknown = DiagonalLinear(gflow.Hadamard(jnp.full(4, 1e-3), jnp.zeros(4)))
    pred = predict(unknown, objective(FIXTURE), log_alpha=math.log(1e-3))
    np.testing.assert_allclose(taus(pred), TIMES, atol=1e-9)
    with pytest.raises(ValueError, match=r"log_alpha = 0.5 was given"):
        predict(unknown, objective(FIXTURE), log_alpha=0.5)


def test_leaves_at_two_alphas_are_two_exponents():
    loss = objective(FIXTURE)
    given = predict(Pair(small(-10.0), gflow.Frozen(jnp.zeros(4))), loss, log_alpha=-5.0)
    own = predict(Pair(small(-10.0), gflow.Frozen(jnp.zeros(4))), loss)
    np.testing.assert_allclose(taus(given), 2 * taus(own), rtol=1e-12)
    np.testing.assert_allclose(given.at(-5.0).t, own.at(-10.0).t, rtol=1e-12)


def test_an_objective_unbounded_below_is_refused():
    # the force never fades: all four weights grow at once, at one rate
    with pytest.raises(ValueError, match=r"does not fade.*unbounded below"):
        predict(linear(-20.0), Reward())


def test_a_minimum_at_infinity_is_named():
    loss = Separable(jnp.asarray(np.abs(random_problem(0)[0])))
    model = linear(-20.0, (np.array([0.6, 1.7, 1.0, 0.8]), np.ones(4)))
    with pytest.raises(ValueError, match=r"force on them fades.*minimum lies at infinity"):
        predict(model, loss)


def test_a_minimum_at_infinity_is_refused_from_an_active_start_too():
    inputs = jnp.asarray(np.abs(random_problem(0)[0]))
    with pytest.raises(ValueError, match=r"from the start.*minimum lies at infinity"):
        predict(linear(-20.0, exponents=(0.0, 2.0)), Separable(inputs))


def test_decay_that_depends_on_time_is_refused():
    with pytest.raises(ValueError, match="constant decay"):
        predict(two(), objective(FIXTURE), decay=lambda t: 0.1 * t)


def test_a_degenerate_saddle_ends_the_path_with_a_warning():
    # at λ = 1/10 weight 0 leaves the support at exactly zero force
    with pytest.warns(UserWarning, match="degenerate"):
        pred = predict(linear(-20.0), objective(FIXTURE), decay=0.1)
    assert len(pred.stages) == 1
    assert "degenerate" in pred.ended


@pytest.mark.parametrize("log_alpha", [0.0, 3.0, math.nan, -math.inf])
def test_finite_alpha_needs_an_alpha(log_alpha):
    with pytest.raises(ValueError, match="0 < α < 1"):
        fixture("equal").at(log_alpha)


def test_max_stages_is_said_to_be_the_reason():
    pred = predict(linear(-10.0), objective(FIXTURE), max_stages=2)
    assert len(pred.stages) == 2
    assert "max_stages = 2" in pred.ended


def test_modes_that_decay_holds_back_are_counted():
    pred = predict(linear(-10.0, UNEQUAL), objective(FIXTURE), decay=0.2)
    assert len(pred.stages) < len(fixture("unequal").stages)
    assert pred.ended.startswith("complete")
    assert pred.ended.endswith("decay holds 2 back that would")
