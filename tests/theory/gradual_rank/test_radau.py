"""Radau steps against exact solutions."""

import math

import numpy as np
import pytest

from theory.gradual_rank import _radau
from theory.gradual_rank._radau import _RADAU, Pacing, Slopes, attempt


def test_coefficients():
    """B(9), C(5), and the eigenvectors of A⁻¹."""
    a, c = np.linalg.inv(_RADAU.inverse), _RADAU.c
    for k in range(1, 6):
        np.testing.assert_allclose(a @ c ** (k - 1), c**k / k, rtol=0, atol=1e-14)
    for k in range(1, 10):
        assert a[-1] @ c ** (k - 1) == pytest.approx(1.0 / k, abs=1e-14)
    assert abs(a[-1] @ c**9 - 0.1) > 1e-6
    again = (_RADAU.vectors * _RADAU.values * np.array([1.0, 2.0, 2.0])) @ _RADAU.back
    np.testing.assert_allclose(again.real, _RADAU.inverse, rtol=0, atol=1e-11)


def taken(f, slope, y, h, tolerance=1e-14, pacing=None):
    def rates(z):
        return np.stack([f(x) for x in np.concatenate([y + z, y[None]])])

    def slopes():
        return Slopes(np.arange(y.size), slope(y), [])

    return attempt(rates, slopes, y.size, pacing or Pacing(h), tolerance)


def test_nine_orders(monkeypatch):
    """y' = −y² from 1: the error of one step falls as h¹⁰."""
    monkeypatch.setattr(_radau, "_LEFT", 1e-13)
    errors = []
    for h in (0.8, 0.4):
        one = taken(lambda y: -(y**2), lambda y: np.diag(-2 * y), np.ones(1), h, 1.0)
        errors.append(abs(1.0 + one.stages[-1, 0] - 1.0 / (1.0 + h)))
    assert errors[1] < 1e-8
    assert math.log2(errors[0] / errors[1]) == pytest.approx(10.0, abs=1.5)


def followed(f, slope, y, end, tolerance):
    t, pacing, steps = 0.0, Pacing(1e-3), 0
    while t < end:
        if pacing.step > end - t:
            pacing = Pacing(end - t, None, pacing.before)
        one = taken(f, slope, y, pacing.step, tolerance, pacing)
        pacing, steps = one.pacing, steps + 1
        if one.stages is not None:
            y, t = y + one.stages[-1], t + one.length
    return y, steps


@pytest.mark.parametrize("tolerance", [1e-6, 1e-10])
def test_a_stiff_curve_is_followed(tolerance):
    """Prothero and Robinson's y' = −10⁶(y − cos t) − sin t, with t as a component."""

    def f(x):
        return np.array([-1e6 * (x[0] - math.cos(x[1])) - math.sin(x[1]), 1.0])

    def slope(x):
        return np.array([[-1e6, -1e6 * math.sin(x[1]) - math.cos(x[1])], [0.0, 0.0]])

    y, steps = followed(f, slope, np.array([1.0, 0.0]), 5.0, tolerance)
    assert y[1] == pytest.approx(5.0, abs=1e-12)
    assert abs(y[0] - math.cos(5.0)) < tolerance
    assert steps < 60


def test_errors_stay_within_the_tolerance():
    """A logistic curve in log-size, with the Jacobian of the step before where it serves."""
    rate, tolerance = 3.0, 1e-9

    def f(x):
        return rate * (1.0 - np.exp(x))

    y, _ = followed(f, lambda x: np.diag(-rate * np.exp(x)), np.array([-20.0]), 9.0, tolerance)
    exact = -math.log1p(math.expm1(20.0) * math.exp(-rate * 9.0))
    assert abs(y[0] - exact) < 10 * tolerance


def test_a_step_that_leaves_what_floats_hold_is_none():
    one = taken(lambda y: y**2 * 1e300, lambda y: np.diag(2e300 * y), np.ones(1), 1.0, 1e-6)
    assert one.stages is None
    assert one.pacing.step < 1.0


@pytest.mark.parametrize("tolerance", [1e-6, 1e-9])
def test_what_stiff_components_do_to_others_is_known_as_well(tolerance):
    """x' = −k(x − cos t) − sin t and q' = k(x − cos t) − q + 1, q moving none: x = cos t, q → 1."""
    k = 1e5

    def f(y):
        gap = k * (y[0] - math.cos(y[1]))
        return np.array([-gap - math.sin(y[1]), 1.0, gap - y[2] + 1.0])

    def rates(y):
        return lambda z: np.stack([f(x) for x in np.concatenate([y + z, y[None]])])

    def slopes(y):
        turn = k * math.sin(y[1])
        columns = np.array([[-k, -turn - math.cos(y[1])], [0.0, 0.0], [k, turn]])
        return Slopes(np.array([0, 1]), columns, [(np.array([[2]]), np.array([[[-1.0]]]))])

    y, t, pacing = np.array([1.0, 0.0, 0.0]), 0.0, Pacing(1e-3)
    while t < 3.0:
        if pacing.step > 3.0 - t:
            pacing = Pacing(3.0 - t, None, pacing.before)
        one = attempt(rates(y), lambda y=y: slopes(y), 3, pacing, tolerance)
        pacing = one.pacing
        if one.stages is not None:
            y, t = y + one.stages[-1], t + one.length
    np.testing.assert_allclose(
        y, [math.cos(3.0), 3.0, -math.expm1(-3.0)], rtol=0, atol=3 * tolerance
    )
