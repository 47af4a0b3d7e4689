"""How weights are parameterised: values, logarithms, factors, and what optimisers see."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import optax
import pytest

import gflow
from gflow.models import DiagonalLinear
from gflow.parameters._base import Constant
from gflow.parameters._hadamard import HadamardFactors, log_abs_product

LOG_ALPHAS = [-2.0, -50.0, -700.0, -1e4, -1e6, -1e7]
KEY = jax.random.key(0)


def pairs(log_scale, n=200):
    """u and v of all relative sizes and signs around e^log_scale."""
    rng = np.random.default_rng(0)
    sign = rng.choice([-1.0, 1.0], (2, n))
    u, v = sign * np.exp(log_scale + rng.uniform(-3, 3, (2, n)))
    return jnp.array(u), jnp.array(v)


# --- Hadamard: u and v in, logarithms inside ------------------------------------------


@pytest.mark.parametrize("log_alpha", [None, -1.0, -90.0])
@pytest.mark.parametrize("log_scale", [0.0, -50.0, -90.0])
def test_hadamard_is_the_product_and_gives_its_factors_back(log_scale, log_alpha):
    u, v = pairs(log_scale)
    weight = gflow.Hadamard(u, v, log_alpha=log_alpha)
    # Errors are relative to max(|s|, |d|)², because u and v are (s ± d)/2, and log|s|
    # of size 90 has a rounding of 1e-14.
    size = np.maximum(np.abs(u), np.abs(v))
    np.testing.assert_array_less(np.abs(weight.value - u * v), 1e-13 * size**2)
    factors = gflow.to_factors(weight)
    assert isinstance(factors, HadamardFactors)
    np.testing.assert_array_less(np.abs(factors.u - u), 1e-13 * size)
    np.testing.assert_array_less(np.abs(factors.v - v), 1e-13 * size)
    np.testing.assert_allclose(weight.conserved(), (u + v) * (u - v), rtol=1e-12)
    np.testing.assert_allclose(factors.conserved(), (u + v) * (u - v), rtol=1e-12)
    assert weight.shape == u.shape


@pytest.mark.parametrize("log_alpha", LOG_ALPHAS)
def test_logarithms_hold_where_floats_end(log_alpha):
    weight = gflow.Hadamard.small(50, log_alpha=log_alpha, key=KEY)
    logs = (weight.log_s, weight.log_d, weight.log_abs(), weight.log_conserved())
    with mp.workdps(40):
        for log_s, log_d, log_theta, log_c in np.transpose(logs).tolist():
            s, d = mp.exp(mp.mpf(log_s)), mp.exp(mp.mpf(log_d))
            exact, gap = float(mp.log(abs(s**2 - d**2) / 4)), float(abs(1 - (s / d) ** 2))
            assert log_theta == pytest.approx(exact, rel=1e-15, abs=1e-14 / gap)
            assert log_c == pytest.approx(log_s + log_d, rel=1e-15)
    expected = np.sign(weight.log_s - weight.log_d) * np.exp(weight.log_abs())
    np.testing.assert_allclose(weight.value, expected, rtol=1e-9)
    assert np.all(np.isfinite(weight.log_abs()))


def test_log_of_a_difference_keeps_its_digits():
    # s² − d² = s²(1 − e^{−2ε}) with ε = 1e-12: naively one digit in four survives.
    assert float(log_abs_product(jnp.array(1e-12), jnp.array(0.0))) == pytest.approx(
        math.log(2e-12 / 4) + 1e-12, rel=1e-15
    )
    assert float(log_abs_product(jnp.array(0.0), jnp.array(0.0))) == -math.inf


# --- Hadamard.small and rescale -------------------------------------------------------


def test_small_draws_factors_between_half_and_two_that_do_not_depend_on_alpha():
    reference = gflow.Hadamard.small((3, 500), log_alpha=-1.0, key=KEY)
    for factor in (reference.log_factor_s, reference.log_factor_d):
        assert np.all(np.abs(factor) <= math.log(2))
        # log-uniform: half of them are between 1/√2 and √2
        assert np.mean(np.abs(factor) < math.log(2) / 2) == pytest.approx(0.5, abs=0.05)
        assert np.mean(factor) == pytest.approx(0.0, abs=0.05)
    for sign in (reference.sign_s, reference.sign_d):
        assert sign.dtype == jnp.int8
        assert set(np.unique(sign)) == {-1, 1}
        assert np.mean(sign) == pytest.approx(0.0, abs=0.1)
    columns = [
        reference.log_factor_s, reference.log_factor_d, reference.sign_s, reference.sign_d,
    ]  # fmt: skip
    correlation = np.corrcoef([np.ravel(x) for x in columns])
    assert np.max(np.abs(correlation - np.eye(4))) < 0.1

    for log_alpha in LOG_ALPHAS:
        other = gflow.Hadamard.small((3, 500), log_alpha=log_alpha, key=KEY)
        for name in ("log_factor_s", "log_factor_d", "sign_s", "sign_d"):
            np.testing.assert_array_equal(getattr(other, name), getattr(reference, name))
        assert float(other.log_alpha) == log_alpha
        rescaled = gflow.rescale(reference, log_alpha)
        assert eqx.tree_equal(rescaled, other)


def test_small_takes_a_single_dimension_and_another_key_gives_others():
    weight = gflow.Hadamard.small(7, log_alpha=-3.0, key=KEY)
    assert weight.shape == (7,)
    other = gflow.Hadamard.small(7, log_alpha=-3.0, key=jax.random.key(1))
    assert np.all(weight.log_factor_s != other.log_factor_s)


def test_rescale_changes_the_hadamard_leaves_alone_and_starts_time_anew():
    model = {
        "a": gflow.Hadamard(jnp.array([2e-3]), jnp.array([-1e-3]), log_alpha=math.log(1e-3)),
        "b": gflow.Scaled(jnp.ones(2), -5.0),
        "c": jnp.arange(3.0),
    }
    other = gflow.rescale(model, math.log(1e-5))
    np.testing.assert_allclose(other["a"].value, [-2e-10], rtol=1e-13)
    assert other["b"] is model["b"]
    assert other["c"] is model["c"]
    record = {"log_s": np.array([-3.0]), "log_d": np.array([-9.0])}
    moved = model["a"].at_record(record, 12.5)
    assert float(moved.elapsed) == 12.5
    assert float(gflow.rescale(moved, -8.0).elapsed) == 0.0


def test_rescaling_follows_the_exponents():
    weight = gflow.Hadamard.from_scales(
        log_s=jnp.array([0.1, -5.0]), log_d=jnp.array([-9.0, 0.2]), log_alpha=-5.0,
        exponent_s=jnp.array([0.0, 2.0]), exponent_d=jnp.array([2.0, 0.0]),
    )  # fmt: skip
    np.testing.assert_allclose(weight.log_s, [0.1, -5.0], rtol=1e-15)
    np.testing.assert_allclose(weight.log_d, [-9.0, 0.2], rtol=1e-15)
    np.testing.assert_allclose(weight.log_factor_s, [0.1, 5.0], rtol=1e-15)
    np.testing.assert_allclose(weight.log_factor_d, [1.0, 0.2], rtol=1e-15)
    other = weight.rescaled(-100.0)
    np.testing.assert_allclose(other.log_s, [0.1, -195.0], rtol=1e-15)
    np.testing.assert_allclose(other.log_d, [-199.0, 0.2], rtol=1e-15)
    np.testing.assert_array_equal(other.exponent_s, [0.0, 2.0])


def test_from_scales_broadcasts_and_takes_signs():
    weight = gflow.Hadamard.from_scales(
        log_s=jnp.array([-1.0, -2.0, -3.0]), log_d=-4.0, sign_d=jnp.array([1, -1, 1])
    )
    s, d = np.exp([-1.0, -2.0, -3.0]), np.array([1, -1, 1]) * math.exp(-4.0)
    np.testing.assert_allclose(weight.value, (s**2 - d**2) / 4, rtol=1e-14)
    np.testing.assert_allclose(weight.conserved(), s * d, rtol=1e-14)
    factors = gflow.to_factors(weight)
    np.testing.assert_allclose(factors.u, (s + d) / 2, rtol=1e-14)
    assert math.isnan(float(weight.log_alpha))


def test_equal_sizes_can_be_built():
    weight = gflow.Hadamard(jnp.array([1.0, 1.0, 2.0]), jnp.array([1.0, -1.0, 1.0]))
    np.testing.assert_array_equal(np.isneginf(weight.log_d), [True, False, False])
    np.testing.assert_array_equal(np.isneginf(weight.log_s), [False, True, False])
    np.testing.assert_array_equal(weight.sign_d, [0, 1, 1])
    np.testing.assert_allclose(weight.value, [1.0, -1.0, 2.0], rtol=1e-15)
    np.testing.assert_allclose(gflow.to_factors(weight).v, [1.0, -1.0, 1.0], rtol=1e-15)


# --- moved: a model from a trajectory -------------------------------------------------


def test_moved_gives_active_weights_the_exponents_zero_and_two():
    alpha = -100.0
    weight = gflow.Hadamard.from_scales(
        log_s=jnp.full(3, alpha), log_d=jnp.full(3, alpha + 0.5), log_alpha=alpha
    )
    y = np.array([100.0, -100.0, 30.0])  # active, active negative, dormant
    record = {"log_s": alpha + y, "log_d": alpha + 0.5 - y}
    moved = weight.at_record(record, 7.0)
    np.testing.assert_allclose(moved.log_s, record["log_s"], rtol=0, atol=1e-13)
    np.testing.assert_allclose(moved.log_d, record["log_d"], rtol=0, atol=1e-13)
    np.testing.assert_allclose(moved.exponent_s, [0.0, 2.0, 0.7], rtol=1e-14)
    np.testing.assert_allclose(moved.exponent_d, [2.0, 0.0, 1.3], rtol=1e-14)
    np.testing.assert_allclose(moved.log_factor_s, [0.0, 0.0, 0.0], atol=1e-13)
    np.testing.assert_allclose(moved.log_factor_d, [0.5, 0.5, 0.5], atol=1e-13)


# --- outside optimisers ---------------------------------------------------------------


class Everything(eqx.Module):
    hadamard: gflow.Hadamard
    scaled: gflow.Scaled
    frozen: gflow.Frozen
    plain: jax.Array

    def __call__(self, x):
        return jnp.dot(x, self.hadamard.value + self.frozen.value * self.plain) + jnp.dot(
            x, self.scaled.value
        )


def everything():
    return Everything(
        gflow.Hadamard.small(3, log_alpha=-3.0, key=KEY),
        gflow.Scaled(jnp.array([1.0, -2.0, 3.0]), log_scale=-4.0),
        gflow.Frozen(jnp.array([0.3, -0.2, 7.0])),
        jnp.array([1.0, 1.0, 0.5]),
    )


@pytest.mark.parametrize("convert", [lambda model: model, gflow.to_factors], ids=["logs", "uv"])
def test_adamw_with_weight_decay_leaves_scales_signs_and_frozen_arrays_alone(convert):
    model = convert(everything())
    optimizer = optax.adamw(0.1, weight_decay=10.0)
    state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_grad
    def gradient(model):
        return model(jnp.ones(3)) ** 2

    trained = model
    with jax.numpy_dtype_promotion("standard"):  # which Optax is written for
        for _ in range(3):
            updates, state = optimizer.update(
                gradient(trained), state, eqx.filter(trained, eqx.is_inexact_array)
            )
            trained = eqx.apply_updates(trained, updates)
    np.testing.assert_array_equal(trained.frozen.value, model.frozen.value)
    np.testing.assert_array_equal(trained.scaled.log_scale, model.scaled.log_scale)
    assert np.all(trained.plain != model.plain)
    assert np.all(trained.scaled.array != model.scaled.array)
    if isinstance(model.hadamard, gflow.Hadamard):
        for name in ("log_alpha", "exponent_s", "exponent_d", "elapsed", "sign_s", "sign_d"):
            np.testing.assert_array_equal(
                getattr(trained.hadamard, name), getattr(model.hadamard, name)
            )
    else:
        assert np.all(trained.hadamard.u != model.hadamard.u)


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-310, math.pi, -math.inf, math.nan])
def test_constant_keeps_every_bit(value):
    assert np.float64(Constant(value).value).tobytes() == np.float64(value).tobytes()


def test_to_factors_gives_the_same_function():
    model = everything()
    x = jnp.array([0.3, -0.2, 0.0])
    np.testing.assert_allclose(gflow.to_factors(model)(x), model(x), rtol=1e-13)


def test_gradient_of_the_value_is_that_of_its_logarithms():
    weight = gflow.Hadamard(jnp.array([0.3, -0.5]), jnp.array([0.2, 0.1]))
    gradient = eqx.filter_grad(lambda w: jnp.sum(w.value))(weight)
    s, d = np.array([0.5, -0.4]), np.array([0.1, -0.6])
    np.testing.assert_allclose(gradient.log_factor_s, s**2 / 2, rtol=1e-13)
    np.testing.assert_allclose(gradient.log_factor_d, -(d**2) / 2, rtol=1e-13)


# --- Scaled and Frozen ----------------------------------------------------------------


def test_scaled_is_an_array_over_its_size():
    weight = gflow.Scaled(jnp.array([1.0, -2.0]), log_scale=-600.0)
    np.testing.assert_allclose(weight.value, math.exp(-600.0) * np.array([1.0, -2.0]), rtol=1e-14)
    assert weight.conserved().shape == (0,)


def test_frozen_is_its_array():
    array = jnp.array([1.0, -0.0, 3e-300])
    frozen = gflow.Frozen(array)
    np.testing.assert_array_equal(frozen.value, array)
    np.testing.assert_array_equal(frozen.conserved(), array)
    assert jax.tree.leaves(eqx.filter(frozen, eqx.is_inexact_array)) == []


# --- batches --------------------------------------------------------------------------


def test_construction_maps_over_keys_and_over_alpha():
    keys, scales = jax.random.split(KEY, 5), jnp.linspace(-1e6, -2.0, 5)
    stacked = eqx.filter_vmap(
        lambda key, log_alpha: gflow.Hadamard.small((2, 3), log_alpha=log_alpha, key=key)
    )(keys, scales)
    for i in range(5):
        alone = gflow.Hadamard.small((2, 3), log_alpha=scales[i], key=keys[i])
        one = jax.tree.map(lambda x, i=i: x[i], stacked)
        assert eqx.tree_equal(one, alone)
    value = eqx.filter_vmap(lambda w: w.value)(stacked)
    assert value.shape == (5, 2, 3)
    assert np.all(value[-1] != 0.0)


def test_construction_from_factors_maps_and_compiles():
    u, v = pairs(-1.0, 6)
    stacked = eqx.filter_jit(eqx.filter_vmap(gflow.Hadamard))(u, v)
    np.testing.assert_allclose(
        eqx.filter_vmap(lambda w: w.value)(stacked), u * v, rtol=0, atol=1e-13 * np.max(u**2 + v**2)
    )


# --- bad input ------------------------------------------------------------------------

ONES = jnp.ones(2)
COMPLEX = jnp.ones(2, complex)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: gflow.Hadamard(ONES, jnp.ones(3)), r"u has shape \(2,\), v has \(3,\)"),
        (lambda: gflow.Hadamard(ONES, jnp.ones((2, 1))), "shape"),
        (lambda: gflow.Hadamard(ONES, jnp.array([1.0, jnp.nan])), "NaN or infinity"),
        (lambda: gflow.Hadamard(ONES, jnp.array([1.0, jnp.inf])), "NaN or infinity"),
        (lambda: gflow.Hadamard(ONES, COMPLEX), "v is complex"),
        (
            lambda: gflow.Hadamard(jnp.array([1.0, 0.0]), jnp.array([1.0, 0.0])),
            r"zero at index \(1,\).*Hadamard.small.*Frozen",
        ),
        (lambda: gflow.Hadamard(ONES, 2 * ONES, log_alpha=math.nan), "log_alpha = nan"),
        (
            lambda: gflow.Hadamard.from_scales(log_s=jnp.array([0.0, jnp.nan]), log_d=0.0),
            "NaN or infinity",
        ),
        (lambda: gflow.Hadamard.from_scales(log_s=0.0, log_d=jnp.inf), "NaN or infinity"),
        (lambda: gflow.Hadamard.from_scales(log_s=-jnp.inf, log_d=-jnp.inf), "zero at index"),
        (lambda: gflow.Hadamard.small(2, log_alpha=-math.inf, key=KEY), "log_alpha = -inf.*1e-100"),
        (lambda: gflow.rescale(gflow.Hadamard(ONES, 2 * ONES), -3.0), "built without log_alpha"),
        (
            lambda: gflow.rescale(gflow.Hadamard.small(2, log_alpha=-3.0, key=KEY), math.nan),
            "log_alpha = nan",
        ),
        (
            lambda: gflow.to_factors(gflow.Hadamard.small(2, log_alpha=-800.0, key=KEY)),
            "below the float range.*gflow.simulate",
        ),
        (lambda: gflow.Scaled(ONES, -800.0), "log_scale=-800.*gflow.Hadamard"),
        (lambda: gflow.Scaled(ONES, 800.0), "log_scale=800"),
        (lambda: gflow.Scaled(ONES, math.nan), "log_scale=nan"),
        (lambda: gflow.Scaled(jnp.array([1.0, jnp.inf]), -1.0), "NaN or infinite"),
        (lambda: gflow.Frozen(COMPLEX), "array is complex"),
    ],
)
def test_bad_input_is_named_with_its_remedy(build, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        build()


def test_integers_become_floats():
    weight = gflow.Hadamard(jnp.array([1, 2]), jnp.array([3, 1]))
    assert weight.value.dtype == jnp.float64
    np.testing.assert_allclose(weight.value, [3.0, 2.0], rtol=1e-14)
    assert DiagonalLinear(weight)(jnp.ones(2)) == pytest.approx(5.0)
