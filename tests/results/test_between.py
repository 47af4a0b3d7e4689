"""Roots and minima of many steps at once, against functions whose own are known."""

import numpy as np
import pytest

from gflow.results._between import minima, roots

ROWS = 40
EDGES = np.zeros((ROWS, 1)), np.ones((ROWS, 1))
AT = np.random.default_rng(0).uniform(0.05, 0.95, ROWS)
STEEP = np.random.default_rng(1).normal(size=ROWS)[:, None]


def found(function, size=1.0):
    """Roots, what they may be off by, and how often the function was asked for how many points."""
    asked = []

    def counted(x):
        asked.append(x.shape[1])
        return function(x)

    left, right = (function(x)[:, 0] for x in EDGES)
    return *roots(counted, left, right, np.full(ROWS, size)), asked


def smooth(scale):
    return lambda x: np.tanh(scale * STEEP**2 * (x - AT[:, None])) + 0.3 * np.sinh(x - AT[:, None])


@pytest.mark.parametrize("scale", [0.1, 1.0, 40.0])
def test_roots_of_smooth_functions(scale):
    root, doubt, asked = found(smooth(scale))
    off = np.abs(root - AT)
    assert np.all(off <= doubt + 2e-16)
    assert np.max(doubt) < 3e-15
    assert len(asked) <= (4 if scale == 0.1 else 9)


@pytest.mark.parametrize("power", [3, 9, 15])
def test_a_flat_root_is_known_to_what_the_value_is(power):
    root, doubt, _ = found(lambda x: (x - AT[:, None]) ** power)
    assert np.all(np.abs(root - AT) <= np.maximum(doubt, 2e-15))


def test_a_jump_is_bisected():
    root, doubt, asked = found(lambda x: np.where(x < AT[:, None], -1.0, 1.0))
    assert np.all(np.abs(root - AT) <= doubt + 2e-16)
    assert np.max(doubt) < 3e-15
    assert len(asked) < 60


def test_noise_is_no_reason_to_go_on():
    rng = np.random.default_rng(2)

    def noisy(x):
        return 1e3 * (x - AT[:, None]) * (1.0 + 1e-9 * rng.standard_normal(x.shape))

    root, _, asked = found(noisy)
    assert np.max(np.abs(root - AT)) < 1e-14
    assert len(asked) < 60


def test_a_root_at_the_end():
    root, doubt, _ = found(lambda x: np.expm1(x - 1.0) + 0.0 * AT[:, None])
    assert np.all(np.abs(root - 1.0) <= doubt)
    assert np.max(doubt) < 3e-15


def test_what_cannot_be_evaluated_has_no_root():
    root, doubt = roots(lambda x: np.nan * x, -np.ones(3), np.ones(3), np.ones(3))
    assert np.all(np.isnan(root))
    assert np.all(np.isnan(doubt))


@pytest.mark.parametrize("height", [1.0, 1e-300])
def test_minima_inside_and_at_the_ends(height):
    at = np.random.default_rng(3).uniform(-0.3, 1.3, ROWS)[:, None]
    scale = 0.3 + np.abs(STEEP)

    def valley(rows, x):
        return height * np.exp(scale[rows] * (np.cosh(2 * (x - at[rows])) - 1))

    every = np.arange(ROWS)
    rows, lowest = minima(valley, *(valley(every, x)[:, 0] for x in EDGES), every)
    np.testing.assert_array_equal(rows, every)
    np.testing.assert_allclose(lowest, np.clip(at[:, 0], 0.0, 1.0), atol=1e-6)


def test_of_a_group_the_row_with_the_lowest_goes_on():
    floor = np.array([3.0, 1.0, 2.0, 5.0])[:, None]

    def of(rows, x):
        return floor[rows] + (x - 0.4) ** 2

    ends = (of(np.arange(4), np.full((4, 1), x))[:, 0] for x in (0.0, 1.0))
    rows, lowest = minima(of, *ends, np.array([0, 0, 1, 1]))
    assert rows.tolist() == [1, 2]
    np.testing.assert_allclose(lowest, 0.4, atol=1e-6)


@pytest.mark.parametrize("beyond", [-0.01, 0.0, 0.01])
def test_a_minimum_next_to_where_two_rows_meet(beyond):
    def of(rows, x):
        return 1.0 + (x + rows[:, None] - 1.0 - beyond) ** 2

    ends = (of(np.arange(2), np.full((2, 1), x))[:, 0] for x in (0.0, 1.0))
    rows, lowest = minima(of, *ends, np.array([0, 0]))
    heights = of(rows, lowest[:, None])[:, 0]
    assert np.min(heights) == pytest.approx(1.0, abs=1e-12)


def test_a_floor_of_zeros_is_a_minimum():
    def of(rows, x):
        return np.maximum(x - 0.5, 0.0)

    _, lowest = minima(of, np.zeros(2), np.full(2, 0.5), np.arange(2))
    assert np.all(lowest <= 0.5)
