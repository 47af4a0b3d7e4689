"""The limit algorithm where weights leave, return or change sign, and under weight decay."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from least_squares import (
    FIXTURE,
    LOG10,
    ORTHOGONAL,
    SADDLES,
    TIMES,
    WEIGHT,
    fixture,
    linear,
    misses,
    objective,
    random_problem,
    taus,
    values,
)
from scipy import optimize

import gflow
from gflow.objectives import SquaredLoss
from theory.gradual_rank import predict

# Deactivation, re-activation, change of sign; thresholds; active starts


def signs(prediction):
    return np.sign(values(prediction)).astype(int).tolist()


def test_a_weight_returns_and_another_changes_sign():
    problem = random_problem(2389)
    pred = predict(linear(-10.0), objective(problem))
    assert signs(pred) == [
        [0, 0, 1, 0],
        [0, -1, 1, 0],
        [0, 0, 0, -1],  # 1 and 2 switch off at once,
        [-1, 0, 0, -1],
        [-1, 0, -1, -1],  # 2 returns with the other sign,
        [-1, -1, -1, -1],  # 1 with its own
    ]
    assert pred.stages[2].deactivated == [(WEIGHT, (1,)), (WEIGHT, (2,))]
    exact = np.linalg.solve(*problem)
    np.testing.assert_allclose(pred.stages[-1].value[WEIGHT], exact, rtol=1e-10)
    np.testing.assert_allclose(misses(pred, linear, objective(problem), [64, 128]), 0, atol=1e-6)


@pytest.mark.parametrize("seed", [1, 3, 5])
def test_unequal_exponents_are_thresholds(seed):
    rng = np.random.default_rng(100 + seed)
    exponents, factors = rng.uniform(0.4, 2.0, (2, 4)), rng.uniform(0.5, 2.0, (2, 4))
    problem = random_problem(seed)
    loss = objective(problem)
    pred = predict(linear(-10.0, factors, exponents), loss)
    g = problem[0].T @ problem[1]
    first = np.where(g > 0, exponents[0], exponents[1]) / np.abs(g)
    assert pred.stages[0].tau == pytest.approx(first.min(), rel=1e-12)
    make = functools.partial(linear, factors=factors, exponents=exponents)
    np.testing.assert_allclose(misses(pred, make, loss, [128]), 0, atol=1e-6)


ACTIVE = (np.array([0.0, 1, 1, 2]), np.array([2.0, 1, 1, 0]))  # weight 0 positive, 3 negative


@pytest.mark.parametrize("seed", [3, 7, 8])
def test_a_start_away_from_zero(seed):
    problem = random_problem(seed)
    loss = objective(problem)
    pred = predict(linear(-10.0, exponents=ACTIVE), loss)
    # the start settles into the least-squares fit that keeps its signs, at τ = 0
    X, y = problem
    free = np.array([0, 3])
    sign = np.array([1, -1])
    size, _ = optimize.nnls(X[:, free] * sign, y)
    expected = np.zeros(4)
    expected[free] = sign * size
    assert pred.start.tau == 0.0
    np.testing.assert_allclose(pred.start.value[WEIGHT], expected, atol=1e-10)
    make = functools.partial(linear, exponents=ACTIVE)
    np.testing.assert_allclose(misses(pred, make, loss, [128]), 0, atol=1e-6)


@pytest.mark.parametrize(
    ("tau", "passed", "atol"),
    [
        (0.6, 0, 1e-6),
        (2.3, 1, 1e-6),  # weight 2 is α^0.34, on its way up
        (4.7, 2, 1e-4),  # weight 0 is α^0.07, on its way down: 3e-5 at α = 1e-64
        (7.5, 3, 1e-6),
    ],
)
def test_a_run_continued_from_any_plateau_has_the_rest_of_the_path(tau, passed, atol):
    loss, whole, found = objective(FIXTURE), fixture("unequal"), []
    for decades in (64, 128):
        run = gflow.simulate(linear(-decades * LOG10), loss, tau1=tau, error_bars=False)
        rest = predict(run.final, loss)
        assert rest.start.tau == pytest.approx(tau, rel=1e-12)
        saddle = np.zeros(4) if passed == 0 else SADDLES[passed - 1]
        np.testing.assert_allclose(rest.start.value[WEIGHT], saddle, atol=1e-9)
        assert [s.label for s in rest.stages] == [s.label for s in whole.stages[passed:]]
        expected = whole.at(run.log_alpha).t[passed:]
        np.testing.assert_allclose(rest.at(run.log_alpha).t, expected, rtol=0, atol=1e-6)
        found.append(taus(rest))
    # the start has taken in C/Λ, so that T is of order 1/Λ away
    np.testing.assert_allclose(2 * found[1] - found[0], TIMES[passed:], rtol=0, atol=atol)


@pytest.mark.parametrize("tau", [2.3, 6.0])
def test_a_run_with_decay_can_be_continued_too(tau):
    loss, decay = objective(FIXTURE), {WEIGHT: 0.05}
    whole = predict(linear(-10.0), loss, decay=decay)
    run = gflow.simulate(linear(-128 * LOG10), loss, tau1=tau, decay=decay, error_bars=False)
    rest = predict(run.final, loss, decay=decay)
    passed = int(np.searchsorted(taus(whole), tau))
    assert [s.label for s in rest.stages] == [s.label for s in whole.stages[passed:]]
    expected = whole.at(run.log_alpha).t[passed:]
    np.testing.assert_allclose(rest.at(run.log_alpha).t, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("sign", [1, -1])
def test_active_weights_of_the_wrong_sign_vanish_first(sign):
    # each weight starts on the side its force pushes it away from
    X, y = ORTHOGONAL
    y = np.abs(y) * sign
    on, off = (0.0, 2.0) if sign < 0 else (2.0, 0.0)
    problem, exponents = (X, y), (on, off)
    pred = predict(linear(-10.0, exponents=exponents), objective(problem))
    np.testing.assert_array_equal(pred.start.value[WEIGHT], np.zeros(4))
    g = np.abs(X.T @ y)
    np.testing.assert_allclose(taus(pred), np.sort(2 / g), rtol=1e-12)
    make = functools.partial(linear, exponents=exponents)
    np.testing.assert_allclose(misses(pred, make, objective(problem), [128]), 0, atol=1e-6)


# Weight decay against the flow


@pytest.mark.parametrize("decay", [0.02, {WEIGHT: 0.05}], ids=["all", "by leaf"])
def test_decay_through_the_deactivation(decay):
    loss = objective(FIXTURE)
    pred = predict(linear(-10.0), loss, decay=decay)
    rate = decay if isinstance(decay, float) else decay[WEIGHT]
    X, y = FIXTURE
    for stage in pred.stages:
        # at rest: g = λ·sign on the support and |g| below what would have switched first
        theta = stage.value[WEIGHT]
        on = theta != 0
        g = X.T @ (y - X @ theta)
        np.testing.assert_allclose(g[on], rate * np.sign(theta[on]), atol=1e-12)
    assert [s.deactivated for s in pred.stages] == [[], [(WEIGHT, (0,))], []]
    np.testing.assert_allclose(misses(pred, linear, loss, [128], decay), 0, atol=1e-6)


@pytest.mark.parametrize("seed", [2216, 2389])
def test_decay_through_returns_and_changes_of_sign(seed):
    loss = objective(random_problem(seed))
    pred = predict(linear(-10.0), loss, decay=0.05)
    path = np.array(signs(pred))
    assert np.any((path.min(axis=0) < 0) & (path.max(axis=0) > 0))  # a change of sign
    assert sum(len(s.activated) for s in pred.stages) > 4  # a return
    np.testing.assert_allclose(misses(pred, linear, loss, [64, 128], 0.05), 0, atol=1e-6)


def test_decay_can_end_the_path_early():
    pred = predict(linear(-10.0), objective(FIXTURE), decay=0.3)
    # λ = 0.3: alone on its saddle weight 0 leaves forces of at most 0.28 on the others
    assert [s.activated for s in pred.stages] == [[(WEIGHT, (0,))]]
    np.testing.assert_allclose(pred.stages[0].value[WEIGHT], [0.56, 0, 0, 0], atol=1e-12)


class Gated(eqx.Module):
    """x ↦ ⟨x, a⟩(1 + ⟨x, b⟩): what a user writes, with no registration."""

    a: gflow.Parameter
    b: gflow.Parameter

    def __call__(self, x):
        return jnp.dot(x, self.a.value) * (1.0 + jnp.dot(x, self.b.value))


def gated_problem(seed):
    X, y = random_problem(seed)
    return SquaredLoss(jnp.asarray(X[:, :2]), jnp.asarray(y))


def gated(log_alpha):
    a, b = jax.random.split(jax.random.key(1))
    return Gated(
        gflow.Hadamard.small(2, log_alpha=log_alpha, key=a),
        gflow.Hadamard.small(2, log_alpha=log_alpha, key=b),
    )


def gated_gradients(loss, a, b):
    X, y = np.asarray(loss.inputs), np.asarray(loss.targets)
    linear, gate = X @ a, 1.0 + X @ b
    residual = (linear * gate - y) / len(y)
    return X.T @ (residual * gate), X.T @ (residual * linear)


def test_a_users_own_model_with_a_loss_that_is_not_quadratic():
    loss = gated_problem(9)
    pred = predict(gated(-10.0), loss)
    # a gate feels nothing before there is something to open it for
    assert [s.activated[0][0] for s in pred.stages] == ["a", "a", "b", "b"]
    for stage in pred.stages:
        a, b = stage.value["a"], stage.value["b"]
        for theta, gradient in zip((a, b), gated_gradients(loss, a, b), strict=True):
            np.testing.assert_allclose(np.where(theta != 0, gradient, 0), 0, atol=1e-12)
    np.testing.assert_allclose(misses(pred, gated, loss, [64, 128]), 0, atol=1e-6)


@pytest.mark.parametrize("seed", [3, 5, 6])
def test_what_remains_beyond_c_vanishes_with_alpha(seed):
    # near-ties (5: a margin of 0.1) and slow deactivations (5, 6): far from C at 1e-64
    pred = predict(gated(-10.0), gated_problem(seed))
    miss = np.abs(misses(pred, gated, gated_problem(seed), [64, 128]))
    slow = miss[0] > 1e-6
    assert slow.any() == (seed != 3)
    assert np.all(miss[1, slow] < miss[0, slow] / 10)
    assert np.all(miss[1, ~slow] < 1e-6)


def test_decay_of_one_leaf():
    loss, decay = gated_problem(9), {"b": 0.02}
    free, held = predict(gated(-10.0), loss), predict(gated(-10.0), loss, decay=decay)
    # the first two winners are of leaf a, which has no decay
    np.testing.assert_allclose(taus(held)[:2], taus(free)[:2], rtol=1e-10)
    for stage in held.stages:
        a, b = stage.value["a"], stage.value["b"]
        of_a, of_b = gated_gradients(loss, a, b)
        np.testing.assert_allclose(np.where(a != 0, of_a, 0), 0, atol=1e-12)
        np.testing.assert_allclose(np.where(b != 0, of_b + 0.02 * np.sign(b), 0), 0, atol=1e-12)
    assert np.any(held.stages[-1].value["b"] != 0)
