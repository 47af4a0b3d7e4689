"""How runs end: true rest, saddles, minima at infinity, far ends and what held the steps."""

import warnings
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gflow
from gflow.models import DiagonalLinear
from gflow.objectives import SquaredLoss


def run_of(model, objective, **options):
    """A run without bars, and what it warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run = gflow.simulate(model, objective, error_bars=False, **options)
    return run, " ".join(str(w.message) for w in caught)


class Weights(eqx.Module):
    """Weights, and perhaps a bias beside them, which makes long times stiff."""

    a: Any
    b: jax.Array | None = None

    def away(self):
        """½(b − 5)²."""
        return 0.0 if self.b is None else 0.5 * (self.b - 5.0) ** 2


class Cubic(eqx.Module):
    """½(Πa − 1)² + ½(b − 5)²: at a = 0 a saddle of third order, which a = ε leaves at t ≈ 1/ε."""

    def __call__(self, model):
        return 0.5 * (jnp.prod(model.a) - 1.0) ** 2 + model.away()


class Power(eqx.Module):
    """Σ|k a − c|^p/p + ½(b − 5)²."""

    k: jax.Array
    c: jax.Array
    p: int = eqx.field(static=True)

    def __call__(self, model):
        term = jnp.abs(self.k * model.a - self.c) ** self.p / self.p
        return jnp.sum(term) + model.away()


class Double(eqx.Module):
    """¼Σ(a² − 1)² + ½(b − 5)²: a saddle at a = 0."""

    def __call__(self, model):
        return 0.25 * jnp.sum((model.a**2 - 1.0) ** 2) + model.away()


class Exponential(eqx.Module):
    """Σ e^{−a} + ½(b − 5)²: a = log(e^{a₀} + t) for ever."""

    def __call__(self, model):
        return jnp.sum(jnp.exp(-model.a)) + model.away()


def weights(*a, b=None):
    return Weights(jnp.array(a), None if b is None else jnp.array(b))


# --- rest -----------------------------------------------------------------------------


def test_a_saddle_of_third_order_beside_a_bias_is_not_rest():
    run, _ = run_of(weights(0.01, 0.01, 0.01, b=0.0), Cubic())
    assert run.successful
    assert run.t[-1] > 100.0  # at a = ε the bias rests at t = 20
    np.testing.assert_allclose(run.observables["a"][-1], 1.0, rtol=0, atol=1e-7)


def test_small_effects_beside_a_large_bias_are_waited_for():
    bias = 1e6
    q = np.linalg.qr(np.random.default_rng(0).normal(size=(50, 3)))[0] * np.sqrt(50)
    x = q - q.mean(0)
    model = Weights(
        gflow.Hadamard.small(3, log_alpha=-230.0, key=jax.random.key(0)), jnp.array(0.0)
    )

    def loss(m, x, y):
        return 0.5 * jnp.mean((x @ m.a.value + m.b - y) ** 2)

    truth = np.array([1.0, 1e-3, 0.0])
    run, _ = run_of(model, eqx.Partial(loss, x=x, y=x @ truth + bias))
    assert run.successful
    # of the data y rounding leaves `bias`·1e-16
    np.testing.assert_allclose(run.observables["a"][-1], truth, rtol=0, atol=1e-14 * bias)


def test_raw_factors_of_any_size_come_to_rest_at_the_minimum():
    x = np.random.default_rng(0).normal(size=(30, 1))
    model = gflow.models.DeepLinear((jnp.full((1, 1), 1e-20), jnp.full((1, 1), 7e-21)))
    run, _ = run_of(model, SquaredLoss(x, 2.0 * x))
    assert run.successful
    assert run.statistics["accepted"] < 3000
    u, v = (run.leaves[name]["array"][-1].item() for name in run.leaves)
    assert u * v == pytest.approx(2.0, abs=1e-8)


def test_a_slow_mode_is_waited_for():
    k = jnp.array([1.0, 0.1, 0.03])
    run, _ = run_of(weights(0.0, 0.0, 0.0), Power(k, k, 2), rtol=1e-6)
    assert run.successful
    # 1 − a = e^{−k²t}: the slowest is last
    assert run.t[-1] > np.log(1e6) / 0.03**2
    np.testing.assert_allclose(run.observables["a"][-1], 1.0, rtol=0, atol=2e-6)


def test_a_power_law_comes_to_rest():
    one, zero = jnp.ones(1), jnp.zeros(1)
    run, _ = run_of(weights(0.3), Power(one, zero, 4))  # a' = −a³
    assert run.successful
    a = run.observables["a"][:, 0]
    np.testing.assert_allclose(a, (0.3**-2 + 2.0 * run.t) ** -0.5, rtol=1e-6, atol=1e-8)
    assert a[-1] < 1e-8


@pytest.mark.parametrize(
    ("loss", "status"),
    [
        (lambda a: 0.5 * (jnp.prod(a) - 1.0) ** 2, "stopped at a saddle"),
        (lambda a: 0.5 * jnp.sum(a**2) + 0.3 * jnp.prod(a), "converged"),
        (lambda a: 0.25 * jnp.sum(a**4), "converged"),
    ],
)
def test_weights_that_are_exactly_zero_rest_where_they_would_come_back(loss, status):
    """Three factors at zero feel neither force nor curvature."""
    model = {"a": jnp.zeros(3), "b": jnp.asarray(0.0)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = gflow.simulate(
            model, lambda m: loss(m["a"]) + 0.5 * (m["b"] - 2.0) ** 2, error_bars=False
        )
    assert run.status.startswith(status)


def test_what_stays_on_a_saddle_says_so():
    run, message = run_of(weights(0.0, 0.5, b=0.0), Double())
    assert not run.successful
    assert run.status.startswith("stopped at a saddle")
    assert run.status in message
    np.testing.assert_allclose(run.observables["a"][-1], [0.0, 1.0], rtol=0, atol=1e-7)


def test_a_minimum_at_infinity_is_named():
    run, message = run_of(weights(0.0, 1.0), Exponential())
    assert not run.successful
    assert "minimum at infinity" in run.status
    assert "minimum at infinity" in message
    exact = np.log(np.exp([0.0, 1.0]) + run.t[:, None])
    np.testing.assert_allclose(run.observables["a"], exact, rtol=1e-6, atol=1e-7)


# --- far ends -------------------------------------------------------------------------


@pytest.mark.parametrize("epsilon", [1e-8, 1e-31, 1e-40])
def test_three_small_factors_at_any_size(epsilon):
    # a' = a²(1 − a³): 1/a + O(1) = 1/ε − t
    run, _ = run_of(weights(epsilon, epsilon, epsilon), Cubic(), t1=2.0 / epsilon)
    assert run.successful
    assert run.t[-1] == 2.0 / epsilon
    assert run.loss[-1] < 1e-14
    assert np.all(np.diff(run.t) > 0)
    early = run.t < 0.99 / epsilon
    assert early.sum() > 5
    exact = 1.0 / (1.0 / epsilon - run.t[early])
    np.testing.assert_allclose(run.observables["a"][early, 0], exact, rtol=1e-6)
    # between the time it came to rest and the end as well
    np.testing.assert_allclose(run.model(t=1.9 / epsilon).a, 1.0, rtol=0, atol=1e-7)


# --- what held the steps --------------------------------------------------------------


def test_max_steps_names_stiffness():
    k = jnp.array([1.0, 3e-5, 1e-2])
    options = dict(solver=diffrax.Tsit5(), max_steps=600, t1=1e10)
    run, message = run_of(weights(0.0, 0.0, 0.0), Power(k, k, 2), **options)
    assert not run.successful
    assert "stability holds the steps" in run.cause
    assert "solver=None takes" in run.cause
    assert run.status in message


class Hidden(eqx.Module):
    """Σ|a − 1| + ½(b − 5)², with a kink that no one finds in the program."""

    def __call__(self, model):
        away = model.a - 1.0
        return jnp.sum(jnp.sort(jnp.stack([away, -away]), axis=0)[1]) + model.away()


def test_max_steps_names_a_kink():
    # |a − 1| brings a to 1 at t = ½, and keeps it there
    run, _ = run_of(weights(0.0, 0.5), Hidden(), max_steps=600, t1=5.0)
    assert not run.successful
    assert "slides along a kink" in run.cause
    assert run.t[-1] >= 0.49


def test_log_sizes_beyond_the_tolerance_are_refused():
    model = DiagonalLinear(gflow.Hadamard.small(3, log_alpha=-1e12, key=jax.random.key(0)))
    with pytest.raises(ValueError, match=r"log-sizes of 1e\+12.*larger rtol or a larger α"):
        gflow.simulate(model, SquaredLoss(np.eye(3), np.ones(3), "half_sum"), t1=1.0)


def test_max_steps_names_accuracy():
    model = DiagonalLinear(gflow.Hadamard.small(3, log_alpha=-9.0, key=jax.random.key(0)))
    objective = SquaredLoss(np.eye(3), np.array([1.0, -0.5, 0.2]), "half_sum")
    run, _ = run_of(model, objective, t1=100.0, rtol=1e-10, max_steps=20)
    assert "accuracy holds the steps" in run.cause
