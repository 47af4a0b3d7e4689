"""Representations, alignment, escape times and softened products, against flows by SciPy."""

import mpmath
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.optimize import minimize

from theory import symmetry

VARIANCES, TARGETS, DECAY = np.array([1.0, 2.0, 0.5]), np.array([1.5, 1.0, 2.0]), 0.2


def layers(start, variances, decay, t):
    """W₁(t), W₂(t) of the population loss ½E‖W*x − W₂W₁x‖² + (λ/2)(‖W₁‖² + ‖W₂‖²)."""
    sizes = start[0].size

    def split(y):
        return y[:sizes].reshape(start[0].shape), y[sizes:].reshape(start[1].shape)

    def field(_, y):
        first, second = split(y)
        force = (np.diag(TARGETS) - second @ first) * variances
        return np.concatenate(
            [
                (second.T @ force - decay * first).ravel(),
                (force @ first.T - decay * second).ravel(),
            ]
        )

    y = np.concatenate([x.ravel() for x in start])
    return split(solve_ivp(field, (0.0, t), y, method="DOP853", rtol=1e-12, atol=1e-15).y[:, -1])


def grams(first, second, variances, noise):
    """Z, E hhᵀ and E ggᵀ, averaged over inputs ±√(3ξ_i) e_i and label noise ±√(3ς²) e_j."""
    hidden, gradients = np.zeros((2, len(first), len(first)))
    for i in range(3):
        x = np.sqrt(3 * variances[i]) * np.eye(3)[i]
        hidden += np.outer(first @ x, first @ x) / 3
        for j in range(3):
            for sign in (1, -1):
                label = TARGETS * x + sign * np.sqrt(3 * noise) * np.eye(3)[j]
                g = second.T @ (label - second @ (first @ x))
                gradients += np.outer(g, g) / 18
    return first @ first.T, hidden, gradients


def cosine(a, b):
    return np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b)


@pytest.mark.parametrize("variances", [VARIANCES, np.ones(3)])
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_a_random_start_comes_to_rest_at_these_representations(variances, noise):
    rng = np.random.default_rng(3)
    start = rng.normal(size=(4, 3)), 0.5 * rng.normal(size=(3, 4))
    measured = grams(*layers(start, variances, DECAY, 250.0), variances, noise)
    found = symmetry.representations(variances, TARGETS, DECAY, noise)
    for matrix, values in zip(measured, found, strict=True):
        spectrum = np.sort(np.append(values, 0.0))
        np.testing.assert_allclose(np.linalg.eigvalsh(matrix), spectrum, atol=1e-9)
    z, h, g = measured
    same = symmetry.alignment(variances, TARGETS, DECAY, noise)
    assert cosine(h, g) == pytest.approx(float(same), abs=1e-9)
    if noise == 0.0:
        np.testing.assert_allclose(h @ g, DECAY**2 * z @ z, atol=1e-9)
    if variances is not VARIANCES:
        np.testing.assert_allclose(h, z, atol=1e-9)
        np.testing.assert_allclose(g, (DECAY**2 + noise) * z, atol=1e-9)


def test_the_numbers_of_one_problem():
    z, h, g = symmetry.representations(VARIANCES, TARGETS, DECAY, 0.0)
    np.testing.assert_allclose(z, [1.3, 0.9, 1.6], rtol=1e-14)
    np.testing.assert_allclose(h, [1.3, 1.8, 0.8], rtol=1e-14)
    np.testing.assert_allclose(g, [0.052, 0.018, 0.128], rtol=1e-14)
    assert cosine(h, z) == pytest.approx(0.864589246347, abs=1e-12)
    found = symmetry.alignment(VARIANCES, TARGETS, DECAY, 0.0)
    assert float(found) == pytest.approx(0.615527937280, abs=1e-12)
    course = symmetry.alignment(1.0, TARGETS, DECAY, 0.0, [1.0, 4.0, 12.0, np.inf], 1e-3)
    np.testing.assert_allclose(
        course, [0.985077470109, 0.691403630293, 0.999999999956, 1.0], atol=1e-12
    )


@pytest.mark.parametrize("variances", [VARIANCES, np.ones(3)])
@pytest.mark.parametrize(("decay", "noise"), [(0.2, 0.0), (0.2, 0.1), (1.0, 0.0), (2.5, 0.4)])
def test_the_course_of_an_aligned_start(variances, decay, noise):
    # with λ = 1 a mode is at its threshold, with 2.5 all die
    s0 = np.array([1e-3, 0.4, 3.0])
    start = np.diag(np.sqrt(s0)), np.diag(np.sqrt(s0))
    for t in (0.0, 0.7, 3.0):
        pair = layers(start, variances, decay, t) if t else start
        _, h, g = grams(*pair, variances, noise)
        found = symmetry.alignment(variances, TARGETS, decay, noise, t, s0)
        assert float(found) == pytest.approx(cosine(h, g), abs=1e-10)


def test_what_is_missed_late_is_not_lost_to_rounding():
    # without decay and noise the slowest mode alone has a gradient in the end
    late = symmetry.alignment(1.0, TARGETS, 0.0, 0.0, 40.0, 1e-3)
    assert float(late) == pytest.approx(1.0 / np.linalg.norm(TARGETS), rel=1e-12)


def test_escape_times():
    times = symmetry.escape_time(0.0111041695, [1e-6, 1e-4], 1e-2)
    np.testing.assert_allclose(times, [829.4488, 414.7244], atol=5e-5)
    assert symmetry.escape_time(2.0, 0.1, 0.1) == 0.0


def exact_product(m, lam, a0, b0):
    """The rest state nearest to (a₀, b₀), by 50 digits from the equations of a and b."""
    with mpmath.workdps(50):
        m, lam, a0, b0 = map(mpmath.mpf, (m, lam, a0, b0))
        found = mpmath.findroot(
            lambda a, b: [lam * (a - a0) - (m - a * b) * b, lam * (b - b0) - (m - a * b) * a],
            (a0, b0),
        )
        return float(found[0] * found[1])


def test_softened_products_by_many_digits():
    cases = [
        ("0.5", "0.8", "0.05", "0.02"),
        ("0.5", "0.8", "0.005", "0.002"),
        ("-0.3", "0.8", "1e-30", "-2e-30"),
        ("0.1", "2.0", "0.7", "-0.4"),
    ]
    for case in cases:
        found = float(symmetry.softened_product(*map(float, case)))
        assert found == pytest.approx(exact_product(*case), rel=1e-12)
    assert exact_product(*cases[0]) == pytest.approx(0.008169106945894, rel=1e-13)
    first = 0.64 / 4 * (0.07**2 / 0.3**2 - 0.03**2 / 1.3**2)
    assert first == pytest.approx(0.008625904010519, rel=1e-12)
    scales = np.array([0.1, 0.01])
    found = symmetry.softened_product(0.5, 0.8, 0.05 * scales, 0.02 * scales)
    np.testing.assert_allclose(found / (first * scales**2), [0.9994185, 0.9999942], atol=5e-8)


@pytest.mark.parametrize("m", [-1.5, 0.3, 0.8, 1.5])
def test_a_softened_product_is_that_of_the_global_minimum(m):
    lam, a0, b0 = 0.8, 0.3, -0.1

    def loss(x):
        return 0.5 * (x[0] * x[1] - m) ** 2 + 0.5 * lam * ((x[0] - a0) ** 2 + (x[1] - b0) ** 2)

    tries = [minimize(loss, x, tol=1e-14) for x in ((1, 1), (-1, -1), (1, -1), (-1, 1))]
    best = min(tries, key=lambda found: found.fun)
    assert float(symmetry.softened_product(m, lam, a0, b0)) == pytest.approx(
        best.x[0] * best.x[1], abs=1e-6
    )


def test_plain_decay_collapses_below_the_transition():
    found = symmetry.softened_product([0.5, 0.8, 1.5, -1.5], 0.8, 0.0, 0.0)
    np.testing.assert_allclose(found, [0.0, 0.0, 0.7, -0.7], atol=1e-15)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: symmetry.representations([1.0, -1.0], 1.0, 0.1, 0.0), "variances positive"),
        (lambda: symmetry.representations([1.0, 1.0], [1.0] * 3, 0.1, 0.0), "one of each a mode"),
        (lambda: symmetry.representations(1.0, 1.0, -0.1, 0.0), "decay = -0.1: one number"),
        (lambda: symmetry.representations(1.0, 1.0, 0.1, [0.0, 1.0]), "noise = .*: one number"),
        (lambda: symmetry.alignment(1.0, 1.0, 0.1, 0.0, 1.0), "t is given without start"),
        (lambda: symmetry.alignment(1.0, 1.0, 0.1, 0.0, 1.0, -1.0), "a mode at 0 stays there"),
        (lambda: symmetry.alignment(1.0, [1.0, 2.0], 0.1, 0.0, 1.0, [1.0] * 3), "one for all"),
        (lambda: symmetry.alignment(1.0, 1.0, 0.1, 0.0, -1.0, 1.0), "flow times are ≥ 0"),
        (lambda: symmetry.alignment(1.0, 1.0, 0.0, 0.0), "H or G is zero"),
        (lambda: symmetry.escape_time(-1.0, 0.1, 0.2), "the symmetry lasts"),
        (lambda: symmetry.escape_time(1.0, 0.3, 0.2), "at least as large"),
        (lambda: symmetry.softened_product(1.0, 0.0, 0.1, 0.1), "λ is positive"),
    ],
)
def test_bad_input_is_a_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()
