"""Rates off symmetric rest states, and when a broken permutation shows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import root

import gflow
from gflow import symmetry
from theory.symmetry import escape_time

X = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [-1.0, 0.5]])
Y = jnp.array([1.0, -0.6, 0.3, -0.9])


def loss(model):
    """Half the mean squared error of Σ_h a_h tanh(b_h·x)."""
    return jnp.sum((Y - jnp.tanh(X @ model["b"].T) @ model["a"]) ** 2) / 8.0


def swapped(model):
    return jax.tree.map(lambda x: x[::-1], model)


@functools.cache
def rest(decay=0.0, heads=2):
    """Equal heads at rest, by Newton's method on (a, b)."""
    x, y = np.asarray(X), np.asarray(Y)

    def slope(z):
        hidden = np.tanh(x @ z[1:])
        left = (heads * z[0] * hidden - y) / 4.0
        inner = z[0] * (1.0 - hidden**2)
        return np.append(left @ hidden, (left * inner) @ x) + decay * z

    z = root(slope, [0.56, 0.98, -0.66], tol=1e-13).x
    return {"a": jnp.full((heads,), z[0]), "b": jnp.asarray(np.tile(z[1:], (heads, 1)))}


@pytest.fixture(scope="module")
def broken():
    return symmetry.breaking(rest(), loss, swapped)


def test_the_rates_of_two_equal_heads(broken):
    np.testing.assert_allclose(
        broken.problem.start[[0, 2, 3]], [0.56448778, 0.98133291, -0.66075674]
    )
    np.testing.assert_allclose(broken.rates, [0.0111041695, 0.0, -0.00521747546], atol=1e-10)
    assert float(broken.distance(rest())) < 1e-15
    moved = broken.displaced(1e-3)
    assert float(broken.distance(moved)) == pytest.approx(1e-3, rel=1e-12)
    np.testing.assert_allclose(
        np.sort(np.concatenate([np.ravel(x) for x in jax.tree.leaves(swapped(moved))])),
        np.sort(np.concatenate([np.ravel(x) for x in jax.tree.leaves(moved)])),
    )


@pytest.mark.parametrize(
    ("start", "when"), [pytest.param(1e-6, 829.4598, marks=pytest.mark.slow), (1e-4, 414.7354)]
)
def test_when_a_broken_permutation_shows(broken, start, when):
    level = 1e-2
    run = gflow.simulate(broken.displaced(start), loss, t1=when + 2.0, rtol=1e-12)
    seen = run.crossing(gflow.stop.above(broken.distance, level))
    assert seen.error < 1e-4
    assert seen.t == pytest.approx(when, abs=5e-5 + seen.error)
    first, next_order = broken.time(start, level), broken.correction(start, level)
    assert first == pytest.approx(float(escape_time(broken.rates[0], start, level)), rel=1e-14)
    # the order after it is smaller by another level²
    assert abs(seen.t - first - next_order) < 1e-3 * next_order + seen.error
    assert next_order == pytest.approx(0.0110, abs=5e-5)


def test_decay_moves_the_state_and_lowers_the_rates():
    decay = 1e-3
    off = symmetry.breaking(rest(decay), loss, swapped, decay=decay)
    run = gflow.simulate(
        off.displaced(1e-5), loss, t1=100.0, rtol=1e-10, decay=decay,
        observables={"distance": off.distance},
    )  # fmt: skip
    grown = run.observables["distance"][-1] / run.observables["distance"][0]
    assert np.log(grown) / 100.0 == pytest.approx(off.rates[0], rel=1e-5)


@pytest.mark.parametrize("decay", [0.0, 0.1, 0.5])
def test_factors_at_zero_are_left_at_the_norm_of_the_force_less_decay(decay):
    model = {"a": jnp.zeros(2), "b": jnp.zeros((2, 2))}
    off = symmetry.breaking(model, loss, swapped, decay=decay)
    force = np.linalg.norm(Y @ X) / 4.0
    np.testing.assert_allclose(off.rates, [force - decay, -decay, -force - decay], atol=1e-14)


def test_a_tie_has_no_next_order_and_symmetries_combine():
    three = rest(heads=3)
    turned = [lambda m, k=k: jax.tree.map(lambda x: jnp.roll(x, k, axis=0), m) for k in (1, 2)]
    both = symmetry.breaking(three, loss, turned[0], swapped)
    assert both.rates.shape == (6,)
    assert both.rates[0] == pytest.approx(both.rates[1], rel=1e-8)
    assert np.isnan(both.bend)
    one = symmetry.breaking(three, loss, turned[1])
    np.testing.assert_allclose(one.rates, both.rates, atol=1e-14)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: symmetry.breaking(rest(), loss), "needs a symmetry"),
        (
            lambda: symmetry.breaking({"a": jnp.ones(2), "b": jnp.ones((2, 2))}, loss, swapped),
            r"not at rest: ‖∇L‖ =",
        ),
        (
            lambda: symmetry.breaking({"a": jnp.arange(2.0), "b": jnp.ones((2, 2))}, loss, swapped),
            "is not symmetric",
        ),
        (
            lambda: symmetry.breaking(rest(), lambda m: loss(m) + m["a"][0], swapped),
            "changes the loss",
        ),
        (
            lambda: symmetry.breaking(rest(), loss, lambda m: jax.tree.map(lambda x: 2 * x, m)),
            "no orthogonal map",
        ),
        (
            lambda: symmetry.breaking(rest(), loss, lambda m: {"a": m["a"], "b": m["b"][:1]}),
            "takes 6 weights to 4",
        ),
        (lambda: symmetry.breaking(rest(), loss, lambda m: m), "nothing to break"),
        (lambda: symmetry.breaking(rest(), loss, swapped, decay=-1.0), "at least 0"),
    ],
)
def test_bad_input_is_a_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_state_that_is_not_left_has_no_time():
    model = {"a": jnp.zeros(2), "b": jnp.zeros((2, 2))}
    off = symmetry.breaking(model, loss, swapped, decay=0.9)
    with pytest.raises(ValueError, match="is not left along any direction"):
        off.time(1e-6, 1e-2)
    with pytest.raises(ValueError, match="0 < start ≤ level"):
        symmetry.breaking(model, loss, swapped).time(1e-2, 1e-6)
