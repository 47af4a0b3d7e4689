"""Measures of collapse: zero at collapse, known values beside it, and what they do not see."""

import math

import jax
import numpy as np
import pytest

from theory import cross_entropy

LABELS = np.array([0, 1, 2, 2, 1, 0, 0, 1, 2, 2, 1, 0])
SIMPLEX = np.eye(3) - 1 / 3


def features(spread=0.0, seed=0):
    """A simplex in 5 dimensions, turned, moved, with classes of a spread."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(5, 3)))[0]
    return 2.5 * SIMPLEX[LABELS] @ turn.T + rng.normal(size=5) + spread * rng.normal(size=(12, 5))


def test_collapse():
    h = features()
    means = np.stack([h[c == LABELS].mean(axis=0) for c in range(3)])
    weights = 7.0 * (means - means.mean(axis=0))
    assert cross_entropy.within_class(h, LABELS) < 1e-28
    assert cross_entropy.equinorm(h, LABELS) < 1e-14
    assert cross_entropy.equiangle(h, LABELS) < 1e-14
    assert cross_entropy.self_duality(h, LABELS, weights) < 1e-14
    assert cross_entropy.self_duality(h, LABELS, -weights) == pytest.approx(2.0)


def test_scatter_as_it_is_written():
    h = features(0.4)
    means = np.stack([h[c == LABELS].mean(axis=0) for c in range(3)])
    inside = sum(np.outer(x - means[c], x - means[c]) for x, c in zip(h, LABELS, strict=True)) / 12
    between = sum(np.outer(m, m) for m in means - means.mean(axis=0)) / 3
    exact = np.trace(inside @ np.linalg.pinv(between, rcond=1e-10)) / 3
    assert cross_entropy.within_class(h, LABELS) == pytest.approx(exact, rel=1e-10)
    moved = 1e9 * (h + 3.0)
    assert cross_entropy.within_class(moved, LABELS) == pytest.approx(exact, rel=1e-9)
    both = cross_entropy.within_class(np.stack([h, features(0.4, 1)]), LABELS)
    assert both.shape == (2,)
    assert both[0] == pytest.approx(exact, rel=1e-10)


def test_known_values():
    # classes at 0 ± 1 (spread s) on a line: Σ_W = s², Σ_B = 1, K = 2
    h = np.array([[1.2], [0.8], [-1.2], [-0.8]])
    assert cross_entropy.within_class(h, [0, 0, 1, 1]) == pytest.approx(0.04 / 2)
    # three means on a line, at −1, 0 + δ … : lengths 1, 2, 1 about their mean
    lengths = np.array([[-1.0, 0.0], [2.0, 0.0], [-1.0, 0.0]])
    assert cross_entropy.equinorm(lengths, [0, 1, 2]) == pytest.approx(math.sqrt(2 / 9) / (4 / 3))
    # cosines −1, 1, −1 against −1/2
    assert cross_entropy.equiangle(lengths, [0, 1, 2]) == pytest.approx((0.5 + 1.5 + 0.5) / 3)
    w = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    unit = lengths / math.sqrt(6)
    assert cross_entropy.self_duality(lengths, [0, 1, 2], w) == pytest.approx(
        math.sqrt(2 - 2 * unit[0, 0])
    )


def test_the_equiangular_flow_is_collapsed_all_along():
    """One-hot inputs: features are the columns of W₁, their classifier W₂."""
    w1, w2 = cross_entropy.etf_start(4, 1e-100, 6, key=jax.random.key(0))
    assert cross_entropy.equinorm(w1.T, np.arange(4)) < 1e-14
    assert cross_entropy.equiangle(w1.T, np.arange(4)) < 1e-13
    assert cross_entropy.self_duality(w1.T, np.arange(4), w2) < 1e-13


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: cross_entropy.within_class(np.ones((3, 2)), [0, 1, 2]), "means agree"),
        (lambda: cross_entropy.within_class(np.eye(3), [0, 1]), r"labels \(2,\)"),
        (lambda: cross_entropy.within_class(np.eye(3), [1, 2, 3]), "classes"),
        (lambda: cross_entropy.equinorm(np.eye(3), [0, 0, 0]), "two classes or"),
        (lambda: cross_entropy.equiangle([[-1.0], [0.0], [1.0]], [0, 1, 2]), "no angle"),
        (lambda: cross_entropy.self_duality(np.eye(3), [0, 1, 2], np.eye(2)), "give"),
        (lambda: cross_entropy.self_duality(np.eye(3), [0, 1, 2], np.zeros((3, 3))), "vanish"),
    ],
)
def test_refusals(call, words):
    with pytest.raises(ValueError, match=words):
        call()
