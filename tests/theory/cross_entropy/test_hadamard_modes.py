"""Modes of a Hadamard start against the flow of the matrices, the equiangular law and limits."""

import jax
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.special import logsumexp, softmax

from theory import cross_entropy

MODES = np.array([0.4, 0.1, 0.7, 0.05, 0.3, 0.0, 0.2, 0.15])


def full_flow(w1, w2, t, decay=0.0):
    """W₂W₁ by SciPy, of both matrices, written without any basis."""
    k, size = len(w2), w1.size

    def velocity(_, y):
        a, b = y[:size].reshape(w1.shape), y[size:].reshape(w2.shape)
        force = (np.eye(k) - softmax(b @ a, axis=0)) / k
        return np.concatenate([(b.T @ force).ravel(), (force @ a.T).ravel()]) - decay * y

    start = np.concatenate([w1.ravel(), w2.ravel()])
    y = solve_ivp(velocity, (0, t[-1]), start, "DOP853", t_eval=t, rtol=1e-12, atol=1e-14).y.T
    return np.stack([x[size:].reshape(w2.shape) @ x[:size].reshape(w1.shape) for x in y])


@pytest.mark.parametrize("decay", [0.0, 0.03])
@pytest.mark.parametrize(("modes", "hidden"), [(MODES, 9), (MODES[:4], 4), (MODES[1:3], 2)])
def test_modes_are_the_flow_of_the_matrices(modes, hidden, decay):
    t = np.array([0.0, 1.0, 8.0, 60.0])
    w1, w2 = cross_entropy.hadamard_start(modes, hidden, key=jax.random.key(0))
    exact = full_flow(w1, w2, t, decay)
    found = cross_entropy.hadamard_modes(modes, t, decay)
    np.testing.assert_allclose(cross_entropy.hadamard_logits(found), exact, rtol=0, atol=1e-10)
    k = len(modes)
    loss = np.mean(
        logsumexp(exact, axis=1) - np.trace(exact, axis1=1, axis2=2)[:, None] / k, axis=1
    )
    np.testing.assert_allclose(cross_entropy.hadamard_loss(found), loss, rtol=1e-9)


@pytest.mark.parametrize("classes", [3, 6])
def test_the_equiangular_start_is_the_flow_of_the_matrices(classes):
    t = np.array([0.0, 1.0, 8.0, 60.0])
    w1, w2 = cross_entropy.etf_start(classes, 0.05, classes + 1, key=jax.random.key(1))
    np.testing.assert_allclose(w2.T @ w2, w1 @ w1.T, atol=1e-16)
    a = cross_entropy.etf_logit(classes, 0.05, t)
    simplex = np.eye(classes) - 1 / classes
    np.testing.assert_allclose(full_flow(w1, w2, t), a[:, None, None] * simplex, rtol=0, atol=3e-11)


@pytest.mark.parametrize("start", [1e-200, 0.05])
def test_equal_modes_are_the_equiangular_logit(start):
    t = np.array([[0.0, 3.0], [1e4, 3e3], [1e100, 1e300]])
    found = cross_entropy.hadamard_modes([0.2, *[start] * 7], t)
    assert found.shape == (3, 2, 8)
    np.testing.assert_allclose(found[..., 0], 0.2, rtol=1e-15)
    exact = cross_entropy.etf_logit(8, start, t)
    np.testing.assert_allclose(found[..., 1:], exact[..., None] * np.ones(7), rtol=3e-11)
    loss = cross_entropy.hadamard_loss(np.append(0.2, np.full(7, 5.0)))
    assert loss == pytest.approx(float(cross_entropy.etf_loss(8, 5.0)), rel=1e-14)


def test_rest_under_decay():
    end = cross_entropy.hadamard_modes([0.5, 1e-9, 0.3, 2.0], 1e5, decay=0.1)
    np.testing.assert_allclose(end, [0, *[cross_entropy.etf_rest(4, 0.1)] * 3], rtol=1e-10)
    gone = cross_entropy.hadamard_modes([0.5, 0.1, 0.3, 2.0], 400.0, decay=0.3)
    assert np.all(gone < 1e-15)
    first = cross_entropy.hadamard_modes([0.5, 0.1, 0.3, 2.0], [1.0, 2.0], decay=0.3)[:, 0]
    np.testing.assert_allclose(first, 0.5 * np.exp([-0.6, -1.2]), rtol=1e-14)


def test_losses_that_vanish():
    modes = np.array([0.0, 700.0, 650.0, 680.0])
    # pairs of rows of H: w_j − w_0 = −(a_k + a_l)/2
    exact = np.exp(-675.0) + np.exp(-690.0) + np.exp(-665.0)
    assert cross_entropy.hadamard_loss(modes) == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: cross_entropy.hadamard_modes(np.ones(12), 1.0), "equiangular start.*etf_logit"),
        (lambda: cross_entropy.hadamard_modes(np.ones(1), 1.0), "K = 2, 4, 8"),
        (lambda: cross_entropy.hadamard_modes([0.1, -0.1], 1.0), "a ≥ 0"),
        (lambda: cross_entropy.hadamard_modes(np.ones((2, 2)), 1.0), "one start"),
        (lambda: cross_entropy.hadamard_modes([0.1, 0.1], np.inf), "grow as log t"),
        (lambda: cross_entropy.hadamard_modes([0.1, 0.1], 1.0, decay=-1.0), "decay = -1"),
        (lambda: cross_entropy.hadamard_start(MODES, 6, key=jax.random.key(0)), "7 modes need"),
        (lambda: cross_entropy.hadamard_start(np.ones(3), 6, key=jax.random.key(0)), "etf_logit"),
        (lambda: cross_entropy.etf_start(5, 0.1, 3, key=jax.random.key(0)), "4 modes need"),
        (lambda: cross_entropy.etf_start(5, -0.1, 4, key=jax.random.key(0)), "size = -0.1"),
    ],
)
def test_refusals(call, words):
    with pytest.raises(ValueError, match=words):
        call()
