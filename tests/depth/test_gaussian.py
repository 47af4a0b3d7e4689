"""Normal numbers of fresh layers: their law, and that neighbours are independent."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from gflow.depth._gaussian import gaussian


def test_they_are_normal_and_independent():
    x = np.asarray(jax.jit(lambda k: gaussian(k, (2, 100_000)))(jax.random.key(0)))
    assert stats.kstest(x.ravel(), "norm").pvalue > 0.01
    assert stats.kstest(x.sum(axis=0) / np.sqrt(2.0), "norm").pvalue > 0.01
    n = x.shape[1]
    # a pair has one radius: neither its product nor its squares may be correlated
    assert abs(np.mean(x[0] * x[1])) < 4.0 / np.sqrt(n)
    assert abs(np.mean((x[0] ** 2 - 1.0) * (x[1] ** 2 - 1.0))) < 8.0 / np.sqrt(n)
    angle = np.arctan2(x[1], x[0]) / (2.0 * np.pi) + 0.5
    assert stats.kstest(angle, "uniform").pvalue > 0.01


def test_they_are_those_of_the_formula_to_rounding():
    key, shape = jax.random.key(1), (3, 333)
    u, v = np.asarray(jax.random.uniform(key, (2, 500)))
    radius = np.sqrt(-2.0 * np.log1p(-u))
    angle = 2.0 * np.pi * v - 0.25 * np.pi
    exact = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
    found = gaussian(key, shape)
    assert found.dtype == jnp.float64
    np.testing.assert_allclose(found, exact[:999].reshape(shape), rtol=0, atol=2e-14)
