"""The switching functions of a loss, read from its program, against mathematics and JAX."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gflow.kinks._switches import Held, Natural, Smoothed, find_switches, read

X = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)))
W = jnp.array([0.3, -0.2, 0.7])
LABELS = (X[:, 0] > 0).astype(float)


def perceptron(width, n):
    model = eqx.nn.MLP(3, 1, width, 1, key=jax.random.key(0))
    arrays, static = eqx.partition(model, eqx.is_inexact_array)
    inputs = jax.random.normal(jax.random.key(1), (n, 3))

    def loss(arrays):
        return jnp.mean(jax.vmap(eqx.combine(arrays, static))(inputs) ** 2)

    return loss, arrays


def total(function):
    return lambda w: jnp.sum(function(X @ w))


# name: (function, number of kinks by mathematics). A pool of n inputs has n − 1; clip and ELU's
# guarded branch two each; of Huber's |r| and min(|r|, δ) both count, though |r| cancels.
CASES = {
    "relu": (total(jax.nn.relu), 5),
    "leaky relu": (total(jax.nn.leaky_relu), 5),
    "relu6": (total(jax.nn.relu6), 10),
    "elu": (total(jax.nn.elu), 10),
    "l1": (lambda w: jnp.sum(jnp.abs(w)), 3),
    "max pool": (lambda w: jnp.max(X @ w), 4),
    "min": (lambda w: jnp.min(X @ w), 4),
    "clip": (total(lambda z: jnp.clip(z, -1.0, 1.0)), 10),
    "where": (total(lambda z: jnp.where(z > 0, z, 0.1 * z)), 5),
    "not and": (total(lambda z: jnp.where(~((z > 0.0) & (z < 1.0)), 1.0, z * z)), 10),
    "huber": (total(optax.huber_loss), 10),
    "hinge": (total(lambda z: jnp.maximum(0.0, 1.0 - z)), 5),
    "mask times x": (total(lambda z: (z > 0) * z), 5),
    "softplus": (total(jax.nn.softplus), 0),
    "softmax": (lambda w: jax.nn.softmax(X @ w)[0], 0),
    "logsumexp": (lambda w: jax.nn.logsumexp(X @ w), 0),
    "log softmax": (lambda w: jax.nn.log_softmax(X @ w)[0], 0),
    "gelu": (total(jax.nn.gelu), 0),
    "silu": (total(jax.nn.silu), 0),
    "norm": (lambda w: jnp.linalg.norm(w), 0),
    "layer norm": (lambda w: jnp.sum(eqx.nn.LayerNorm(3)(w) ** 3), 0),
    "binary cross-entropy": (total(lambda z: optax.sigmoid_binary_cross_entropy(z, LABELS)), 0),
    "straight through": (lambda w: jnp.sum((w + jax.lax.stop_gradient(jnp.round(w) - w)) ** 2), 0),
}


@pytest.mark.parametrize("name", CASES)
@jax.numpy_dtype_promotion("standard")  # the functions of Optax and JAX are written for it
@jax.numpy_rank_promotion("allow")
def test_branches_that_are_held_give_the_value_and_gradient_of_jax(name):
    function, kinks = CASES[name]
    switches = find_switches(function, W)
    assert switches.count == kinks
    assert switches.opaque == ()
    value, h = read(function, W, Natural())
    assert h.shape == (kinks,)
    np.testing.assert_allclose(value, function(W), rtol=1e-14)
    rule = Held((h > 0).astype(float))
    gradient = jax.grad(lambda w: read(function, w, rule)[0])(W)
    np.testing.assert_allclose(gradient, jax.grad(function)(W), rtol=1e-12, atol=1e-14)


def test_a_network_has_one_kink_for_each_example_and_unit():
    loss, arrays = perceptron(8, 20)
    switches = find_switches(loss, arrays)
    assert switches.count == 160
    assert switches.describe(9) == "max in relu, entry 9 of (20, 8)"


def test_a_branch_that_is_held_goes_on_beyond_its_kink():
    def loss(w):
        return jnp.sum(jax.nn.relu(w) ** 2 + jnp.abs(w))

    # held at the branch of w > 0 the loss is Σ w² + w for every w
    rule = Held(jnp.ones(6))
    np.testing.assert_allclose(read(loss, W, rule)[0], jnp.sum(W**2 + W), rtol=1e-14)
    # half a branch: relu → w/2, |w| → 0
    rule = Held(jnp.full(6, 0.5))
    np.testing.assert_allclose(read(loss, W, rule)[0], jnp.sum(W**2 / 4), rtol=1e-14)


def test_smoothing_rounds_a_corner_by_half_its_width():
    # (x + √(x² + δ²))/2 at x = 0 is δ/2, and √δ² = δ for |x|; the slopes are ½ and 0
    def loss(w):
        return jnp.sum(jax.nn.relu(w) + jnp.abs(w))

    width = jnp.full(2, 1e-3)
    value, slope = jax.value_and_grad(lambda w: read(loss, w, Smoothed(width))[0])(jnp.zeros(1))
    np.testing.assert_allclose(value, 1.5e-3, rtol=1e-14)
    np.testing.assert_allclose(slope, [0.5], rtol=1e-14)


@pytest.mark.parametrize(
    ("function", "opaque", "jumps"),
    [
        (lambda w: jnp.sum(jnp.sort(X @ w)[:2]), ("sort",), ()),
        (
            lambda w: jnp.sum(eqx.nn.MaxPool1d(2, 2)((X @ w)[None, :4])),
            ("reduce_window_max",),
            (),
        ),
        (
            lambda w: jax.lax.scan(lambda c, x: (c + jax.nn.relu(x @ w), None), 0.0, X)[0],
            ("scan",),
            (),
        ),
        (lambda w: jnp.sum(jnp.floor(X @ w)), (), ("floor",)),
        (lambda w: jax.lax.scan(lambda c, x: (c + jnp.tanh(x @ w), None), 0.0, X)[0], (), ()),
    ],
    ids=["sort", "pool of Equinox", "scan", "floor", "smooth scan"],
)
def test_what_cannot_be_followed_is_named(function, opaque, jumps):
    switches = find_switches(function, W)
    assert switches.count == 0
    assert (switches.opaque, switches.jumps) == (opaque, jumps)
