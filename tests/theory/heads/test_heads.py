"""Ambiguity of heads by the rank of the whole map, shares against flows by SciPy."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from theory import heads

U, V, SIGMA = np.array([0.6, 0.8, 0.0]), np.array([0.0, 0.6, -0.8, 0.0]), 2.0


def draw(count=3, rank=2, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, 3, rank)), rng.normal(size=(count, 4, rank))


def flow(a, b, target, t, decay=0.0):
    """W_h(t) of heads that sum to W, under ½‖W − target‖² + (λ/2)‖factors‖²."""
    sizes = a.size

    def field(_, y):
        a_, b_ = y[:sizes].reshape(a.shape), y[sizes:].reshape(b.shape)
        force = target - np.einsum("hmr,hnr->mn", a_, b_)
        return np.concatenate(
            [
                (np.einsum("mn,hnr->hmr", force, b_) - decay * a_).ravel(),
                (np.einsum("mn,hmr->hnr", force, a_) - decay * b_).ravel(),
            ]
        )

    start = np.concatenate([a.ravel(), b.ravel()])
    y = solve_ivp(field, (0.0, t), start, method="DOP853", rtol=1e-11, atol=1e-18).y[:, -1]
    return np.einsum("hmr,hnr->hmn", y[:sizes].reshape(a.shape), y[sizes:].reshape(b.shape))


@pytest.mark.parametrize(("columns", "rank", "dimension"), [(6, 6, 0), (4, 4, 10), (6, 2, 20)])
def test_the_ambiguity_is_that_of_the_map_from_contents_to_the_sum(columns, rank, dimension):
    rng = np.random.default_rng(1)
    output = rng.normal(size=(6, rank)) @ rng.normal(size=(rank, columns))
    whole = np.kron(np.eye(5), output.T)  # vec of C W_O, row by row
    assert whole.shape[1] - np.linalg.matrix_rank(whole) == dimension
    assert heads.ambiguity(5, 2, output) == dimension
    assert heads.ambiguity(tokens=1, head_width=3, output=output) == dimension // 5


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_the_split_between_heads_is_that_of_the_start(decay):
    a, b = draw()
    target = SIGMA * np.outer(U, V)
    found = heads.shares(a, b, -target)
    assert np.sum(found) == pytest.approx(1.0, abs=1e-15)
    assert np.ptp(found) > 0.1
    resting = SIGMA - decay
    in_mode, beside = [], []
    alphas = np.array([1e-2, 1e-3, 1e-4])
    for alpha in alphas:
        weights = flow(alpha * a, alpha * b, target, 25.0, decay)
        parts = np.einsum("hmn,m,n->h", weights, U, V)
        in_mode.append(np.max(np.abs(parts / resting - found)))
        beside.append(np.max(np.abs(weights - parts[:, None, None] * np.outer(U, V))))
    # what a head has of the mode is known to α², and beside it every head keeps O(α)
    assert np.all(np.array(in_mode) < alphas**2)
    if decay == 0.0:
        order = in_mode / (alphas**2 * -np.log(alphas))
        np.testing.assert_allclose(order, order[-1], rtol=0.01)
        np.testing.assert_allclose(np.divide(beside[1:], beside[:-1]), 0.1, rtol=0.01)
    # a target of the other sign takes other parts
    assert np.max(np.abs(heads.shares(a, b, target) - found)) > 0.05


def test_shares_know_no_scale_and_no_gauge():
    a, b = draw()
    gradient = np.random.default_rng(4).normal(size=(3, 4))
    found = heads.shares(a, b, gradient)
    np.testing.assert_allclose(heads.shares(1e-200 * a, 1e-200 * b, 7 * gradient), found)
    turn = np.linalg.qr(np.random.default_rng(5).normal(size=(2, 2)))[0]
    np.testing.assert_allclose(heads.shares(a @ turn, b @ turn, gradient), found)
    order = [2, 0, 1]
    np.testing.assert_allclose(heads.shares(a[order], b[order], gradient), found[order])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: heads.ambiguity(0, 2, np.eye(4)), "tokens = 0"),
        (lambda: heads.ambiguity(5, 3, np.eye(4)), r"a matrix \(H·3, d\)"),
        (lambda: heads.shares(*draw(), np.eye(3)), r"they are \(heads, m, r\)"),
        (lambda: heads.shares(draw()[0], draw(2)[1], np.ones((3, 4))), r"\(heads, n, r\)"),
        (lambda: heads.shares(*draw(), np.zeros((3, 4))), "gradient is zero"),
        (lambda: heads.shares(*draw(), np.eye(3, 4)), "depends on the start"),
        (lambda: heads.shares(np.zeros((2, 3, 1)), np.zeros((2, 4, 1)), np.ones((3, 4))), "no par"),
    ],
)
def test_bad_input_is_a_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()
