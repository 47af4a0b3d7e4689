"""Radau steps against exact solutions, and when an orbit may end before it rests."""

import math
import types

import numpy as np
import pytest

from theory.gradual_rank import _orbits, _radau
from theory.gradual_rank._motion import Motion
from theory.gradual_rank._radau import _RADAU, Pacing, attempt


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

    def blocks():
        return [(np.arange(y.size)[None], slope(y)[None])]

    return attempt(rates, blocks, y.size, pacing or Pacing(h), tolerance)


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


# --- the end of an orbit --------------------------------------------------------------


class Standing(_orbits._Rest):
    """An orbit of two active components."""

    def __init__(self):
        self.fast = self.saddle = types.SimpleNamespace(log_sizes=np.zeros(2, bool))
        self.active, self.together = np.ones(2, bool), []
        self.limits = types.SimpleNamespace(noise=np.zeros(2))


def moving_by(f, slope, monkeypatch):

    def moving(fast, states, directions=None):
        values = np.stack([f(x) for x in states])
        return Motion(values, values, np.zeros(len(states)))

    monkeypatch.setattr(_orbits, "moving", moving)
    monkeypatch.setattr(_orbits, "velocity_jacobian", lambda fast, x, along: slope(x)[:, along])


CASES = {
    "rests": (lambda x: np.array([-x[0], -2.0 * x[1]]), lambda x: np.diag([-1.0, -2.0]), True),
    "a way on": (lambda x: np.array([-x[0], 0.5 * x[1]]), lambda x: np.diag([-1.0, 0.5]), False),
    "creeps": (
        lambda x: np.array([-(x[0] ** 2), -2.0 * x[1]]), lambda x: np.diag([-2 * x[0], -2.0]), False
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_an_orbit_ends_only_near_where_it_rests(case, monkeypatch):
    f, slope, settled = CASES[case]
    state = np.array([1e-5, 1e-7])
    moving_by(f, slope, monkeypatch)
    orbit = Standing()
    assert _orbits._settled(orbit, state, f(state), 1e-8) is settled
    # where squares of what is left are more than the tolerance it goes on
    assert not _orbits._settled(orbit, state, f(state), 1e-10)
