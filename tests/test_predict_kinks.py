"""Kinks of a loss at zero weights: what the limit algorithm cannot follow, it refuses by name."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gflow
from theory.gradual_rank import predict

INPUTS = np.random.default_rng(4).normal(size=(60, 2))
PATCHES = np.random.default_rng(5).normal(size=(60, 4, 2))
TEACHER = np.array([1.0, -0.6])


def small(*names):
    keys = jax.random.split(jax.random.key(0), len(names))
    return {
        name: gflow.Hadamard.small(2, log_alpha=-70.0, key=key)
        for name, key in zip(names, keys, strict=True)
    }


def half_mean(output, target):
    return 0.5 * jnp.mean((output - target) ** 2)


def leaky(m):
    return half_mean(
        jax.nn.leaky_relu(INPUTS @ m["w"].value, 0.1), jax.nn.leaky_relu(INPUTS @ TEACHER, 0.1)
    )


def linear_path_beside_relu(m):
    target = INPUTS @ np.array([0.5, 0.2]) + np.maximum(INPUTS @ TEACHER, 0.0)
    return half_mean(INPUTS @ m["c"].value + jax.nn.relu(INPUTS @ m["w"].value), target)


def max_pooling(m):
    return half_mean(jnp.max(PATCHES @ m["w"].value, 1), np.max(PATCHES @ TEACHER, 1))


@pytest.mark.parametrize(
    ("names", "loss"),
    [(("w",), leaky), (("c", "w"), linear_path_beside_relu), (("w",), max_pooling)],
)
def test_forces_that_depend_on_which_weight_is_larger_are_refused(names, loss):
    with pytest.raises(ValueError, match=r"At the start .* larger .* on w\[\d\] it varies by"):
        predict(small(*names), loss)


def test_a_force_that_depends_on_the_sign_is_named_with_its_two_values():
    # of ½⟨(x·w − y)²⟩ + 0.1 Σ|w| at w = 0: ⟨x y⟩ − 0.1 for w > 0 and ⟨x y⟩ + 0.1 for w < 0
    def loss(m):
        w = m["w"].value
        return half_mean(INPUTS @ w, INPUTS @ TEACHER) + 0.1 * jnp.sum(jnp.abs(w))

    force = INPUTS.T @ (INPUTS @ TEACHER) / 60
    low, high = force[0] - 0.1, force[0] + 0.1
    with pytest.raises(ValueError, match="kink at zero") as error:
        predict(small("w"), loss)
    assert f"w[0] (force {low:+.4g} or {high:+.4g}" in str(error.value)


def test_a_kink_that_appears_at_a_later_saddle_ends_the_path_there():
    # −∂L/∂w = ±c at w = 0: nothing at the start, where c = 0, and a kink once c = 1
    def loss(m):
        c, w = m["c"].value[0], m["w"].value[0]
        return 0.5 * (c - 1.0) ** 2 - 0.1 * c * jnp.abs(w) + 0.05 * w**2

    model = {name: gflow.Hadamard.small(1, log_alpha=-70.0, key=jax.random.key(0)) for name in "cw"}
    with pytest.warns(UserWarning, match="At stage 2"):
        prediction = predict(model, loss)
    assert [stage.label for stage in prediction.stages] == ["+c[0]"]
    assert "kink at zero of w[0] (force -0.1 or +0.1" in prediction.ended


def test_kinks_away_from_zero_change_nothing():
    # |residual| < 1000 throughout, where Huber's loss is the square
    def square(m):
        return half_mean(INPUTS @ m["w"].value, INPUTS @ TEACHER)

    def huber(m):
        residual = INPUTS @ m["w"].value - INPUTS @ TEACHER
        return jnp.mean(optax.huber_loss(residual, delta=1000.0))

    one, other = predict(small("w"), square), predict(small("w"), huber)
    assert [s.label for s in one.stages] == [s.label for s in other.stages]
    np.testing.assert_allclose([s.tau for s in one.stages], [s.tau for s in other.stages], 1e-12)
    np.testing.assert_allclose(
        [s.offset for s in one.stages], [s.offset for s in other.stages], rtol=1e-8
    )
