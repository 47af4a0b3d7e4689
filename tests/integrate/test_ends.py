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
    a: Any
    b: jax.Array


class Landscape(eqx.Module):
    """Losses of three weights and a bias, each with a share in one sum: one program for all.

    `product`·½(Πa − 1)², of which a = 0 is a saddle of third order, left by a = ε at t ≈ 1/ε;
    `square`·½Σ(ka − c)² and `quartic`·¼Σ(ka − c)⁴; `double`·¼Σ(a² − 1)², a saddle at a = 0;
    `falling`·Σe^{−a}, whose flow is a = log(e^{a₀} + t) for ever; `tilt`·Πa; and
    `away`·½(b − 5)², which makes long times stiff.
    """

    product: Any = 0.0
    square: Any = 0.0
    quartic: Any = 0.0
    double: Any = 0.0
    falling: Any = 0.0
    tilt: Any = 0.0
    away: Any = 0.0
    k: Any = (1.0, 1.0, 1.0)
    c: Any = (0.0, 0.0, 0.0)

    def __call__(self, model):
        a, rest = model.a, self.k * model.a - self.c
        return (
            self.product * 0.5 * (jnp.prod(a) - 1.0) ** 2
            + self.square * 0.5 * jnp.sum(rest**2)
            + self.quartic * 0.25 * jnp.sum(rest**4)
            + self.double * 0.25 * jnp.sum((a**2 - 1.0) ** 2)
            + self.falling * jnp.sum(jnp.exp(-a))
            + self.tilt * jnp.prod(a)
            + self.away * 0.5 * (model.b - 5.0) ** 2
        )


def landscape(**parts):
    return jax.tree.map(jnp.asarray, Landscape(**parts), is_leaf=lambda x: isinstance(x, tuple))


def weights(*a, b=0.0):
    return Weights(jnp.array(a), jnp.array(b))


# --- rest -----------------------------------------------------------------------------


def test_a_saddle_of_third_order_beside_a_bias_is_not_rest():
    run, _ = run_of(weights(0.01, 0.01, 0.01), landscape(product=1.0, away=1.0))
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
    k = (1.0, 0.1, 0.03)
    run, _ = run_of(weights(0.0, 0.0, 0.0), landscape(square=1.0, k=k, c=k), rtol=1e-6)
    assert run.successful
    # 1 − a = e^{−k²t}: the slowest is last
    assert run.t[-1] > np.log(1e6) / 0.03**2
    np.testing.assert_allclose(run.observables["a"][-1], 1.0, rtol=0, atol=2e-6)


def test_a_power_law_comes_to_rest():
    start = np.array([0.3, 0.2, 0.1])
    run, _ = run_of(weights(*start), landscape(quartic=1.0))  # a' = −a³
    assert run.successful
    exact = (start**-2 + 2.0 * run.t[:, None]) ** -0.5
    np.testing.assert_allclose(run.observables["a"], exact, rtol=1e-6, atol=1e-8)
    assert np.all(run.observables["a"][-1] < 1e-8)


@pytest.mark.parametrize(
    ("loss", "status"),
    [
        (landscape(product=1.0, away=1.0), "stopped at a saddle"),
        (landscape(square=1.0, tilt=0.3, away=1.0), "converged"),
        (landscape(quartic=1.0, away=1.0), "converged"),
    ],
)
def test_weights_that_are_exactly_zero_rest_where_they_would_come_back(loss, status):
    """Three factors at zero feel neither force nor curvature."""
    run, _ = run_of(weights(0.0, 0.0, 0.0), loss)
    assert run.status.startswith(status)


def test_what_stays_on_a_saddle_says_so():
    run, message = run_of(weights(0.0, 0.5, 1.0), landscape(double=1.0, away=1.0))
    assert not run.successful
    assert run.status.startswith("stopped at a saddle")
    assert run.status in message
    np.testing.assert_allclose(run.observables["a"][-1], [0.0, 1.0, 1.0], rtol=0, atol=1e-7)


def test_a_minimum_at_infinity_is_named():
    run, message = run_of(weights(0.0, 1.0, 2.0), landscape(falling=1.0))
    assert run.successful
    assert "minimum is at infinity" in run.status
    assert not message
    exact = np.log(np.exp([0.0, 1.0, 2.0]) + run.t[:, None])
    np.testing.assert_allclose(run.observables["a"], exact, rtol=1e-6, atol=1e-7)


# --- far ends -------------------------------------------------------------------------


@pytest.mark.parametrize("epsilon", [1e-8, 1e-31, 1e-40])
def test_three_small_factors_at_any_size(epsilon):
    # a' = a²(1 − a³): 1/a + O(1) = 1/ε − t
    start = weights(epsilon, epsilon, epsilon)
    run, _ = run_of(start, landscape(product=1.0), t1=2.0 / epsilon)
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
    k = (1.0, 3e-5, 1e-2)
    options = dict(solver=diffrax.Tsit5(), max_steps=600, t1=1e10)
    run, message = run_of(weights(0.0, 0.0, 0.0), landscape(square=1.0, k=k, c=k), **options)
    assert not run.successful
    assert "stability holds the steps" in run.cause
    assert "solver=None takes" in run.cause
    assert run.status in message


class Hidden(eqx.Module):
    """Σ|a − 1|, with a kink that no one finds in the program."""

    def __call__(self, model):
        away = model.a - 1.0
        return jnp.sum(jnp.sort(jnp.stack([away, -away]), axis=0)[1])


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
