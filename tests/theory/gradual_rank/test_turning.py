"""What a plateau makes of columns: sizes against determinants and against the exponential."""

import itertools

import numpy as np
import pytest

from theory.gradual_rank._turning import Mode, alike, complement, turned

RNG = np.random.default_rng(3)
BASIS = np.linalg.qr(RNG.normal(size=(6, 6)))[0]
CONTENT = RNG.normal(size=(6, 3))
SIZE = np.array([0.3, -0.4, 1.1])


def modes(*widths):
    edges = np.cumsum([0, *widths])
    return [Mode(5.0 - k, BASIS[:, a:b]) for k, (a, b) in enumerate(itertools.pairwise(edges))]


def test_of_columns_far_apart_volumes_grow_along_the_first_modes():
    """log of the j-th size: det of j columns along j modes, over that of j − 1."""
    after = turned(CONTENT, SIZE, np.arange(3), modes(1, 1, 1, 3))
    along = BASIS.T @ CONTENT
    minors = [np.linalg.slogdet(along[:j, :j])[1] for j in range(4)]
    np.testing.assert_allclose(after.size, SIZE + np.diff(minors), rtol=0, atol=1e-13)
    np.testing.assert_allclose(np.abs(after.direction.T @ BASIS[:, :3]), np.eye(3), atol=1e-13)
    np.testing.assert_array_equal(after.rate, [5.0, 4.0, 3.0])


def test_columns_of_one_level_are_told_apart_by_volumes_of_all_of_them():
    after = turned(CONTENT, SIZE, np.zeros(3, int), modes(1, 1, 1, 3))
    along = BASIS.T @ (CONTENT * np.exp(SIZE))
    volumes = [0.5 * np.linalg.slogdet(along[:j] @ along[:j].T)[1] for j in range(4)]
    np.testing.assert_allclose(after.size, np.diff(volumes), rtol=0, atol=1e-13)
    assert len(set(after.level.tolist())) == 3


@pytest.mark.parametrize("widths", [(3, 3), (1, 4, 1), (2, 4), (1, 1, 4)])
@pytest.mark.parametrize("level", [(0, 0, 0), (0, 1, 1), (0, 0, 1)])
def test_after_a_long_time_columns_are_where_the_exponential_has_them(widths, level):
    """Singular values of e^{Ht}C, of which e^{−2t} is left out; levels e^{−12} apart."""
    after = turned(CONTENT, SIZE, np.array(level), modes(*widths))
    rates = np.repeat(5.0 - np.arange(len(widths)), widths)
    t, start = 6.0, SIZE - 12.0 * np.array(level)
    grown = (BASIS * np.exp(rates * t)) @ BASIS.T @ (CONTENT * np.exp(start))
    logs = after.size + after.rate * t - 12.0 * np.array(level)
    sizes = np.log(np.linalg.svd(grown, compute_uv=False))
    np.testing.assert_allclose(np.sort(logs)[::-1], sizes, rtol=0, atol=np.exp(-t))
    np.testing.assert_allclose(after.direction.T @ after.direction, np.eye(3), atol=1e-12)


def test_equal_rates_are_one_mode_and_the_complement_is_orthonormal():
    found = alike(np.array([3.0, 2.0 + 1e-12, 2.0, 1.0]), BASIS[:, :4], 1e-8)
    assert [m.basis.shape[1] for m in found] == [1, 2, 1]
    rest = complement(BASIS[:, :4])
    np.testing.assert_allclose(rest.T @ rest, np.eye(2), atol=1e-14)
    np.testing.assert_allclose(BASIS[:, :4].T @ rest, 0.0, atol=1e-14)
