"""The law e^{−2∫λ} of the imbalance, against flows that know only gradients.

Attention and chains are integrated by SciPy (DOP853) with gradients by JAX.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decayed_factors import grams, integrate, normal

from theory import weight_decay as wd

EPS = float(np.finfo(float).eps)


def imbalances(a, b):
    return a.mT @ a - b.mT @ b


TOKENS = jnp.asarray(normal(0, 3, 4, 5))  # three sequences of four tokens in R⁵
WANTED = jnp.asarray(normal(1, 3, 4, 5))


@jax.jit
def attention_loss(key, query, value, output):
    """Two-head softmax attention; key, query, value: (heads, d_h, d), output: (heads, d, d_h)."""
    logits = jnp.einsum("sti,hki,hkj,suj->shtu", TOKENS, query, key, TOKENS) / math.sqrt(2.0)
    read = jnp.einsum("shtu,suj,hkj->shtk", jax.nn.softmax(logits, axis=-1), TOKENS, value)
    return jnp.mean((jnp.einsum("shtk,hik->sti", read, output) - WANTED) ** 2)


ATTENTION_GRADIENT = jax.jit(jax.grad(attention_loss, argnums=(0, 1, 2, 3)))


def attention_start(seed=2):
    return [0.7 * normal(seed + k, 2, *shape) for k, shape in enumerate([(2, 5)] * 3 + [(5, 2)])]


@pytest.mark.parametrize("schedule", [False, True])
def test_imbalance_of_softmax_attention(schedule):
    def decay(t):
        return 0.05 + 0.2 * math.sin(t) ** 2

    times = np.array([0.0, 0.5, 2.0, 5.0])
    rate = decay if schedule else 0.15
    key, query, value, output = integrate(ATTENTION_GRADIENT, attention_start(), rate, times)
    for left, right in [(key.mT, query.mT), (output, value.mT)]:
        law = wd.imbalance(left[0], right[0], rate, times)
        assert law.shape == (4, 2, 2, 2)
        assert np.max(np.abs(imbalances(left, right) - law) / grams(left, right)) < 1e-10
        # it is a law: nothing else about the weights is as simple
        free = left.mT @ left
        assert np.max(np.abs(free - free[0] * (law / law[0]))) > 1e-3
    # the other transpose obeys nothing
    wrong = key.mT @ key - query.mT @ query
    assert np.max(np.abs(wrong - wd.imbalance(key[0], query[0], rate, times))) > 1e-3


def attend(queries, keys):
    """A loss of the attention of three sequences; queries and keys are (sequence, token, d_h)."""
    attention = jax.nn.softmax(jnp.einsum("stk,suk->stu", queries, keys), axis=-1)
    return jnp.mean((attention @ TOKENS - WANTED) ** 2)


def test_imbalance_of_shared_keys_with_biases():
    """Two query heads of one key head: all rows of the queries, biases included, are one factor."""
    tokens = jnp.concatenate([TOKENS, jnp.ones((3, 4, 1))], axis=-1)

    @jax.jit
    def loss(key, first, second):  # (d_h, d + 1), the last column being the bias
        keys = tokens @ key.T
        return attend(tokens @ first.T, keys) + attend(tokens @ second.T, keys) ** 2

    start = [0.6 * normal(90 + k, 3, 6) for k in range(3)]
    times = np.array([0.0, 1.0, 4.0])
    key, *queries = integrate(jax.jit(jax.grad(loss, argnums=(0, 1, 2))), start, 0.2, times)
    left, right = key.mT, np.concatenate([q.mT for q in queries], axis=1)
    law = wd.imbalance(left[0], right[0], 0.2, times)
    assert np.max(np.abs(imbalances(left, right) - law) / grams(left, right)) < 1e-10


def test_imbalance_under_rotary_embedding():
    """Only the trace of each 2×2 rotation block obeys the law."""
    angles = jnp.outer(jnp.arange(4.0), jnp.array([1.0, 0.1]))  # token, block

    def rotated(x):
        pair = x.reshape(3, 4, 2, 2)
        cos, sin = jnp.cos(angles)[None], jnp.sin(angles)[None]
        turned = [cos * pair[..., 0] - sin * pair[..., 1], sin * pair[..., 0] + cos * pair[..., 1]]
        return jnp.stack(turned, axis=-1).reshape(3, 4, 4)

    @jax.jit
    def loss(key, query):
        return attend(rotated(TOKENS @ query.T), rotated(TOKENS @ key.T))

    start = [0.6 * normal(95, 4, 5), 0.6 * normal(96, 4, 5)]
    times = np.array([0.0, 1.0, 4.0])
    key, query = integrate(jax.jit(jax.grad(loss, argnums=(0, 1))), start, 0.2, times)
    left, right = key.mT, query.mT
    law = wd.imbalance(left[0], right[0], 0.2, times)
    error = (imbalances(left, right) - law) / grams(left, right)
    assert np.max(np.abs(error)) > 1e-4
    assert np.max(np.abs(error[:, 0, 0] + error[:, 1, 1])) < 1e-10
    assert np.max(np.abs(error[:, 2, 2] + error[:, 3, 3])) < 1e-10


def test_imbalance_of_a_chain():
    target = normal(3, 2, 4)

    @jax.jit
    def loss(w1, w2, w3):
        return jnp.sum(jnp.tanh(w3 @ w2 @ w1 - target) ** 2)

    start = [0.6 * normal(4, 3, 4), 0.6 * normal(5, 5, 3), 0.6 * normal(6, 2, 5)]
    times = np.array([0.0, 1.0, 4.0, 9.0])
    layers = integrate(jax.jit(jax.grad(loss, argnums=(0, 1, 2))), start, 0.2, times)
    for below, above in [(layers[0], layers[1]), (layers[1], layers[2])]:
        law = wd.imbalance(above[0], below[0].T, 0.2, times)
        measured = imbalances(above, below.mT)
        assert np.max(np.abs(measured - law) / grams(above, below)) < 1e-10


def test_imbalance_at_any_time():
    a, b = normal(7, 2, 4, 3), normal(8, 2, 5, 3)
    start = imbalances(a, b)
    times = np.array([[0.0, 1.0], [3.0, np.inf]])
    table = wd.imbalance(a, b, 0.3, times)
    assert table.shape == (2, 2, 2, 3, 3)
    np.testing.assert_array_equal(table[0, 0], start)
    np.testing.assert_array_equal(table[1, 1], 0.0)
    np.testing.assert_allclose(table[0, 1] / start, math.exp(-0.6), rtol=1e-15)
    assert wd.imbalance(a[0], b[0], 0.3, 1.0).shape == (3, 3)
    assert wd.imbalance(a, b, 0.3, []).shape == (0, 2, 3, 3)
    # continuing equals going straight
    np.testing.assert_allclose(
        wd.imbalance(a, b, 0.3, 3.0), math.exp(-1.2) * table[0, 1], rtol=1e-14
    )
    # without decay it is conserved for ever; heads may have rates of their own
    np.testing.assert_array_equal(wd.imbalance(a, b, 0.0, np.inf), start)
    rates = np.array([0.0, 0.5])
    own = wd.imbalance(a, b, rates, [2.0, np.inf])
    np.testing.assert_allclose(own[0] / start, np.exp(-4.0 * rates)[:, None, None] + 0 * start)
    np.testing.assert_array_equal(own[1], [start[0], 0.0 * start[0]])


SCHEDULES = {
    "constant": (lambda t: 0.3, lambda t: 0.3 * t),
    "warm-up": (
        lambda t: 0.2 * min(t / 5.0, 1.0),
        lambda t: 0.02 * t**2 if t < 5 else 0.2 * t - 0.5,
    ),
    "step": (
        lambda t: 0.3 if t < 1.3 else 0.01,
        lambda t: 0.3 * min(t, 1.3) + 0.01 * max(t - 1.3, 0),
    ),
    "vanishing": (lambda t: math.exp(-t), lambda t: -math.expm1(-t)),
    "slowly vanishing": (lambda t: (1 + t) ** -2.0, lambda t: 1.0 - 1.0 / (1.0 + t)),
    "off": (lambda t: 0.0, lambda t: 0.0),
    "array": (lambda t: jnp.exp(-jnp.asarray(t)), lambda t: -math.expm1(-t)),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules(name):
    decay, integral = SCHEDULES[name]
    times = np.array([0.0, 1e-3, 0.7, 4.0, 30.0, 1e4, np.inf, 0.7])
    a, b = np.eye(2), np.zeros((2, 2))
    found = wd.imbalance(a, b, decay, times)[:, 0, 0]
    np.testing.assert_allclose(found, [math.exp(-2 * integral(t)) for t in times], rtol=1e-9)
    # what happens early is seen from late times alone
    for t, one in zip(times, found, strict=True):
        np.testing.assert_allclose(wd.imbalance(a, b, decay, t)[0, 0], one, rtol=1e-9)


def test_one_step_of_descent():
    start = attention_start(20)
    pulled = [np.asarray(g) for g in ATTENTION_GRADIENT(*start)]
    for eta, rate in [(0.1, 0.0), (0.3, 0.2), (2.0, 0.6)]:
        key, query, value, output = (
            (1 - eta * rate) * w - eta * g for w, g in zip(start, pulled, strict=True)
        )
        for left, right, k, l in [(key.mT, query.mT, 0, 1), (output, value.mT, 3, 2)]:  # noqa: E741
            turn = [lambda x: x.mT, lambda x: x.mT, lambda x: x.mT, lambda x: x]
            law = wd.descent_imbalance(
                *(turn[j](start[j]) for j in (k, l)),
                *(turn[j](pulled[j]) for j in (k, l)),
                learning_rate=eta,
                decay=rate,
            )
            error = np.abs(law - imbalances(left, right))
            assert np.max(error / grams(left, right)) < 16 * EPS
    # by the gradient of the product
    a, b, m = normal(21, 4, 2), normal(22, 3, 2), normal(23, 4, 3)
    law = wd.descent_imbalance(a, b, m @ b, m.T @ a, 0.1, 0.5)
    a, b = a - 0.1 * (m @ b + 0.5 * a), b - 0.1 * (m.T @ a + 0.5 * b)
    np.testing.assert_allclose(law, imbalances(a, b), rtol=0, atol=32 * EPS * grams(a, b).max())


def test_gradients_of_another_kind_are_refused():
    a, b, m = normal(21, 4, 2), normal(22, 4, 2), normal(23, 4, 4)
    for ga, gb in [(m @ b, m @ a), (m @ b + 0.1 * a, m.T @ a), (0.5 * m @ b, m.T @ a)]:
        with pytest.raises(ValueError, match="not gradients of a function"):
            wd.descent_imbalance(a, b, ga, gb, 0.1)
