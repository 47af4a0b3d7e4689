"""The saddle path of β = u⊙v on least squares, against four independent characterisations:

the general limit algorithm, the optimality conditions of each sign-constrained fit, the
inverse-scale-space flow of the ℓ1 norm, and the Lasso for its time average.
"""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize
from sklearn.linear_model import lars_path

import gflow
import theory
from theory.saddle_to_saddle import predict, time_average

FIXTURE = np.array([[1, 0.5, 0.7, 0], [0.5, 1, 0.1, 0.7]]), np.array([1.0, 0])
SADDLES = np.array([[4 / 5, 0, 0, 0], [0, 0, 7 / 5, 0], [0, 0, 10 / 7, -10 / 49]])
TIMES = np.array([1.0, 4.0, 4.0 + 80.0 / 49.0])


def random_problem(seed, n, p):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, p)), rng.standard_normal(n)


def taus(prediction):
    return np.array([s.tau for s in prediction.stages])


def paths(prediction):
    """β after each stage, with the start first."""
    return np.array([prediction.start.value, *(s.value for s in prediction.stages)])


# Half of these problems deactivate a weight, the wide ones up to three.
SQUARE = [(seed, 4, 4) for seed in (0, 3, 8, 12, 18, 31, 34, 51)]
WIDE = [(seed, 6, 10) for seed in (4, 14, 20, 35)]
TALL = [(seed, 20, 6) for seed in (1, 104)]
problems = pytest.mark.parametrize(("seed", "n", "p"), SQUARE + WIDE + TALL)


def test_the_problems_deactivate_weights():
    found = [
        sum(bool(s.deactivated) for s in predict(*random_problem(*problem)).stages)
        for problem in SQUARE + WIDE + TALL
    ]
    assert np.sum(np.array(found) > 0) >= 10
    assert max(found) >= 3


def test_fixture():
    pred = predict(*FIXTURE, "half_sum")
    np.testing.assert_allclose(taus(pred), TIMES, rtol=0, atol=1e-12)
    np.testing.assert_allclose(paths(pred)[1:], SADDLES, rtol=0, atol=1e-12)
    assert [s.label for s in pred.stages] == [
        "+weight[0]",
        "+weight[2] −weight[0]",
        "+weight[3]",
    ]
    assert [s.rank for s in pred.stages] == [1, 1, 2]
    margins = [10 / 7 - 1, 25 / 7 - 3, 60 / 13 - 80 / 49]
    np.testing.assert_allclose([s.margin for s in pred.stages], margins, rtol=1e-12)
    assert pred.start.loss == 0.5
    # the times do not say where the orbits go, so there are no offsets and no curves
    assert all(math.isnan(s.offset) for s in pred.stages)
    with pytest.raises(ValueError, match=r"saddles and limit times only.*gradual_rank"):
        pred.at(-10.0).loss(1.0)


@pytest.mark.parametrize(("seed", "n", "p"), [*SQUARE, (20, 6, 10), (35, 6, 10)])
def test_agrees_with_the_general_limit_algorithm(seed, n, p):
    X, y = random_problem(seed, n, p)
    own = predict(X, y, "half_sum")
    model = gflow.models.DiagonalLinear(
        gflow.Hadamard.from_scales(
            log_s=jnp.full(p, -10.0) + 0.3 * jnp.sin(jnp.arange(1.0, p + 1)),
            log_d=jnp.full(p, -10.0),
            log_alpha=-10.0,
        )
    )
    loss = gflow.objectives.SquaredLoss(jnp.asarray(X), jnp.asarray(y), "half_sum")
    general = theory.gradual_rank.predict(model, loss)
    np.testing.assert_allclose(taus(own), taus(general), rtol=1e-9)
    for one, other in zip(own.stages, general.stages, strict=True):
        scale = np.max(np.abs(one.value))
        np.testing.assert_allclose(one.value, other.value["weight"], rtol=0, atol=1e-9 * scale)
        assert one.activated == other.activated
        assert one.deactivated == other.deactivated
        assert one.rank == int(other.rank["weight"])
        assert one.loss == pytest.approx(other.loss, abs=1e-9)
        assert one.margin == pytest.approx(other.margin, rel=1e-6)
        assert one.rate == pytest.approx(other.rate, rel=1e-6)
        assert one.curvature == pytest.approx(other.curvature, rel=1e-6)
        assert one.level[1] == pytest.approx(other.level[1], rel=1e-9)


@problems
def test_each_saddle_is_the_best_fit_with_its_signs(seed, n, p):
    X, y = random_problem(seed, n, p)
    pred = predict(X, y, "half_sum")
    beta = paths(pred)
    for before, after, stage in zip(beta[:-1], beta[1:], pred.stages, strict=True):
        entering = [i for _, (i,) in stage.activated]
        assert len(entering) == 1  # without a return to zero at once, exactly one
        allowed = np.flatnonzero((before != 0) | np.isin(np.arange(p), entering))
        sign = np.sign(np.where(before != 0, before, after))
        g = X.T @ (y - X @ after)
        tiny = 1e-10 * np.max(np.abs(X.T @ y))
        assert np.all(sign[allowed] * after[allowed] >= 0)
        assert np.all(np.abs(g[after != 0]) <= tiny)  # stationary on the support
        gone = allowed[after[allowed] == 0]
        assert np.all(sign[gone] * g[gone] <= tiny)  # and pushed out where it left
        assert stage.loss == pytest.approx(0.5 * np.sum((X @ after - y) ** 2), abs=1e-12)
        assert stage.loss < 0.5 * np.sum((X @ before - y) ** 2)


@problems
def test_the_dual_path_is_a_subgradient_of_the_l1_norm(seed, n, p):
    X, y = random_problem(seed, n, p)
    pred = predict(X, y, "half_sum")
    beta, edges = paths(pred), np.append(0.0, taus(pred))
    q = np.zeros(p)
    for k, start in enumerate(edges):
        end = edges[k + 1] if k + 1 < len(edges) else start + 10.0
        g = X.T @ (y - X @ beta[k])
        for part in (0.0, 0.5, 1.0):  # q is linear in between
            dual = q + part * (end - start) * g
            assert np.max(np.abs(dual)) <= 1 + 1e-8
            on = beta[k] != 0
            np.testing.assert_allclose(dual[on], np.sign(beta[k][on]), rtol=0, atol=1e-8)
        q = q + (end - start) * g


def inverse_scale_space(X, y):
    """Burger, Möller, Benning & Osher 2013: β minimises the loss over {βᵢqᵢ ≥ 0, |qᵢ| = 1}."""
    q, tau, times, saddles = np.zeros(X.shape[1]), 0.0, [], []
    beta = np.zeros(X.shape[1])
    while np.max(np.abs(X.T @ (y - X @ beta))) > 1e-9:
        g = X.T @ (y - X @ beta)
        free = np.flatnonzero(np.abs(g) > 1e-9)
        steps = np.array([(1 - np.sign(g[i]) * q[i]) / abs(g[i]) for i in free])
        step = steps[steps > 1e-9].min()
        tau, q = tau + step, q + step * g
        on = np.abs(np.abs(q) - 1) < 1e-9
        lower, upper = np.where(q[on] > 0, 0, -np.inf), np.where(q[on] > 0, np.inf, 0)
        beta = np.zeros(X.shape[1])
        beta[on] = optimize.lsq_linear(X[:, on], y, (lower, upper), method="bvls", tol=1e-14).x
        times.append(tau)
        saddles.append(beta)
    return np.array(times), np.array(saddles)


@pytest.mark.parametrize(("seed", "n", "p"), [*SQUARE, *TALL, (4, 6, 10)])
def test_it_is_the_inverse_scale_space_path_of_the_l1_norm(seed, n, p):
    X, y = random_problem(seed, n, p)
    pred = predict(X, y, "half_sum")
    times, saddles = inverse_scale_space(X, y)
    np.testing.assert_allclose(taus(pred), times, rtol=1e-8)
    np.testing.assert_allclose(paths(pred)[1:], saddles, rtol=0, atol=1e-7)


def lasso(X, y, lam):
    """argmin ½‖y − Xβ‖² + λ‖β‖₁ for each λ, by LARS (whose α is λ/n)."""
    alphas, _, coefs = lars_path(X, y, method="lasso")
    return np.array([np.interp(np.asarray(lam) / len(y), alphas[::-1], c[::-1]) for c in coefs]).T


@pytest.mark.parametrize("problem", [(104, 20, 6), (13, 6, 10), (18, 4, 4)], ids=str)
def test_time_average_is_the_lasso_until_the_first_deactivation(problem):
    X, y = random_problem(*problem)
    pred = predict(X, y, "half_sum")
    times = taus(pred)
    first = next(k for k, s in enumerate(pred.stages) if s.deactivated)
    # β is piecewise constant: its average is a polygon in 1/τ, as the Lasso path is in λ
    before = np.linspace(0.5 * times[0], times[first], 40)
    np.testing.assert_allclose(
        time_average(pred, before), lasso(X, y, 1 / before), rtol=0, atol=1e-10
    )
    scale = np.max(np.abs(pred.stages[-1].value))
    after = times[first] + np.array([0.1, 0.3, 1.0]) * times[first]
    apart = np.max(np.abs(time_average(pred, after) - lasso(X, y, 1 / after)), axis=1)
    assert np.all(apart > 1e-3 * scale)
    # and β itself is not on the Lasso path, not even before
    middle = 0.5 * (times[0] + times[1])
    off = np.max(np.abs(pred.stages[0].value - lasso(X, y, [1 / middle])[0]))
    assert off > 0.05 * scale


def test_time_average_by_quadrature():
    pred = predict(*FIXTURE, "half_sum")
    for tau in (0.5, 1.0, 2.7, 4.0, 9.0):
        grid = (np.arange(20000) + 0.5) * tau / 20000
        path = paths(pred)[np.searchsorted(taus(pred), grid)]
        np.testing.assert_allclose(time_average(pred, tau), path.mean(axis=0), atol=1e-3)
    assert time_average(pred, np.array([[1.0, 2.0, 3.0]])).shape == (1, 3, 4)
    with pytest.raises(ValueError, match="τ > 0"):
        time_average(pred, np.array([1.0, 0.0]))


@pytest.mark.parametrize(
    ("reduction", "clock"), [("half_sum", 1), ("sum", 1 / 2), ("half_mean", 20), ("mean", 10)]
)
def test_the_reduction_sets_the_clock(reduction, clock):
    X, y = random_problem(104, 20, 6)
    unit, pred = predict(X, y, "half_sum"), predict(X, y, reduction)
    np.testing.assert_allclose(taus(pred), clock * taus(unit), rtol=1e-10)
    np.testing.assert_allclose(paths(pred), paths(unit), rtol=0, atol=1e-12)
    ratios = [a.loss / b.loss for a, b in zip(pred.stages, unit.stages, strict=True)]
    np.testing.assert_allclose(ratios, 1 / clock, rtol=1e-10)
    # as gflow.objectives.SquaredLoss means it
    loss = gflow.objectives.SquaredLoss(jnp.asarray(X), jnp.asarray(y), reduction)
    value = loss(lambda x: jnp.dot(x, jnp.asarray(pred.stages[2].value)))
    assert pred.stages[2].loss == pytest.approx(float(value), rel=1e-12)


def test_default_reduction_is_that_of_the_objective():
    X, y = random_problem(1, 20, 6)
    np.testing.assert_array_equal(taus(predict(X, y)), taus(predict(X, y, "half_mean")))


def test_nothing_to_fit_is_an_empty_path():
    pred = predict(FIXTURE[0], np.zeros(2))
    assert pred.stages == []
    assert pred.ended.startswith("complete")


@pytest.mark.parametrize(
    ("X", "y", "reduction", "words"),
    [
        (np.eye(2), np.ones(2), "half_sum", "accidental tie: features 0 and 1.*Perturb"),
        (np.eye(2), np.ones(3), "half_sum", r"\(n, p\).*\(2, 2\).*\(3,\)"),
        (np.ones(3), np.ones(3), "half_sum", r"\(n, p\).*\(3,\)"),
        (np.eye(2), np.ones((2, 1)), "half_sum", r"y of shape \(n,\).*\(2, 1\)"),
        (np.array([[1.0, np.nan]]), np.ones(1), "half_sum", "NaN"),
        (np.eye(2), np.array([1.0, np.inf]), "half_sum", "infinite"),
        (np.eye(2), np.array([1.0, 0.3]), "median", "'median'.*half_mean"),
    ],
)
def test_bad_input_is_named(X, y, reduction, words):
    with pytest.raises(ValueError, match=words):
        predict(X, y, reduction)
