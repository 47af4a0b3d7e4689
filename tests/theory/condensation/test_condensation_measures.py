"""Ranks, cosines and the signs of Assumption 1, against loops and closed cases."""

import numpy as np
import pytest

from theory.condensation._measures import (
    assumption_shares,
    effective_rank,
    ordered_cosines,
    relative_change,
    row_cosines,
    row_order,
    singular_vector_drift,
    spectral_gap,
    stable_rank,
)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def with_spectrum(sigma, shape, seed=0):
    m, n = shape
    u, v = (np.linalg.qr(normal(k, k, seed=seed + i))[0] for i, k in enumerate((m, n)))
    return u[:, : len(sigma)] * sigma @ v[:, : len(sigma)].T


def test_shares_of_assumption_1_pair_by_pair():
    a, b, c = normal(3, 5, seed=1), normal(3, 5, 5, seed=2), normal(3, 5, seed=3)
    found = assumption_shares(a, b, c)
    for t in range(3):
        single = [
            c[t, i] * (a[t] @ b[t, :, i]) > 0 and a[t, i] * (b[t, i] @ c[t]) > 0 for i in range(5)
        ]
        pairs = [
            (c[t, i] * b[t, :, i]) @ (c[t, j] * b[t, :, j]) > 0
            and (a[t, i] * b[t, i]) @ (a[t, j] * b[t, j]) > 0
            for i in range(5)
            for j in range(5)
        ]
        assert found.single[t] == np.mean(single)
        assert found.pairs[t] == np.mean(pairs)


def test_a_blown_up_start_obeys_assumption_1_and_its_mirror_does_not():
    """a = p, B = pqᵀ, c = q: all signs hold; with −q for c the product E is negative."""
    p, q = normal(6, seed=4), normal(6, seed=5)
    assert assumption_shares(p, np.outer(p, q), q) == (1.0, 1.0)
    assert assumption_shares(p, np.outer(p, q), -q).single == 0.0


def test_cosines_of_rows():
    w = normal(2, 4, 7)
    w[1, 2] = 0.0
    found = row_cosines(w)
    for t, i, j in np.ndindex(2, 4, 4):
        norms = np.linalg.norm(w[t, i]) * np.linalg.norm(w[t, j])
        assert abs(found[t, i, j] - (w[t, i] @ w[t, j] / norms if norms else 0.0)) < 1e-14


def test_condensed_rows_make_two_blocks():
    signs = np.array([1, -1, 1, 1, -1, 1, -1])
    w = np.outer(signs * np.linspace(1, 2, 7), normal(5))
    # of the larger block, positive comes last
    expected = np.where(np.arange(7) < 3, -1, 1)
    np.testing.assert_allclose(ordered_cosines(w), np.outer(expected, expected), atol=1e-12)
    np.testing.assert_array_equal(np.sort(row_order(normal(3, 6, 2)), axis=-1)[1], np.arange(6))
    noisy = w[None] + 0.3 * normal(2, 7, 5, seed=6)
    order = row_order(noisy)
    for t in range(2):
        np.testing.assert_allclose(
            ordered_cosines(noisy)[t], row_cosines(noisy)[t][np.ix_(order[t], order[t])]
        )


@pytest.mark.parametrize("shape", [(5, 5), (7, 4), (4, 6)])
def test_ranks_of_equal_and_of_unequal_singular_values(shape):
    np.testing.assert_allclose(effective_rank(with_spectrum(np.ones(4), shape)), 4.0)
    np.testing.assert_allclose(stable_rank(with_spectrum(np.ones(4), shape)), 4.0)
    w = with_spectrum(np.array([3.0, 1.0]), shape)
    # p = (¾, ¼): exp of its entropy is 4/3^¾
    np.testing.assert_allclose(effective_rank(w), 4 / 3**0.75)
    np.testing.assert_allclose(stable_rank(1e-200 * w), 10 / 9)
    np.testing.assert_allclose(spectral_gap(w), 2 / 3)
    np.testing.assert_allclose(effective_rank(np.outer(normal(4), normal(3))), 1.0)


def test_gap_of_rank_one_and_of_a_tie():
    np.testing.assert_allclose(spectral_gap(np.outer(normal(4), normal(3))), 1.0)
    np.testing.assert_allclose(spectral_gap(np.eye(3)), 0.0, atol=1e-15)
    assert spectral_gap(normal(5, 4, 1)).shape == (5,)


def test_relative_change_of_exponential_growth():
    t = np.array([0.0, 0.5, 2.0])
    w = np.exp(t)[:, None, None] * normal(3, 2)
    np.testing.assert_allclose(relative_change(w), np.expm1([0.5, 1.5]))
    np.testing.assert_allclose(relative_change(w, t), np.expm1([0.5, 1.5]) / [0.5, 1.5])


def test_drift_is_the_cosine_of_the_turn():
    """Left singular vectors turn by 0.3 in a plane; signs of SVDs do not matter."""
    u, v = np.linalg.qr(normal(3, 3))[0], np.linalg.qr(normal(4, 4, seed=1))[0][:, :3]
    turn = np.array([[np.cos(0.3), -np.sin(0.3), 0], [np.sin(0.3), np.cos(0.3), 0], [0, 0, 1]])
    sigma = np.diag([3.0, 2.0, 1.0])
    w = np.stack([u @ sigma @ v.T, u @ turn @ sigma @ v.T, -u @ turn @ sigma @ v.T])
    found = singular_vector_drift(w)
    np.testing.assert_allclose(found.left, [(2 * np.cos(0.3) + 1) / 3, 1.0])
    np.testing.assert_allclose(found.right, [1.0, 1.0])
    np.testing.assert_allclose(singular_vector_drift(w, top=1).left, [np.cos(0.3), 1.0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: assumption_shares(np.ones(2), np.ones((2, 3)), np.ones(3)), "W1 is square"),
        (lambda: row_cosines(np.ones(3)), r"matrices \(\.\.\., m, n\)"),
        (lambda: effective_rank(np.zeros((2, 2))), "W is zero"),
        (lambda: stable_rank(np.ones((2, 2), np.float32)), "float64"),
        (lambda: relative_change(np.ones((1, 2))), "two or more"),
        (lambda: relative_change(np.zeros((2, 2))), "record 0"),
        (lambda: relative_change(np.ones((2, 2)), [1.0, 1.0]), "increasing"),
        (lambda: singular_vector_drift(np.ones((2, 2))), "two or more records"),
        (lambda: singular_vector_drift(np.ones((2, 2, 3)), top=3), "from 1 to 2"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
