"""Starts whose products are zero in float64 are refused, and linear weights are not."""

import jax.numpy as jnp
import pytest

import gflow


def product(m):
    return 0.5 * (m["a"][0] * m["a"][1] * m["a"][2] - 1.0) ** 2


def test_three_factors_below_the_float_range_of_their_product_are_refused():
    with pytest.raises(ValueError, match=r"'a' starts at 1\.0e-170.*would stand still"):
        gflow.simulate({"a": jnp.full(3, 1e-170)}, product, t1=2e170)


def test_two_factors_that_still_feel_each_other_run():
    """u' = v, v' = u far from saturation: u = u₀ e^t."""

    def loss(m):
        return 0.5 * (m["u"] * m["v"] - 1.0) ** 2

    start = {"u": jnp.asarray(1e-170), "v": jnp.asarray(1e-170)}
    run = gflow.simulate(start, loss, t1=2.0, error_bars=False)
    assert float(run.final["u"]) == pytest.approx(1e-170 * 7.38905609893065, rel=1e-6)


def test_a_weight_at_rest_is_no_failure():
    def loss(m):
        return 0.5 * jnp.sum(m["w"] ** 2) + 0.0 * m["w"][0]

    run = gflow.simulate({"w": jnp.zeros(2) + 1e-200}, loss, t1=1.0, error_bars=False)
    assert run.successful
