"""Angles between singular subspaces: planes turned by known angles, and SciPy."""

import numpy as np
import pytest
from scipy import linalg

from gflow.observables import principal_angles

RNG = np.random.default_rng(7)


def planes(angles, n):
    """Bases of e_0, e_1, … and of the same turned by `angles` towards e_k, e_{k+1}, …"""
    k = len(angles)
    base, turned = np.eye(n)[:, :k], np.zeros((n, k))
    turned[range(k), range(k)] = np.cos(angles)
    turned[range(k, 2 * k), range(k)] = np.sin(angles)
    return base, turned


@pytest.mark.parametrize("left", [[0.3, 1.2], [1e-9, 0.7], [1e-13, 1e-5], [0.0, np.pi / 2]])
def test_planes_turned_by_known_angles(left):
    right = [0.2, np.pi / 2 - 1e-9]
    (u, u2), (v, v2) = planes(left, 5), planes(right, 4)
    mix = [RNG.normal(size=(2, 2)) for _ in range(2)]
    found = principal_angles(u @ mix[0] @ v.T, u2 @ mix[1] @ v2.T, 2)
    for angles, exact in zip(found, (left, right), strict=True):
        np.testing.assert_allclose(angles, exact, rtol=0, atol=2e-15)


def test_small_angles_keep_their_digits():
    u, u2 = planes([1e-12, 1e-10], 4)
    np.testing.assert_allclose(principal_angles(u, u2, 2)[0], [1e-12, 1e-10], rtol=1e-12)


@pytest.mark.parametrize("shape", [(7, 6), (6, 7), (6, 6)])
@pytest.mark.parametrize("rank", [1, 3])
def test_many_matrices_by_scipy(shape, rank):
    one, other = np.random.default_rng(0).normal(size=(2, 2, 3, *shape))
    left, right = principal_angles(one, other, rank)
    assert left.shape == right.shape == (2, 3, rank)
    for at in np.ndindex(2, 3):
        (u, _, vt), (u2, _, vt2) = (np.linalg.svd(x[at]) for x in (one, other))
        # SciPy loses digits near π/2, as 10⁻¹⁶ over the distance
        exact = linalg.subspace_angles(u[:, :rank], u2[:, :rank])[::-1]
        np.testing.assert_allclose(left[at], exact, rtol=0, atol=1e-12)
        exact = linalg.subspace_angles(vt[:rank].T, vt2[:rank].T)[::-1]
        np.testing.assert_allclose(right[at], exact, rtol=0, atol=1e-12)


def test_the_order_of_the_two_and_their_sizes_do_not_matter():
    one, other = RNG.normal(size=(2, 5, 4))
    for a, b in zip(principal_angles(one, other, 2), principal_angles(-1e-200 * other, one, 2),
                    strict=True):  # fmt: skip
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-14)


def test_a_matrix_of_lower_rank_has_no_such_span():
    one = np.outer(np.arange(1.0, 4.0), np.arange(2.0, 6.0))
    other = RNG.normal(size=(3, 4))
    stacked = principal_angles(np.stack([one, other]), np.stack([other, other]), 2)
    for angles in stacked:
        assert np.all(np.isnan(angles[0]))
        np.testing.assert_allclose(angles[1], 0.0, atol=1e-14)
    assert not np.any(np.isnan(principal_angles(one, other, 1)))
    assert np.all(np.isnan(principal_angles(0.0 * one, other, 1)))


@pytest.mark.parametrize(
    ("one", "other", "rank", "words"),
    [
        (np.ones((2, 3)), np.ones((3, 2)), 1, r"shapes \(2, 3\) and \(3, 2\)"),
        (np.ones(3), np.ones(3), 1, r"shapes \(3,\) and"),
        (np.ones((2, 3)), np.ones((2, 3)), 3, "have a rank of 2"),
        (np.ones((2, 3)), np.ones((2, 3)), 0, "rank = 0"),
    ],
)
def test_refusals(one, other, rank, words):
    with pytest.raises(ValueError, match=words):
        principal_angles(one, other, rank)
