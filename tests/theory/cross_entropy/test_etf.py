"""The equiangular logit against 40 digits, SciPy, its inverse and its limits."""

import math

import mpmath
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from theory import cross_entropy

TIMES = [1e-300, 1e-12, 1e-3, 0.7, 60.0, 700.0, 1e4, 1e10, 1e100, 1e300]


@pytest.mark.parametrize(("classes", "scale"), [(2, 1.0), (5, 0.3), (1000, 1.0)])
@pytest.mark.parametrize("start", [1e-200, 1e-8, 0.05, 1.0, 30.0, 700.0])
def test_the_implicit_law_is_met_at_forty_digits(classes, scale, start):
    """t(a) lies between the times of a a little less and of a a little more."""
    found = cross_entropy.etf_logit(classes, start, TIMES, scale)
    losses = cross_entropy.etf_loss(classes, scale * found)
    # e^{ςa₀} hides a time of 1e-300 behind 300 digits more
    with mpmath.workdps(660 if scale * start > 100 else 340):
        b0, k = mpmath.mpf(scale) * mpmath.mpf(start), classes

        def clock(a):
            b = mpmath.mpf(scale) * a
            return mpmath.ei(b) - mpmath.ei(b0) + (k - 1) * mpmath.log(b / b0)

        for t, a, loss in zip(TIMES, found, losses, strict=True):
            asked, a = 2 * mpmath.mpf(scale) * mpmath.mpf(t), mpmath.mpf(float(a))
            off = min(a * mpmath.mpf(2e-13), mpmath.mpf(1e-12) / mpmath.mpf(scale))
            assert clock(a - off) < asked < clock(a + off), t
            vanishing = mpmath.log1p((k - 1) * mpmath.exp(-mpmath.mpf(scale * float(a))))
            if vanishing > 1e-300:
                assert abs(loss / vanishing - 1) < 1e-15, t


@pytest.mark.parametrize(("classes", "scale"), [(2, 1.0), (3, 2.5), (16, 0.4)])
def test_logit_by_scipy(classes, scale):
    t = np.array([0.0, 0.5, 4.0, 30.0])
    exact = solve_ivp(
        lambda _, a: 2 * scale * a / (np.exp(scale * a) + classes - 1),
        (0, 30), [0.02], "DOP853", t_eval=t, rtol=1e-13, atol=1e-16,
    ).y[0]  # fmt: skip
    found = cross_entropy.etf_logit(classes, 0.02, t.reshape(2, 2), scale)
    np.testing.assert_allclose(found.ravel(), exact, rtol=1e-12)


def test_printed_digits():
    assert cross_entropy.etf_logit(5, 0.05, 5.0) == pytest.approx(0.3460105451795, abs=5e-14)
    assert cross_entropy.etf_rest(6, 0.05) == pytest.approx(2.7081, abs=5e-5)
    assert cross_entropy.etf_rest(6, 0.2) == 0.0


@pytest.mark.parametrize("scale", [1.0, 0.2])
def test_time_is_the_inverse(scale):
    start = np.array([1e-200, 1e-8, 0.4])[:, None]
    t = np.array([0.0, 1e-3, 3.0, 600.0, 1e6, 1e200])
    a = cross_entropy.etf_logit(7, start, t, scale)
    back = cross_entropy.etf_time(7, start, a, scale)
    # a unit in the last place of a moves t by (e^{ςa} + K − 1)/2ς units
    slope = (np.exp(scale * a) + 6) / (2 * scale)
    assert np.all(np.abs(back - t) <= 4e-16 * slope * (1 + scale * a) * 4 + 1e-12 * t)
    assert cross_entropy.etf_time(3, 1e-200, 5e-201 * 4) == pytest.approx(1.5 * math.log(2))
    assert cross_entropy.etf_time(3, 1.0, 2000.0) == math.inf


def test_going_on_is_going_straight():
    half = cross_entropy.etf_logit(4, 1e-8, 40.0)
    for t in (0.0, 1.0, 1e3, 1e50):
        on = cross_entropy.etf_logit(4, half, t)
        assert on == pytest.approx(float(cross_entropy.etf_logit(4, 1e-8, 40.0 + t)), rel=1e-13)


def test_ends():
    found = cross_entropy.etf_logit(3, [[0.0], [1e-9], [2.0]], [0.0, 1.0, math.inf])
    np.testing.assert_array_equal(found[:, 0], [0.0, 1e-9, 2.0])
    np.testing.assert_array_equal(found[:, 2], [0.0, math.inf, math.inf])
    assert found[1, 1] == pytest.approx(1e-9 * math.exp(2 / 3), rel=1e-8)
    slope = np.diff(cross_entropy.etf_logit(9, 1e-3, [1e250, 1e251]))[0] / math.log(10)
    assert slope == pytest.approx(1 + 1 / 582, abs=3e-5)  # a' t = 1/(1 − 1/a)
    np.testing.assert_allclose(
        cross_entropy.etf_loss(6, [0.0, -800.0]), [math.log(6), 800.0 + math.log(5)]
    )
    np.testing.assert_array_equal(cross_entropy.etf_loss(6, [math.inf, -math.inf]), [0.0, math.inf])


@pytest.mark.parametrize(("decay", "scale"), [(0.05, 1.0), (0.3, 1.0), (0.05, 0.5), (0.1, 0.5)])
def test_rest_under_decay(decay, scale):
    end = solve_ivp(
        lambda _, a: 2 * a * (scale / (np.exp(scale * a) + 5) - decay),
        (0, 3000.0), [0.5], "LSODA", rtol=1e-11, atol=1e-13,
    ).y[0, -1]  # fmt: skip
    assert cross_entropy.etf_rest(6, decay, scale) == pytest.approx(end, rel=1e-9, abs=1e-9)
    assert cross_entropy.etf_rest(6, 0.0) == math.inf


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: cross_entropy.etf_logit(1, 0.1, 1.0), "classes = 1: the number of classes"),
        (lambda: cross_entropy.etf_logit(3, -0.1, 1.0), "start = -0.1: a balanced start"),
        (lambda: cross_entropy.etf_logit(3, 0.1, -1.0), "flow times are ≥ 0"),
        (lambda: cross_entropy.etf_logit(3, 0.1, 1.0, 0.0), "scale = 0.0"),
        (lambda: cross_entropy.etf_logit(3, np.float32(0.1), 1.0), "needs float64"),
        (lambda: cross_entropy.etf_logit(3, 1.0, 1.7e308), "overflows"),
        (lambda: cross_entropy.etf_time(3, 1.0, 0.5), "never reached"),
        (lambda: cross_entropy.etf_time(3, 0.0, 0.5), "never reached"),
        (lambda: cross_entropy.etf_loss(3, math.nan), "NaN"),
        (lambda: cross_entropy.etf_rest(3, -0.5), "decay = -0.5"),
    ],
)
def test_refusals(call, words):
    with pytest.raises(ValueError, match=words):
        call()
