"""Margins against a scan over directions, finite minimisers, and labels that attention decides."""

import jax
import numpy as np
import pytest
from scipy.optimize import minimize

from gflow import tasks
from theory.condensation import key_query_matrix
from theory.condensation._separability import check_not_separable, separability

KEY = jax.random.key(0)


def draw(seed, n, d, shift=0.0):
    rng = np.random.default_rng(seed)
    y = np.where(rng.random(n) < 0.5, -1.0, 1.0)
    x = rng.standard_normal((n, d))
    return x + shift * y[:, None], y


def scanned(x, y, count=400_001):
    """Largest min_i y_i x_i·w over unit w in the plane."""
    phi = np.linspace(0, 2 * np.pi, count)
    z = y[:, None] * x
    lowest = np.full(count, np.inf)
    for row in z:
        lowest = np.minimum(lowest, row[0] * np.cos(phi) + row[1] * np.sin(phi))
    return float(np.max(lowest))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("shift", [0.0, 1.0, 3.0])
def test_margin_in_the_plane_is_the_best_of_all_directions(seed, shift):
    x, y = draw(seed, 8, 2, shift)
    found, best = separability(x, y), scanned(x, y)
    if best > 1e-4:
        # a scan in steps of 2π/count misses by at most the longest x times half a step
        assert abs(found.margin - best) < np.max(np.linalg.norm(x, axis=1)) * np.pi / 400_000
        assert found.separated == found.examples == 8
        assert abs(np.linalg.norm(found.direction) - 1) < 1e-12
        np.testing.assert_allclose(np.min(y * (x @ found.direction)), found.margin, rtol=1e-12)
    elif best < -1e-4:
        assert found.margin == 0.0
        assert found.separated == 0
        assert not np.any(found.direction)
    else:
        pytest.fail("a draw on the boundary tests nothing")


@pytest.mark.parametrize("seed", range(4))
def test_margin_in_many_dimensions_is_that_of_the_quadratic_programme(seed):
    x, y = draw(seed, 30, 6, 2.5)
    z = y[:, None] * x
    # min ‖w‖² with y_i x_i·w ≥ 1, whose optimum is 1/margin²
    found = minimize(
        lambda w: w @ w, np.ones(6), jac=lambda w: 2 * w, method="SLSQP",
        constraints={"type": "ineq", "fun": lambda w: z @ w - 1, "jac": lambda w: z},
        options={"ftol": 1e-14, "maxiter": 500},
    )  # fmt: skip
    np.testing.assert_allclose(separability(x, y).margin, found.fun**-0.5, rtol=1e-6)


def test_no_plateau_means_no_finite_minimiser():
    """(1/n) Σ e^{−y x·u} rests where, and only where, nothing is separated."""
    rested = {}
    for name, shift in (("mixed", 0.0), ("separable", 3.0)):
        x, y = draw(5, 60, 4, shift)
        z = y[:, None] * x
        found = minimize(
            lambda u, z=z: np.mean(np.exp(-z @ u)), np.zeros(4), method="BFGS",
            jac=lambda u, z=z: -np.mean(np.exp(-z @ u)[:, None] * z, axis=0),
        )  # fmt: skip
        rested[name] = separability(x, y).has_plateau
        assert rested[name] == (np.linalg.norm(found.x) < 3 and found.fun > 0.1)
    assert rested == {"mixed": True, "separable": False}


def test_weakly_separable_points_are_counted():
    """(1, 0) and (−1, 0) oppose one another; two more are above the line, none below it."""
    x = np.array([[1.0, 0.0], [-1.0, 0.0], [1.0, 1.0], [0.5, 2.0]])
    found = separability(x, np.ones(4))
    assert (found.margin, found.separated, found.examples) == (0.0, 2, 4)
    np.testing.assert_allclose(found.direction, [0.0, 1.0], atol=1e-12)
    with pytest.warns(UserWarning, match="weakly separable: a direction has 2 of 4"):
        check_not_separable(x, np.ones(4))


def test_a_direction_that_no_example_has_does_not_separate():
    x, y = draw(0, 100, 3)
    assert separability(np.c_[x, np.zeros(100)], y).has_plateau


def test_the_margin_scales_with_the_data_and_is_that_of_the_mean_tokens():
    x, y = draw(1, 12, 3, 3.0)
    spread = np.random.default_rng(0).standard_normal((12, 5, 3))
    tokens = x[:, None] + spread - spread.mean(axis=1, keepdims=True)
    one = separability(x, y)
    np.testing.assert_allclose(separability(tokens, y).margin, one.margin, rtol=1e-10)
    np.testing.assert_allclose(separability(1e-6 * x, y).margin, 1e-6 * one.margin, rtol=1e-10)


def test_separable_data_warn_with_the_remedy():
    x, y = draw(1, 12, 3, 3.0)
    with pytest.warns(UserWarning, match="linearly separable with margin .*attention_labels"):
        check_not_separable(x, y)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.ones((3, 2)), np.ones(4), r"\(n, s, d\), tokens as rows"),
        (np.ones(3), np.ones(3), r"shape \(3,\)"),
        (np.ones((3, 2)), np.array([1.0, -1.0, 0.5]), "contains 0.5"),
        (np.zeros((3, 2)), np.ones(3), "All mean tokens are 0"),
        (np.ones((3, 2), np.float32), np.ones(3), "float64"),
        (np.full((3, 2), np.nan), np.ones(3), "NaN"),
    ],
)
def test_bad_data_are_refused(x, y, message):
    with pytest.raises(ValueError, match=message):
        separability(x, y)


@pytest.mark.parametrize("same", [False, True])
def test_attention_labels_are_the_sign_of_the_teacher(same):
    task = tasks.attention_labels(
        40, 5, 3, key=KEY, sharpness=2.0, pooled=0.0, same_last_token=same
    )
    x, a, r = (np.asarray(z) for z in (task.inputs, task.key_query, task.readout))
    read = []
    for tokens in x:
        weight = np.exp([tokens[-1] @ a @ t for t in tokens])
        read.append((weight @ tokens / weight.sum() - tokens.mean(axis=0)) @ r)
    read = np.array(read)
    expected = (read - np.median(read)) / np.std(read)
    np.testing.assert_allclose(task.scores, expected, atol=1e-12)
    np.testing.assert_array_equal(task.labels, np.where(expected >= 0, 1.0, -1.0))
    assert np.sum(task.labels) == 0
    assert np.all(x[:, -1] == x[0, -1]) == same


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("same", [False, True])
def test_the_mean_token_has_a_force_but_does_not_decide(seed, same):
    task = tasks.attention_labels(256, 6, 8, key=jax.random.key(seed), same_last_token=same)
    assert separability(task.inputs, task.labels).has_plateau
    means = np.mean(task.inputs, axis=1)
    total = np.mean(np.asarray(task.labels)[:, None] * means, axis=0)
    np.testing.assert_allclose(task.strength, np.linalg.norm(total), rtol=1e-12)
    # labels that ignore the tokens would give √(d/(n s)) = 0.07
    assert task.strength > 0.1


@pytest.mark.parametrize("same", [False, True])
def test_the_same_last_token_makes_the_force_on_attention_rank_one(same):
    task = tasks.attention_labels(60, 4, 5, key=KEY, same_last_token=same)
    rng = np.random.default_rng(0)
    weights = (rng.standard_normal(s) for s in ((5, 5), (5, 5), (5,)))
    s = np.linalg.svd(key_query_matrix(task.inputs, task.labels, *weights), compute_uv=False)
    assert (s[1] < 1e-13 * s[0]) == same


def test_the_objective_of_a_silent_model_is_one():
    task = tasks.attention_labels(10, 4, 3, key=KEY)
    assert task.objective(lambda x: 0.0 * x[0, 0]) == 1.0


@pytest.mark.parametrize(
    ("sizes", "settings", "message"),
    [
        ((1, 4, 3), {}, "n = 1"),
        ((4, 1, 3), {}, "s = 1"),
        ((4, 4, 0), {}, "d = 0"),
        ((4, 4, 3), dict(pooled=-1.0), "pooled = -1.0"),
        ((4, 4, 3), dict(sharpness=np.inf), "sharpness = inf"),
        ((4, 4, 3), dict(sharpness=0.0), "attends to all tokens alike"),
    ],
)
def test_teachers_out_of_range_are_refused(sizes, settings, message):
    with pytest.raises(ValueError, match=message):
        tasks.attention_labels(*sizes, key=KEY, **settings)
