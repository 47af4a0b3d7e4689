"""Flows of losses with kinks: where they cross, slide and rest, against exact solutions."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad, solve_ivp
from scipy.optimize import brentq

import gflow
from gflow.objectives import SquaredLoss


class Corners(eqx.Module):
    """Weights that do not feel each other, each with a kink of its own."""

    a: jax.Array
    c: jax.Array
    d: jax.Array
    e: jax.Array

    @classmethod
    def at_start(cls):
        return cls(jnp.array(1.0), jnp.array(2.0), jnp.array([2.0, 0.5]), jnp.array(3.0))


def corners(m):
    leaky = jnp.where(m.c > 1.0, m.c - 1.0, 0.1 * (m.c - 1.0))
    huber = jnp.where(jnp.abs(m.e) < 1.0, 0.5 * m.e**2, jnp.abs(m.e) - 0.5)
    return jnp.abs(m.a) + leaky + jnp.abs(m.d[0] - m.d[1]) + 0.5 * m.d[0] ** 2 + huber


def exact(t):
    """a slides from t = 1 on, c crosses at 1, d₀ and d₁ meet and go on as one, e crosses at 2.

    d₀' = −1 − d₀ and d₁' = 1 until they meet; then 2z' = −z, since their sum feels −d₀ alone.
    """
    meet = brentq(lambda t: 3.0 * math.exp(-t) - 1.0 - (0.5 + t), 0.0, 2.0, xtol=1e-15)
    z = (0.5 + meet) * np.exp(-0.5 * (t - meet))
    return {
        "a": np.maximum(1.0 - t, 0.0),
        "c": np.where(t < 1.0, 2.0 - t, 1.0 - 0.1 * (t - 1.0)),
        "d": np.where(
            (t < meet)[:, None],
            np.stack([3.0 * np.exp(-t) - 1.0, 0.5 + t], axis=1),
            np.stack([z, z], axis=1),
        ),
        "e": np.where(t < 2.0, 3.0 - t, np.exp(-(np.maximum(t, 2.0) - 2.0))),
    }


@pytest.fixture(scope="module")
def corner_run():
    return gflow.simulate(Corners.at_start(), corners, t1=3.0)


def test_kinks_are_crossed_or_slid_along_at_the_exact_times(corner_run):
    assert corner_run.successful
    assert corner_run.statistics["kinks_met"] == 3  # a and c together
    for name, right in exact(corner_run.t).items():
        miss = np.abs(corner_run.observables[name] - right)
        assert np.max(miss) < 3e-8, name
        assert np.all(miss <= corner_run.error[name] + 1e-13), name
    assert np.all(corner_run.observables["a"][corner_run.t > 1.0] == 0.0)


def test_few_steps_are_taken(corner_run):
    assert corner_run.statistics["accepted"] + corner_run.statistics["rejected"] < 60


@pytest.mark.slow
@pytest.mark.parametrize("rtol", [1e-9, 3e-9, 1e-8, 3e-8, 1e-7])
def test_kinks_rounded_off_stay_within_their_bars(rtol):
    run = gflow.simulate(Corners.at_start(), corners, t1=3.0, kinks="smooth", rtol=rtol)
    assert run.successful
    assert "rounded off" in run.method
    for name, right in exact(run.t).items():
        miss = np.abs(run.observables[name] - right)
        assert np.all(miss <= run.error[name] + 1e-10), name
        assert np.max(miss) < 1e-4, name


@pytest.mark.slow
def test_the_flow_of_the_lasso_ends_at_its_minimum():
    linear_model = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(1)
    inputs = rng.normal(size=(40, 4))
    targets = inputs @ np.array([1.0, 0.0, -0.7, 0.05]) + 0.1 * rng.normal(size=40)
    lasso = linear_model.Lasso(0.1, fit_intercept=False, tol=1e-14, max_iter=100_000)
    right = lasso.fit(inputs, targets).coef_
    assert np.sum(right == 0.0) == 2

    def loss(w):
        return 0.5 * jnp.mean((inputs @ w - targets) ** 2) + 0.1 * jnp.sum(jnp.abs(w))

    start = jnp.array([-0.5, 0.4, 0.3, -0.6])
    run = gflow.simulate(start, loss, t1=60.0, error_bars=False)
    (name,) = run.leaves
    np.testing.assert_allclose(run.observables[name][-1], right, atol=1e-8)
    assert np.array_equal(run.observables[name][-1] == 0.0, right == 0.0)


@pytest.mark.slow
def test_a_network_of_relu_units_against_an_integrator_of_the_branches():
    # SciPy on the branches as NumPy takes them, from kink to kink by its own event location
    rng = np.random.default_rng(2)
    inputs, targets = rng.normal(size=(6, 2)), rng.normal(size=6)
    hidden, outer = rng.normal(size=(3, 2)), rng.normal(size=3)

    def loss(m):
        return 0.5 * jnp.mean((jax.nn.relu(inputs @ m["hidden"].T) @ m["outer"] - targets) ** 2)

    model = {"hidden": jnp.asarray(hidden), "outer": jnp.asarray(outer)}
    run = gflow.simulate(model, loss, t1=3.0)
    assert run.successful
    assert run.statistics["kinks_met"] == 4
    assert run.statistics["kinks_slid_on"] == 0

    state, now, end = np.concatenate([hidden.ravel(), outer]), 0.0, 3.0
    mask = inputs @ hidden.T > 0

    def velocity(t, state, mask):
        w, v = state[:6].reshape(3, 2), state[6:]
        z = np.where(mask, inputs @ w.T, 0.0)
        r = (z @ v - targets) / 6
        return -np.concatenate([((r[:, None] * v * mask).T @ inputs).ravel(), z.T @ r])

    def height(t, state, mask):
        h = inputs @ state[:6].reshape(3, 2).T
        return float(np.min(np.where(mask, h, -h))) + 1e-14

    height.terminal, height.direction = True, -1
    while now < end:
        piece = solve_ivp(
            velocity, (now, end), state, "DOP853", events=height, args=(mask,), rtol=1e-12,
            atol=1e-13,
        )  # fmt: skip
        state, now = piece.y[:, -1], piece.t[-1]
        if piece.status == 1:
            h = inputs @ state[:6].reshape(3, 2).T
            i = np.unravel_index(np.argmin(np.abs(h)), h.shape)
            mask = mask.copy()
            mask[i] = ~mask[i]
    final = np.concatenate([run.observables["hidden"][-1].ravel(), run.observables["outer"][-1]])
    bars = np.concatenate([run.error["hidden"][-1].ravel(), run.error["outer"][-1]])
    assert np.max(np.abs(final - state)) < 1e-7
    assert np.all(np.abs(final - state) <= bars + 1e-10)


def test_a_small_weight_crosses_a_kink_at_zero_on_its_way():
    # x = ½ log(s/d) moves by g = 1 − θ ∓ 0.1 with θ = (c/2) sinh 2x, c = |sd| conserved: a
    # quadrature gives the time to any x, the force jumping at x = 0
    log_s, log_d = -20.0, -19.0
    product = math.exp(log_s + log_d)

    def theta(x):
        return 0.5 * product * math.sinh(2.0 * x)

    def passage(x):
        return 1.0 / (1.0 - theta(x) - math.copysign(0.1, x))

    top = 0.5 * math.asinh(2.0 * 0.45 / product)  # θ = 0.45, half of the minimum at 0.9
    time = sum(
        quad(passage, a, b, epsabs=1e-13, epsrel=1e-13, limit=200)[0]
        for a, b in ((0.5 * (log_s - log_d), 0.0), (0.0, 18.0), (18.0, top))
    )
    model = gflow.Hadamard.from_scales(
        log_s=np.array([log_s]), log_d=np.array([log_d]), sign_s=np.ones(1), sign_d=np.ones(1)
    )

    def loss(m):
        return jnp.sum(0.5 * (m.value - 1.0) ** 2 + 0.1 * jnp.abs(m.value))

    run = gflow.simulate(model, loss, t1=time, error_bars=False)
    (name,) = run.leaves
    np.testing.assert_allclose(run.observables[name][-1], [0.45], rtol=1e-7)


def test_a_start_that_a_concave_kink_makes_ambiguous_is_refused():
    with pytest.raises(ValueError, match="not unique"):
        gflow.simulate(jnp.zeros(1), lambda w: jnp.sum(0.5 * w**2 - jnp.abs(w)), t1=1.0)


def test_a_loss_that_jumps_is_refused():
    with pytest.raises(ValueError, match=r"jumps \(floor"):
        gflow.simulate(jnp.ones(1), lambda w: jnp.sum(jnp.floor(w) + w**2), t1=1.0)


def test_signs_that_float64_has_lost_are_refused():
    inputs = np.random.default_rng(0).normal(size=(10, 2))
    model = gflow.Hadamard.small(2, log_alpha=-380.0, key=jax.random.key(0))

    def loss(m):
        return 0.5 * jnp.mean((jax.nn.leaky_relu(inputs @ m.value, 0.1) - 1.0) ** 2)

    with pytest.raises(ValueError, match=r"kink at zero weights .* 10\^-165"):
        gflow.simulate(model, loss, t1=1.0)
    linear = SquaredLoss(inputs, np.ones(10))
    assert gflow.simulate(
        gflow.models.DiagonalLinear(model), linear, t1=1.0, error_bars=False
    ).successful


def test_another_word_for_kinks_is_refused():
    with pytest.raises(ValueError, match="kinks = 'soft'"):
        gflow.simulate(jnp.ones(1), lambda w: jnp.sum(jnp.abs(w)), t1=1.0, kinks="soft")


@pytest.mark.slow
def test_a_batch_feels_kinks_at_zero_of_dormant_weights_beside_larger_ones():
    # |w| at 1e-30 beside |residual| of order one, of which the width once was a share
    rng = np.random.default_rng(3)
    inputs = rng.normal(size=(30, 3))
    targets = inputs @ np.array([1.0, -0.7, 0.05])

    def loss(m):
        residual = inputs @ m["w"].value - targets
        square, linear = 0.5 * residual**2, 5.0 * (jnp.abs(residual) - 2.5)
        huber = jnp.mean(jnp.where(jnp.abs(residual) < 5.0, square, linear))
        return huber + 0.1 * jnp.sum(jnp.abs(m["w"].value))

    def model(key):
        return {"w": gflow.Hadamard.small(3, log_alpha=-70.0, key=key)}

    keys = jax.random.split(jax.random.key(0), 2)
    batch = gflow.simulate_batch(eqx.filter_vmap(model)(keys), loss, t1=150.0)
    for key, member in zip(keys, batch, strict=True):
        located = gflow.simulate(model(key), loss, t1=150.0).stages()
        assert [s.label for s in member.stages()] == [s.label for s in located]
        for one, other in zip(member.stages(), located, strict=True):
            assert abs(one.t - other.t) < 3e-8
