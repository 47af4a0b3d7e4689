"""Singular vectors where many singular values are rounding, and divide and conquer fails."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_data

from gflow._svd import least_squares, svd, thin_svd

JACOBIAN = np.array(reference_data.load("jacobian")["matrix"])
#: Where its singular values end and rounding begins.
RANK, ROUNDING = 12, 1e-9


def _matrices():
    rng = np.random.default_rng(0)
    u, v = (np.linalg.qr(rng.standard_normal((n, n)))[0] for n in (9, 7))
    equal = u[:, :7] * np.array([2.0, 2.0, 2.0, 1.0, 1.0, 0.0, 0.0])
    yield JACOBIAN
    yield JACOBIAN.T
    yield equal @ v.T
    yield (equal @ v.T).T
    yield np.zeros((5, 3))
    yield from JACOBIAN + 1e-14 * rng.standard_normal((40, *JACOBIAN.shape))


MATRICES = list(_matrices())


def _holds(matrix, u, s, vt):
    k = len(s)
    np.testing.assert_allclose((u[:, :k] * s) @ vt[:k], matrix, atol=1e-14)
    np.testing.assert_allclose(u.T @ u, np.eye(u.shape[1]), atol=2e-14)
    np.testing.assert_allclose(vt @ vt.T, np.eye(len(vt)), atol=2e-14)
    assert np.all(np.diff(s) <= 0.0)


@pytest.mark.parametrize("full", [True, False])
def test_vectors_are_orthogonal_and_make_the_matrix(full):
    for matrix in MATRICES:
        u, s, vt = svd(matrix, full_matrices=full)
        m, n = matrix.shape
        assert (u.shape, vt.shape) == (
            ((m, m), (n, n)) if full else ((m, min(m, n)), (min(m, n), n))
        )
        _holds(matrix, u, s, vt)


def test_a_stack_is_one_after_the_other():
    stack = np.stack([JACOBIAN, JACOBIAN.T]).reshape(2, 1, 27, 27)
    found = svd(stack, full_matrices=False)
    assert [x.shape for x in found] == [(2, 1, 27, 27), (2, 1, 27), (2, 1, 27, 27)]
    for one, *parts in zip(stack[:, 0], *(x[:, 0] for x in found), strict=True):
        _holds(one, *parts)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_of_nothing(shape):
    u, s, vt = svd(np.zeros(shape))
    assert (u.shape, s.shape, vt.shape) == (shape[:1] * 2, (0,), shape[1:] * 2)
    for full in (True, False):
        parts = svd(np.zeros((2, *shape)), full)
        assert [x.shape for x in parts] == [
            x.shape for x in np.linalg.svd(np.zeros((2, *shape)), full)
        ]
    assert least_squares(np.zeros(shape), np.ones(shape[0])).shape == shape[1:]


def test_of_what_is_no_number():
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="infs or NaNs"):
            svd(np.full((3, 3), bad))
        with pytest.raises(ValueError, match="infs or NaNs"):
            least_squares(np.full((3, 3), bad), np.ones(3))


def test_traced_ones_are_the_same():
    traced = jax.jit(thin_svd)
    for matrix in MATRICES:
        _holds(matrix, *map(np.asarray, traced(jnp.asarray(matrix))))
    several = jax.jit(jax.vmap(thin_svd))(jnp.asarray(np.stack(MATRICES[-3:])))
    for matrix, *parts in zip(MATRICES[-3:], *map(np.asarray, several), strict=True):
        _holds(matrix, *parts)


def test_shortest_solution():
    """Of normal equations in the eigenvectors of AᵀA, which share no code with it."""
    rng = np.random.default_rng(1)
    for matrix in MATRICES[5:]:
        right = rng.standard_normal((27, 2))
        found = least_squares(matrix, right, rcond=ROUNDING)
        squares, v = np.linalg.eigh(matrix.T @ matrix)
        kept = v[:, -RANK:]
        expected = kept @ ((kept.T @ (matrix.T @ right)) / squares[-RANK:, None])
        np.testing.assert_allclose(found, expected, atol=1e-10)
        np.testing.assert_allclose(
            least_squares(matrix, right[:, 0], rcond=ROUNDING), found[:, 0], atol=1e-12
        )
    well = rng.standard_normal((6, 4))
    one_to_four = 1.0 + np.arange(4.0)
    np.testing.assert_allclose(least_squares(well, well @ one_to_four), one_to_four)


def test_no_matrix_at_all():
    for full in (True, False):
        nothing = np.zeros((0, 3, 2))
        expected = [x.shape for x in np.linalg.svd(nothing, full)]
        assert [x.shape for x in svd(nothing, full)] == expected
