"""Plateaus, merged heads, one head and modes against printed digits, SciPy and 40 digits."""

import math

import mpmath
import numpy as np
import pytest
from in_context_flows import CONTEXT, EIGENVALUES, integrated, loss, merged_matrix
from scipy.integrate import solve_ivp
from scipy.optimize import minimize

from theory import exact_linear, linear_icl
from theory.linear_icl import _merged

DIAGONAL = np.diag(EIGENVALUES)


def test_printed_plateaus():
    expected = [1, 0.64057971, 0.37737216, 0.2098046, 0.13599507]
    for order in ([0, 1, 2, 3], [2, 0, 3, 1]):
        found = linear_icl.plateaus(EIGENVALUES[order], CONTEXT)
        np.testing.assert_allclose(found, expected, rtol=0, atol=5e-9)


@pytest.mark.parametrize("noise", [0.0, 0.4])
@pytest.mark.parametrize(("eigenvalues", "context"), [([2.0, 0.5, 0.5], 3), ([1.0, 0.3, 0.0], 1)])
def test_plateaus_are_the_best_that_their_directions_allow(eigenvalues, context, noise):
    found = linear_icl.plateaus(eigenvalues, context, noise=noise)
    covariance = np.diag(eigenvalues)
    for m in range(len(eigenvalues) + 1):

        def learned(entries, m=m):
            return np.diag([*entries, *np.zeros(len(eigenvalues) - m)])

        def of(entries):
            return loss(learned(entries), covariance, context, noise)

        best = minimize(of, np.ones(m), tol=1e-12).fun if m else of([])
        assert found[m] == pytest.approx(best, rel=1e-9)


def test_an_endless_context_leaves_nothing_but_noise():
    np.testing.assert_allclose(
        linear_icl.plateaus([0.5, 0.3], math.inf, noise=0.2), [1.0, 0.5, 0.2], rtol=1e-15
    )


def test_the_loss_of_any_matrix():
    m = np.random.default_rng(0).normal(size=(3, 4, 4))
    for noise in (0.0, 0.7):
        found = linear_icl.population_loss(m, EIGENVALUES, 7, noise=noise)
        expected = [loss(one, DIAGONAL, 7, noise) for one in m]
        np.testing.assert_allclose(found, expected, rtol=1e-13)


# ---- merged heads ------------------------------------------------------------------------


def aligned(force, size, heads=3, seed=0):
    r = np.random.default_rng(seed).normal(size=heads)
    r /= np.linalg.norm(r)
    return [size * r, size * r[:, None, None] * force / np.linalg.norm(force)]


def test_printed_white_merged_heads():
    found = linear_icl.merged_white(4, 31, 1e-3, [2.0, 3.0])
    np.testing.assert_allclose(found, [0.0014879044751066, 0.074351057129235], rtol=2e-13)
    m = found[:, None, None] * np.eye(4)
    np.testing.assert_allclose(
        linear_icl.population_loss(m, np.ones(4), 31),
        [3.9881070479347, 3.4308703647809],
        rtol=2e-14,
    )


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_white_merged_heads_by_scipy(noise):
    t = np.array([0.0, 1.0, 2.5, 3.5, 6.0])
    (v, u), _ = integrated(aligned(np.eye(3), 1e-2), np.eye(3), 5, t, noise=noise)
    sigma = linear_icl.merged_white(3, 5, 1e-2, t, noise=noise)
    for i in range(t.size):
        np.testing.assert_allclose(merged_matrix(v[i], u[i]), sigma[i] * np.eye(3), atol=2e-12)
    loss_, m = linear_icl.merged(np.ones(3), 5, 1e-2, t, noise=noise)
    np.testing.assert_allclose(m, np.repeat(sigma[:, None], 3, axis=1), rtol=1e-12)
    np.testing.assert_allclose(loss_, 3 + noise - 6 * sigma + 3 * (1 + (4 + noise) / 5) * sigma**2)


def test_white_from_any_size():
    half = [math.log(2.0 / w**2 / (7 / 6) - 1) / 4 for w in (1e-3, 1e-100)]
    np.testing.assert_allclose(
        [linear_icl.merged_white(4, 30, w, t) for w, t in zip((1e-3, 1e-100), half, strict=True)],
        3 / 7, rtol=1e-12,
    )  # fmt: skip
    scaled = linear_icl.merged(0.3 * np.ones(4), 30, 1e-3, [50.0, 90.0, math.inf]).diagonal
    white = linear_icl.merged_white(4, 30, 0.3**0.5 * 1e-3, [4.5, 8.1, math.inf]) / 0.3
    np.testing.assert_allclose(scaled, np.repeat(white[:, None], 4, axis=1), rtol=2e-12)


def test_merged_heads_of_any_covariance_by_scipy():
    t = np.array([0.0, 10.0, 25.0, 30.0, 40.0, 100.0])
    (v, u), _ = integrated(aligned(DIAGONAL**2, 1e-3), DIAGONAL, CONTEXT, t, rtol=1e-13)
    found = linear_icl.merged(EIGENVALUES, CONTEXT, 1e-3, t.reshape(2, 3))
    assert found.loss.shape == (2, 3)
    assert found.diagonal.shape == (2, 3, 4)
    for i, m in enumerate(found.diagonal.reshape(6, 4)):
        np.testing.assert_allclose(merged_matrix(v[i], u[i]), np.diag(m), rtol=0, atol=1e-12)
        assert found.loss.ravel()[i] == pytest.approx(
            loss(np.diag(m), DIAGONAL, CONTEXT), rel=1e-13
        )


def test_merged_heads_from_sizes_far_below_rounding():
    """w → w e^{−‖Λ²‖Δ} is a delay by Δ, to all orders once w² is below rounding."""
    rate = np.linalg.norm(EIGENVALUES**2)
    delay = math.log(1e-20 / 1e-100) / rate
    t = 0.5 * math.log(1e40) / rate + np.array([-9.0, -1.0, 4.0, 60.0])
    near = linear_icl.merged(EIGENVALUES, CONTEXT, 1e-20, t)
    far = linear_icl.merged(EIGENVALUES, CONTEXT, 1e-100, t + delay)
    np.testing.assert_allclose(far.diagonal, near.diagonal, rtol=1e-11)
    end = linear_icl.merged(EIGENVALUES, CONTEXT, 1e-100, [0.0, math.inf])
    gamma = EIGENVALUES + (EIGENVALUES + 1) / CONTEXT
    np.testing.assert_allclose(end.diagonal[1], 1 / gamma, rtol=1e-14)
    np.testing.assert_allclose(end.loss, linear_icl.plateaus(EIGENVALUES, CONTEXT)[[0, -1]])


def test_a_stiff_spectrum_late():
    """Long after λ = 1 is learned, λ = 0.03 is: by SciPy's LSODA on the scalars of the paper."""
    lam = np.array([1.0, 0.03])
    b, s = lam**2, lam**2 * (lam + (lam + 1.03) / 9)

    def velocity(_, m):
        size, left = np.linalg.norm(m), b - s * m
        return size * left + m * (m @ left) / size

    t = np.array([50.0, 1e3, 1e4])
    begun = 1e-6 * b / np.linalg.norm(b)
    expected = solve_ivp(
        velocity, (0, t[-1]), begun, "LSODA", t_eval=t, rtol=1e-12, atol=1e-18
    ).y.T  # fmt: skip
    found = linear_icl.merged(lam, 9, 1e-3, t).diagonal
    np.testing.assert_allclose(found, expected, rtol=3e-9)


def test_the_jacobian_of_the_stiff_part():
    z, b, s = np.array([-0.3, 0.5, 0.7, 0.1]), np.array([1.0, 0.4, 0.1]), np.array([1.2, 0.5, 0.2])
    jacobian = _merged._jacobian(0.0, z, b, s)
    for column, step in zip(jacobian.T, 1e-6 * np.eye(4), strict=True):
        up, down = (_merged._velocity(0.0, z + sign * step, b, s) for sign in (1, -1))
        np.testing.assert_allclose(column, (up - down) / 2e-6, rtol=0, atol=1e-9)


def test_a_start_that_is_not_aligned():
    """What is beside the growing mode enters at the first order of the size, and is followed."""
    rng = np.random.default_rng(1)
    v, u = rng.normal(size=3), rng.normal(size=(3, 4, 4))
    off = {}
    for size in (1e-3, 1e-4):
        t = math.log(1 / size) / np.linalg.norm(EIGENVALUES**2) + np.array([-3.0, 0, 2, 5, 9, 30])
        weights, _ = integrated([size * v, size * u], DIAGONAL, CONTEXT, t)
        exact = [loss(merged_matrix(*w), DIAGONAL, CONTEXT) for w in zip(*weights, strict=True)]
        found = linear_icl.merged_from(size * v, size * u, EIGENVALUES, CONTEXT, t)
        equivalent = linear_icl.aligned_size(size * v, size * u, EIGENVALUES)
        plain = linear_icl.merged(EIGENVALUES, CONTEXT, equivalent, t)
        off[size] = [np.max(np.abs(x.loss - exact)) for x in (found, plain)]
    assert off[1e-4][0] < 3e-7
    assert off[1e-4][0] < 0.05 * off[1e-3][0]
    assert off[1e-4][1] > 3 * off[1e-4][0]
    white = linear_icl.merged_from(1e-5 * v, 1e-5 * u, np.ones(4), 31, [3.0, 5.0])
    size = linear_icl.aligned_size(1e-5 * v, 1e-5 * u, np.ones(4))
    sigma = linear_icl.merged_white(4, 31, size, [3.0, 5.0])
    np.testing.assert_allclose(white.loss, 4 - 8 * sigma + 4 * (1 + 5 / 31) * sigma**2, rtol=1e-8)


# ---- one head ----------------------------------------------------------------------------

LAM, TRACE = 0.4, 1.0
KAPPA = (LAM * (1 + (1 + TRACE / LAM) / CONTEXT)) ** (-1 / 3)


@pytest.mark.parametrize("start", [0.01, 0.5, 2.0])
def test_one_head_by_scipy(start):
    t = np.array([0.0, 0.3, 4.0, 6.0 / start, 7.0 / start + 9.0])
    t.sort()
    exact = solve_ivp(
        lambda _, v: LAM**2 * v**2 - LAM**3 * (1 + (1 + TRACE / LAM) / CONTEXT) * v**5,
        (0, t[-1]), [start], "DOP853", t_eval=t, rtol=3e-14, atol=1e-20,
    ).y[0]  # fmt: skip
    found = linear_icl.one_head(LAM, TRACE, CONTEXT, start, t.reshape(5, 1))
    np.testing.assert_allclose(found[:, 0], exact, rtol=1e-11)


@pytest.mark.parametrize("start", [1e-290, 1e-100, 1e-8, 0.3, 1.309, 1.3097, 1.32, 3.0, 50.0, 1e5])
def test_one_head_at_forty_digits(start):
    """The implicit law holds to what one unit in the last place of v and of 1/v₀ move it by."""
    with mpmath.workdps(40):
        lam = mpmath.mpf(LAM)
        kappa = (lam * (1 + (1 + TRACE / lam) / CONTEXT)) ** (-mpmath.mpf(1) / 3)

        def phi(v):
            x = v / kappa
            root = mpmath.sqrt(3)
            angle = mpmath.atan((2 * x + 1) / root) / root
            return -1 / x - mpmath.log(abs(1 - x)) / 3 + mpmath.log(1 + x + x * x) / 6 - angle

        for share in (1e-3, 0.3, 0.9, 0.999, 1.0, 1.0001, 1.4):
            t = share / (LAM**2 * start)
            v = mpmath.mpf(float(linear_icl.one_head(LAM, TRACE, CONTEXT, start, t)))
            x = v / kappa
            if abs(1 - x) < 1e-13:
                continue
            off = phi(v) - phi(mpmath.mpf(start)) - lam**2 * kappa * t
            ulp = 2.3e-16 * (abs(1 / (x * (1 - x**3))) + max(kappa / start, 1))
            assert abs(off) < 3 * ulp, (share, float(off), float(ulp))


def test_one_head_at_its_ends():
    found = linear_icl.one_head(
        LAM, TRACE, CONTEXT, [[1e-100], [KAPPA], [9.0]], [0.0, 1e105, math.inf]
    )
    np.testing.assert_array_equal(found[:, 0], [1e-100, KAPPA, 9.0])
    np.testing.assert_allclose(found[:, 1:], KAPPA, rtol=1e-15)
    half = linear_icl.one_head(
        LAM, TRACE, CONTEXT, 1e-6, 1 / (LAM**2 * 1e-6) - 1.25339 / (LAM**2 * KAPPA)
    )
    assert (1 - (half / KAPPA) ** 3) ** 2 == pytest.approx(0.5, abs=1e-4)


# ---- modes -------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_modes_by_scipy(noise):
    s, size, t = np.array([1.5, 0.8]), np.array([1e-2, 3e-2]), np.array([0.0, 2.0, 5.0, 12.0])
    unit = ((6 + 1) * s + s.sum() + noise) / 6

    def velocity(_, y):
        p, q = y[:2], y[2:]
        left = 1 - p * q * unit
        return np.concatenate([s**2 * q * left, s**2 * p * left])

    exact = solve_ivp(
        velocity, (0, 12.0), np.tile(size, 2), "DOP853", t_eval=t, rtol=1e-13, atol=1e-15
    ).y.T
    found = linear_icl.modes(s, 6, size, t, noise=noise)
    np.testing.assert_allclose(found, exact[:, :2] * exact[:, 2:], rtol=1e-11)
    np.testing.assert_allclose(linear_icl.modes(s, 6, size, math.inf, noise=noise), 1 / unit)
    product = exact_linear.aligned_mode(np.sqrt(unit) * size, np.sqrt(unit) * size, 1.0, s**2 * 3.0)
    np.testing.assert_allclose(
        linear_icl.modes(s, 6, size, 3.0, noise=noise), product.product / unit, rtol=1e-12
    )


def test_a_mode_is_the_flow_of_half_the_loss():
    """With M = diag(pq), p' = −½ ∂E(y − ŷ)²/∂p."""
    s, p, q, step = np.array([1.5, 0.8]), np.array([0.3, 0.2]), np.array([0.1, 0.4]), 1e-6
    unit = (7 * s + s.sum()) / 6
    for i in range(2):

        def of(x, i=i):
            a = p * q
            a[i] = x * q[i]
            return float(linear_icl.population_loss(np.diag(a), s, 6))

        slope = (of(p[i] + step) - of(p[i] - step)) / (2 * step)
        assert -0.5 * slope == pytest.approx(
            s[i] ** 2 * q[i] * (1 - p[i] * q[i] * unit[i]), rel=1e-7
        )


def test_modes_from_far_below():
    half = math.log(1e200 / (7 / 6 + 2 / 6) - 1) / 2
    assert linear_icl.modes([1.0, 1.0], 6, 1e-100, half)[0] == pytest.approx(1 / 3, rel=1e-11)
