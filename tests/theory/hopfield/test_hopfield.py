"""Attention with a memory of its scores, against particles and full matrices."""

import numpy as np
import pytest
from reference_data import load
from scipy.integrate import solve_ivp

from theory import depth_collapse, hopfield

OPTIONS = dict(method="DOP853", rtol=1e-12, atol=1e-14)


def softmax(logits):
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("tau", [0.3, 2.0])
def test_particles_with_a_hidden_state(tau):
    n, beta, t = 5, 2.0, 1.5

    def field(_, y):
        x, h = y[: n * n].reshape(n, n), y[n * n :].reshape(n, n)
        y = softmax(h) @ x
        moved = y - np.sum(x * y, axis=1, keepdims=True) * x
        return np.concatenate([moved.ravel(), ((beta * x @ x.T - h) / tau).ravel()])

    start = np.concatenate([np.eye(n).ravel(), beta * np.eye(n).ravel()])
    y = solve_ivp(field, (0.0, t), start, **OPTIONS).y[:, -1]
    x, h = y[: n * n].reshape(n, n), y[n * n :].reshape(n, n)
    found = hopfield.overlap(n, beta, tau, t)
    np.testing.assert_allclose((x @ x.T)[np.triu_indices(n, 1)], found.gamma, rtol=1e-10)
    np.testing.assert_allclose(h[0, 0] - h[0, 1], found.delta, rtol=1e-10)


TIMES = {0.0: 2.762096361922, 0.1: 2.8279539751, 1.0: 3.2136023514, 10.0: 3.8799954949,
         100.0: 4.105084140603, np.inf: 4.1372563032}  # fmt: skip


@pytest.mark.parametrize("tau", list(TIMES))
def test_times_to_an_overlap(tau):
    assert hopfield.overlap(6, 2.0, tau, TIMES[tau]).gamma == pytest.approx(0.9, abs=3e-11)


def test_overlaps_at_many_digits():
    for tau, gamma, delta in load("depth")["relaxed"]:
        found = hopfield.overlap(6, 2.0, tau, 2.0)
        assert found.gamma == pytest.approx(float(gamma), rel=1e-11)
        assert found.delta == pytest.approx(float(delta), rel=1e-11)


def test_limits_of_the_memory():
    t = np.array([[0.0, 0.7], [3.0, np.inf]])
    fast = hopfield.overlap(6, 2.0, 1e-6, t)
    adiabatic = hopfield.overlap(6, 2.0, 0.0, t)
    assert fast.gamma.shape == (2, 2)
    np.testing.assert_allclose(fast.gamma, adiabatic.gamma, atol=2e-6)
    np.testing.assert_array_equal(adiabatic.gamma, depth_collapse.equal_overlap(6, 2.0, t))
    slow, frozen = (hopfield.overlap(6, 2.0, tau, t) for tau in (1e7, np.inf))
    np.testing.assert_allclose(slow.gamma, frozen.gamma, atol=1e-6)
    np.testing.assert_array_equal(frozen.gamma[[0, 1], [0, 1]], [0.0, 1.0])


@pytest.mark.parametrize("tau", [0.1, 3.0])
def test_the_final_rate_is_two(tau):
    late = np.array([0.0, 0.5]) + 9.0 + 5.0 * tau
    left = 1.0 - hopfield.overlap(6, 2.0, tau, late).gamma
    if tau > 1.0:  # the memory is not yet gone, 1 − γ is
        late = np.array([9.0, 9.5])
        run = hopfield.overlap(6, 2.0, tau, late)
        rate = 12.0 / (np.exp(run.delta) + 5.0)
        left = 1.0 - run.gamma
        assert -np.diff(np.log(left))[0] / 0.5 == pytest.approx(rate.mean(), rel=1e-2)
    else:
        assert -np.diff(np.log(left))[0] / 0.5 == pytest.approx(2.0, rel=1e-4)


def simplex_layers(n, beta, layers, kind, leak):
    """ln ρ from full matrices, while ρ is above rounding."""
    x = np.eye(n) - 1.0 / n
    h, found = beta * x @ x.T, [0.0]
    for _ in range(layers):
        x = softmax(h) @ x
        x = x - x.mean(axis=0)
        found.append(np.log(np.linalg.norm(x) / np.sqrt(n - 1)))
        fresh = beta * x @ x.T
        h = {"attention": fresh, "leaky": (1 - leak) * h + leak * fresh, "accumulated": h + fresh}[
            kind
        ]
    return found


@pytest.mark.parametrize(("kind", "layers"), [("attention", 2), ("leaky", 4), ("accumulated", 8)])
@pytest.mark.parametrize("leak", [0.5, 0.2])
def test_layers_are_those_of_full_matrices(kind, layers, leak):
    exact = simplex_layers(6, 4.0, layers, kind, leak)
    found = hopfield.layer_sizes(6, 4.0, layers, kind, leak)
    np.testing.assert_allclose(found, exact, rtol=1e-12, atol=1e-14)


def test_layers_at_many_digits():
    known = load("depth")
    for kind, beta in (("attention", 1.0), ("leaky", 4.0), ("accumulated", 1.0)):
        exact = np.array([float(x) for x in known[kind]])
        found = hopfield.layer_sizes(6, beta, len(exact) - 1, kind)
        np.testing.assert_allclose(found, exact, rtol=1e-13, atol=1e-15)


def test_three_laws():
    attention, leaky, accumulated = (
        hopfield.layer_sizes(6, 1.0, 6, kind) for kind in ("attention", "leaky", "accumulated")
    )
    np.testing.assert_allclose(attention[[1, 3, 6]], [-1.50226692357, -20.6380875294,
                               -580.521236393], rtol=1e-11)  # fmt: skip
    np.testing.assert_allclose(leaky[[3, 6]], [-6.81715614632, -20.286116758], rtol=1e-11)
    np.testing.assert_allclose(accumulated[[3, 6]], [-4.38439849325, -8.70215640219], rtol=1e-11)
    long = hopfield.layer_sizes(6, 4.0, 40, "leaky")
    assert long[40] == pytest.approx(-490.380678939, rel=1e-11)
    second = np.diff(long, 2)
    np.testing.assert_allclose(second[[10, 20, 38]], [-0.6966873262, -0.6931506471, -0.6931471806],
                               atol=5e-11)  # fmt: skip
    other = np.diff(hopfield.layer_sizes(6, 4.0, 200, "leaky", 0.2), 2)
    assert other[-1] == pytest.approx(np.log(0.8), rel=1e-9)
    ever = np.diff(hopfield.layer_sizes(6, 1.0, 60, "accumulated"))
    assert ever[-1] == pytest.approx(-1.43924880257, abs=5e-12)
    cubes = hopfield.layer_sizes(6, 1.0, 30)
    assert cubes[-1] / cubes[-2] == pytest.approx(3.0, rel=1e-10)
    assert hopfield.layer_sizes(6, 1.0, 700)[-1] == -np.inf


def test_what_does_not_fit_is_refused():
    for call, words in (
        (lambda: hopfield.overlap(6, 2.0, -1.0, 1.0), "relaxation = -1.0"),
        (lambda: hopfield.overlap(6, 2.0, 1.0, -1.0), "flow times"),
        (lambda: hopfield.overlap(1, 2.0, 1.0, 1.0), "tokens = 1"),
        (lambda: hopfield.layer_sizes(6, -1.0, 3), "beta = -1.0"),
        (lambda: hopfield.layer_sizes(6, 1.0, 3, "slow"), "kind = 'slow'"),
        (lambda: hopfield.layer_sizes(6, 1.0, 3, "leaky", 1.5), "leak = 1.5"),
        (lambda: hopfield.layer_sizes(6, 1.0, 2.5), "layers = 2.5"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
