"""The identity of 2410.09605 and its Grams, on the model itself, by automatic differentiation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from theory import cross_entropy

D, M, UNITS, LENGTH, EXAMPLES = 6, 5, 7, 4, 9
SIGNS = np.array([1, -1, 1, 1, -1, -1, 1])


def problem(seed=0):
    rng = np.random.default_rng(seed)
    weights = [rng.normal(size=s) for s in ((M, D), (M, D), (M, D), (UNITS, M))]
    x = np.eye(D)[rng.integers(0, D, size=(EXAMPLES, LENGTH))]  # tokens as rows
    return (
        [jnp.asarray(w) for w in weights],
        jnp.asarray(x),
        np.where(rng.random(EXAMPLES) < 0.5, 1, -1),
    )


def outputs(weights, x):
    k, q, v, w = weights

    def one(tokens):  # X = tokensᵀ
        scores = (tokens @ k.T) @ (tokens @ q.T).T / np.sqrt(M)  # key, query
        attention = jax.nn.softmax(scores, axis=0)
        return jnp.sum(jnp.asarray(SIGNS, float) @ w @ v @ tokens.T @ attention)

    return jax.vmap(one)(x)


def forces(weights, x, y, decay=0.0):
    def loss(weights):
        return jnp.mean(jnp.logaddexp(0.0, -jnp.asarray(y, float) * outputs(weights, x)))

    return [-g - decay * w for g, w in zip(jax.grad(loss)(weights), weights, strict=True)]


def slope(function, weights, velocity):
    return jax.jvp(function, (weights,), (velocity,))[1]


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_identity(seed, decay):
    weights, x, y = problem(seed)
    velocity = forces(weights, x, y, decay)
    exact = slope(lambda p: jnp.sum((jnp.asarray(SIGNS, float) @ p[3]) ** 2), weights, velocity)
    size = cross_entropy.readout_norm2(SIGNS, weights[3])
    found = cross_entropy.balance_identity(outputs(weights, x), y, UNITS, norm2=size, decay=decay)
    assert abs(exact) > 0.1
    assert found == pytest.approx(float(exact), rel=1e-12)
    both = cross_entropy.balance_identity(np.stack([outputs(weights, x)] * 2), y, UNITS)
    assert both.shape == (2,)


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_the_grams(decay):
    weights, x, y = problem(3)
    velocity = forces(weights, x, y, decay)

    def grams(p):
        k, q, v, w = p
        return k @ k.T - q @ q.T, w.T @ w - v @ v.T

    moved = slope(lambda p: p[0] @ p[0].T, weights, velocity)
    assert np.max(np.abs(moved)) > 0.01
    now = cross_entropy.conserved(*weights)
    for rate, value in zip(slope(grams, weights, velocity), now, strict=True):
        np.testing.assert_allclose(rate, -2 * decay * value, rtol=0, atol=1e-13)
    for found, exact in zip(now, grams(weights), strict=True):
        np.testing.assert_allclose(found, exact, rtol=0, atol=1e-14)


def test_outputs_beyond_overflow():
    found = cross_entropy.balance_identity([1000.0, -1000.0], [1, 1], 3)
    assert found == pytest.approx(-3000.0, rel=1e-14)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: cross_entropy.balance_identity([1.0], [1, 1], 3), r"\(1,\), labels \(2,\)"),
        (lambda: cross_entropy.balance_identity([1.0], [0], 3), "labels contain 0"),
        (lambda: cross_entropy.balance_identity([1.0], [1], 0), "units = 0"),
        (lambda: cross_entropy.balance_identity([1.0], [1], 3, decay=-1.0), "decay = -1"),
        (lambda: cross_entropy.readout_norm2([1, 2], np.ones((2, 3))), "give ±1"),
        (lambda: cross_entropy.readout_norm2([1, -1], np.ones((3, 2))), "give ±1"),
        (
            lambda: cross_entropy.conserved(*np.ones((3, 2, 4)), np.ones((2, 4))),
            r"shapes \(2, 4\)",
        ),
    ],
)
def test_refusals(call, words):
    with pytest.raises(ValueError, match=words):
        call()
