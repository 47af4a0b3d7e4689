"""Hard-margin separators against known answers, SciPy's SLSQP, the dual, and the conditions."""

import numpy as np
import pytest
from scipy.optimize import minimize

from theory import cross_entropy


def drawn(n, d, classes, seed):
    """Inputs with labels of a linear map, more or less in the middle of their regions."""
    rng = np.random.default_rng(seed)
    x, w = rng.normal(size=(n, d)), rng.normal(size=(classes, d))
    return x, np.argmax(x @ w.T, axis=1)


def primal(x, y, classes):
    """min ½‖W‖² by SLSQP, the constraints written out one by one."""
    rows = []
    for i in range(len(x)):
        for k in range(classes):
            if k != y[i]:
                row = np.zeros((classes, x.shape[1]))
                row[y[i]], row[k] = x[i], -x[i]
                rows.append(row.ravel())
    rows = np.array(rows)
    found = minimize(
        lambda w: 0.5 * w @ w, np.zeros(rows.shape[1]), jac=lambda w: w, method="SLSQP",
        constraints={"type": "ineq", "fun": lambda w: rows @ w - 1, "jac": lambda _: rows},
        options={"ftol": 1e-13, "maxiter": 1000},
    )  # fmt: skip
    assert found.success
    return found.x.reshape(classes, -1)


def test_known_answers():
    found = cross_entropy.max_margin([[2.0, 0.0], [0.0, 1.0], [5.0, -7.0]], [1, -1, 1])
    np.testing.assert_allclose(found.weights, [0.5, -1.0], rtol=1e-14)
    assert found.margin == pytest.approx(1 / np.sqrt(1.25), rel=1e-14)
    np.testing.assert_array_equal(found.support, [0, 1])
    np.testing.assert_allclose(found.multipliers, [0.25, 1.0, 0.0], rtol=1e-13)
    for classes in (3, 5):
        found = cross_entropy.max_margin(2 * np.eye(classes), np.arange(classes))
        np.testing.assert_allclose(found.weights, (np.eye(classes) - 1 / classes) / 2, atol=1e-14)
        assert found.margin == pytest.approx(2 / np.sqrt(classes - 1), rel=1e-13)


@pytest.mark.parametrize(
    ("n", "d", "classes", "seed"), [(20, 3, 2, 0), (15, 4, 3, 1), (12, 9, 4, 2)]
)
def test_by_slsqp(n, d, classes, seed):
    x, y = drawn(n, d, classes, seed)
    exact = primal(x, y, classes)
    if classes == 2:  # (w₁ − w₀)·x ≥ 1 with w₁ = −w₀ = w/2
        found = cross_entropy.max_margin(x, y)
        np.testing.assert_allclose(found.weights, exact[1] - exact[0], rtol=1e-6, atol=1e-7)
        signed = cross_entropy.max_margin(x, 2 * y - 1)
        np.testing.assert_array_equal(signed.weights, found.weights)
    else:
        found = cross_entropy.max_margin(x, y)
        np.testing.assert_allclose(found.weights, exact, rtol=1e-6, atol=1e-6)
        assert found.margin == pytest.approx(1 / np.linalg.norm(exact), rel=1e-7)


def test_by_the_dual():
    """max Σα − ½‖Σ α y x‖² over α ≥ 0, by another method."""
    x, y = drawn(25, 3, 2, 5)
    z = (2 * y - 1)[:, None] * x
    dual = minimize(
        lambda a: 0.5 * np.sum((a @ z) ** 2) - np.sum(a), np.ones(len(z)),
        jac=lambda a: z @ (a @ z) - 1, bounds=[(0, None)] * len(z), method="trust-constr",
        options={"gtol": 1e-10, "xtol": 1e-14, "maxiter": 3000},
    )  # fmt: skip
    found = cross_entropy.max_margin(x, y)
    np.testing.assert_allclose(dual.x @ z, found.weights, rtol=1e-4)
    assert np.sum(found.multipliers) == pytest.approx(1 / found.margin**2, rel=1e-12)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e8])
@pytest.mark.parametrize(("n", "d", "classes", "seed"), [(60, 5, 2, 3), (40, 6, 4, 4)])
def test_the_conditions_of_the_optimum(n, d, classes, seed, scale):
    x, y = drawn(n, d, classes, seed)
    x = scale * x
    found = cross_entropy.max_margin(x, y)
    alpha = found.multipliers
    assert np.all(alpha >= 0)
    if classes == 2:
        signs = 2 * y - 1
        margins = signs * (x @ found.weights)
        made = (alpha * signs) @ x
        slack = alpha * (margins - 1)
        worst = margins
    else:
        logits = x @ found.weights.T
        margins = logits[np.arange(n), y][:, None] - logits
        made = (np.eye(classes)[y] * alpha.sum(axis=1, keepdims=True) - alpha).T @ x
        np.testing.assert_array_equal(alpha[np.arange(n), y], 0.0)
        slack = alpha * (margins - 1)
        worst = np.min(np.where(np.eye(classes)[y] > 0, np.inf, margins), axis=1)
    assert np.min(worst) > 1 - 1e-10
    size = np.max(np.abs(found.weights))
    np.testing.assert_allclose(made, found.weights, rtol=0, atol=1e-10 * size)
    assert np.max(np.abs(slack)) < 1e-10 * np.sum(alpha)
    np.testing.assert_array_equal(found.support, np.flatnonzero(worst < 1 + 1e-8))


def test_a_bias_is_a_column_of_ones():
    x = np.array([[1.0], [2.0], [3.0]])
    y = [-1, 1, 1]
    assert not cross_entropy.separable(x, y)
    assert cross_entropy.separable(np.hstack([x, np.ones((3, 1))]), y)


@pytest.mark.parametrize("gap", [1e-2, 1e-5, 1e-7])
def test_narrow_gaps(gap):
    """z = (±1, g): the margin is g; one row turned by −3g has the origin inside the hull."""
    wide = np.array([[1.0, gap], [-1.0, gap]])
    assert cross_entropy.max_margin(wide, [1, 1]).margin == pytest.approx(gap, rel=1e-8)
    shut = np.array([[1.0, gap], [-1.0, gap], [0.1, -3 * gap]])
    assert not cross_entropy.separable(shut, [1, 1, 1])
    ajar = np.array([[1.0, gap], [-1.0, gap], [0.1, 0.5 * gap]])
    assert cross_entropy.separable(ajar, [1, 1, 1])


def test_separable_or_not():
    square = np.array([[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]])
    assert not cross_entropy.separable(square, [1, 1, 0, 0])
    assert not cross_entropy.separable(square, [1, 0, 1, 1])  # x and −x, both of class 1
    assert cross_entropy.separable(square, [1, 0, 1, 0])
    assert cross_entropy.separable(square, [0, 1, 2, 3])
    assert not cross_entropy.separable(np.zeros((1, 2)), [1])
    x, y = drawn(30, 3, 3, 7)
    assert cross_entropy.separable(x, y)
    for i in (0, 11, 29):  # the same input under two labels
        doubled = np.vstack([x, x[i]]), np.append(y, (y[i] + 1) % 3)
        assert not cross_entropy.separable(*doubled)
        with pytest.raises(ValueError, match="not linearly separable"):
            cross_entropy.max_margin(*doubled)


@pytest.mark.parametrize("count", [10, 60])
def test_how_often_random_labels_are_separable(count):
    """Cover 1965: 2^{1−n} Σ_{k<d} C(n − 1, k): ½ at n = 2d, none at n = 12d."""
    rng = np.random.default_rng(0)
    found = [
        cross_entropy.separable(rng.normal(size=(count, 5)), rng.choice([-1, 1], count))
        for _ in range(60)
    ]
    if count == 60:
        assert not any(found)
    else:
        assert 0.3 < np.mean(found) < 0.7  # three standard deviations


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (np.eye(3), [0, 2, 3], "none of class 1, and go up to 3"),
        (np.eye(3), [-2, 0, 1], "labels have -2"),
        (np.eye(3), [-1, 0, 1], "labels have -1"),
        (np.eye(3), [0.5, 0, 1], "labels contain 0.5"),
        (np.eye(3), [0, 1], r"shape \(3, 3\) and labels \(2,\)"),
        (np.eye(3)[0], [0], "must be"),
        (np.eye(2) * np.nan, [0, 1], "NaN"),
    ],
)
@pytest.mark.parametrize("function", [cross_entropy.max_margin, cross_entropy.separable])
def test_refusals(function, x, y, words):
    with pytest.raises(ValueError, match=words):
        function(x, y)
