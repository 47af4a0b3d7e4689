"""Modes, sigmoids of any depth, lazy to rich, symmetric factors, against their own flows."""

import itertools
import math

import jax
import mpmath as mp
import numpy as np
import pytest
from linear_networks import flow, orthogonal, simulated
from scipy.integrate import solve_ivp

from theory import exact_linear
from theory.exact_linear import aligned_start, balanced_start, orthogonal_start, two_layer

# ---- single modes ------------------------------------------------------------------------

SIGNS = [(0.1, 0.3, 2.0), (-0.4, 0.1, 2.0), (0.3, -0.3, 1.5), (0.2, 0.2, -1.0), (1.7, 0.9, 0.6),
         (0.5, 0.2, 0.0), (0.5, 0.5, 0.0), (0.0, 0.4, 1.0), (1e-9, 2e-9, 1.0)]  # fmt: skip


@pytest.mark.parametrize(("c", "d", "s"), SIGNS)
def test_aligned_mode(c, d, s):
    times = np.array([0.0, 0.1, 1.0, 3.0, 9.0])
    mode = exact_linear.aligned_mode(c, d, s, times)
    one = [np.array([[x]]) for x in (c, d)]
    rows = np.array([[x.item() for x in pair] for pair in flow(one, np.array([[s]]), times)])
    expected = np.stack([rows[:, 0] * rows[:, 1], *(rows.T**2)])
    np.testing.assert_allclose(mode, expected, rtol=0, atol=1e-10 * np.max(np.abs(expected)))
    gram = exact_linear.two_layer_gram(*one, [[s]], times)
    same = np.stack([x.ravel() for x in gram])[[0, 1, 2]]
    np.testing.assert_allclose(mode, same, rtol=0, atol=1e-13 * np.max(np.abs(expected)))
    assert mode.second - mode.first == pytest.approx(d**2 - c**2, abs=1e-14)
    end = exact_linear.aligned_mode(c, d, s, np.inf)
    blocked = abs(c) == abs(d) and c * d * s < 0
    assert end.product == pytest.approx(0.0 if blocked else s, abs=1e-14)
    late = exact_linear.aligned_mode(c, d, s, 1e6)
    assert late.product == pytest.approx(float(end.product), abs=1e-6)


def test_aligned_modes_broadcast():
    mode = exact_linear.aligned_mode(0.1, [[0.1], [0.4]], 1.0, [0.0, 1.0, np.inf])
    assert mode.product.shape == (2, 3)
    # λ = 0 is the sigmoid
    sigmoid = exact_linear.mode_strength(0.01, 1.0, [0.0, 1.0, np.inf])
    np.testing.assert_allclose(mode.product[0], sigmoid, rtol=1e-14)


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 6])
@pytest.mark.parametrize(("a0", "s"), [(1e-3, 2.0), (1e-9, 0.7), (1.9, 2.0), (5.0, 2.0)])
def test_sigmoids_of_any_depth(depth, a0, s):
    """Times by quadrature of dt = da/(L a^{2−2/L}(s − a)) at 30 digits, and their inverse."""
    for af in (0.6 * a0 + 0.4 * s, 0.01 * a0 + 0.99 * s, s * (1 + 1e-6 * (1 if a0 > s else -1))):
        if not min(a0, s) <= af <= max(a0, s):
            continue
        with mp.workdps(30):
            u, v = (mp.log(mp.mpf(x)) for x in (a0, af))
            power = 2 - mp.mpf(2) / depth

            def speed(y, power=power):
                return mp.exp((1 - power) * y) / (depth * (mp.mpf(s) - mp.exp(y)))

            # split near a = s, where the integrand has its pole just outside
            nodes = [u + (v - u) * (1 - mp.mpf(2) ** -k) for k in range(24)]
            time = float(mp.quad(speed, [*nodes, v]))
        found = exact_linear.mode_time(a0, af, s, depth)
        # the last gap |s − af| carries a relative rounding of 1e-16/1e-6
        assert found == pytest.approx(time, rel=1e-9 if abs(af / s - 1) < 1e-3 else 1e-13)
        back = exact_linear.mode_strength(a0, s, time, depth)
        speed_there = depth * af ** (2 - 2 / depth) * abs(s - af)
        assert back == pytest.approx(af, rel=1e-13, abs=8e-16 * time * speed_there + 1e-15)
    ends = exact_linear.mode_strength(a0, s, [0.0, np.inf], depth)
    np.testing.assert_allclose(ends, [a0, s], rtol=1e-15)
    assert exact_linear.mode_strength(0.0, s, 3.0, depth) == (
        pytest.approx(-s * np.expm1(-3.0)) if depth == 1 else 0.0
    )


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_aligned_starts_follow_the_sigmoids(depth):
    target = np.random.default_rng(10).standard_normal((3, 4))
    widths = (5, 3, 6)[: depth - 1]
    weights = aligned_start(target, [0.1, 0.05, 0.2], hidden=widths, key=jax.random.key(2))
    for below, above in itertools.pairwise(weights):
        np.testing.assert_allclose(above.T @ above, below @ below.T, atol=1e-15)
    times = np.array([0.0, 0.7, 2.0, 6.0])
    u, s, vt = np.linalg.svd(target, full_matrices=False)
    strengths = exact_linear.mode_strength([0.1, 0.05, 0.2], s, times[:, None], depth)
    exact = (u * strengths[:, None, :]) @ vt
    products = [np.linalg.multi_dot(layers[::-1]) for layers in flow(weights, target, times)]
    np.testing.assert_allclose(products, exact, rtol=0, atol=1e-9)


def test_staircase_of_modes():
    s, a0 = np.array([1.0, 4.0, 2.0]), 1e-8
    stages = exact_linear.mode_stages(s, a0)
    assert [stage.s for stage in stages] == [4.0, 2.0, 1.0]
    assert [stage.loss for stage in stages] == pytest.approx([2.5, 0.5, 0.0])
    assert [stage.rank for stage in stages] == [1, 2, 3]
    for stage in stages:
        assert stage.time == pytest.approx(math.log(stage.s / a0 - 1) / (2 * stage.s), rel=1e-14)
        # between stages the loss of the exact flow rests at the level
        strengths = exact_linear.mode_strength(a0, s, stage.time)
        assert np.any(np.isclose(strengths, 0.5 * s, rtol=1e-12))
    w = aligned_start(np.diag(s), a0, hidden=(3,), key=jax.random.key(0))
    for (low, high), level in zip(itertools.pairwise(stages), [2.5, 0.5], strict=True):
        # the learned mode has come within e^{−2s·Δ} of its end, the next is as far from half
        middle = (low.s * low.time + high.s * high.time) / (low.s + high.s)
        left = math.exp(-2 * high.s * (high.time - middle))
        loss = 0.5 * np.sum((np.diag(s) - two_layer(*w, np.diag(s), middle)) ** 2)
        assert loss == pytest.approx(level, abs=4 * high.s**2 * left)
        assert left < 0.02
    blocked = exact_linear.mode_stages([1.0, 2.0], [0.0, 0.1])
    assert [stage.s for stage in blocked] == [2.0]
    assert blocked[0].loss == 0.5


@pytest.mark.slow
def test_three_layers_by_gflow():
    target = np.random.default_rng(15).standard_normal((3, 3))
    weights = aligned_start(target, 1e-3, hidden=(4, 3), key=jax.random.key(4))
    run = simulated(weights, target, 20.0)
    u, s, vt = np.linalg.svd(target)
    exact = (u * exact_linear.mode_strength(1e-3, s, run.t[:, None], 3)[:, None, :]) @ vt
    assert np.max(np.abs(run.observables["product"] - exact)) < 1e-9 * s[0]


# ---- lazy to rich ------------------------------------------------------------------------


@pytest.mark.parametrize("gain", [1e-6, 0.1, 1.0, 30.0])
def test_lazy_to_rich(gain):
    target = np.random.default_rng(11).standard_normal((3, 4))
    w1, w2 = orthogonal_start((4, 8, 3), gain=gain, key=jax.random.key(3))
    np.testing.assert_allclose(w2 @ w1, 0.0, atol=1e-14 * gain)
    np.testing.assert_allclose(w1.T @ w1, gain * np.eye(4), atol=1e-13 * gain)
    np.testing.assert_allclose(w2 @ w2.T, gain * np.eye(3), atol=1e-13 * gain)
    times = np.linspace(0.0, 6.0 if gain < 1e-3 else 3.0 / max(1.0, gain), 7)
    exact = exact_linear.lazy_to_rich(target, gain, times)
    products = np.array([b @ a for a, b in flow([w1, w2], target, times)])
    np.testing.assert_allclose(products, exact, rtol=0, atol=2e-10 * np.max(np.abs(exact)))
    np.testing.assert_allclose(exact_linear.lazy_to_rich(target, gain, np.inf), target, atol=1e-14)


def test_lazy_to_rich_as_a_function_of_the_coupling():
    """W = (p(s) − p(−s))/2 with p(f) = f + ω(y + ω tanh ωt)/(ω + y tanh ωt), y = g − f."""
    for g in ("1e-30", "0.01", "2", "1e6"):
        for t in ("1e-8", "0.3", "4", "100"):
            with mp.workdps(120):
                s, gain, time = mp.mpf("1.5"), mp.mpf(g), mp.mpf(t)

                def p(f, gain=gain, time=time):
                    omega, y = mp.sqrt(f**2 + gain**2), gain - f
                    th = mp.tanh(omega * time)
                    return f + omega * (y + omega * th) / (omega + y * th)

                expected = float((p(s) - p(-s)) / 2)
            found = exact_linear.lazy_to_rich([[1.5]], float(g), float(t))
            assert found.item() == pytest.approx(expected, rel=1e-12), (g, t)
    # g → ∞: every mode relaxes at rate 2g
    lazy = exact_linear.lazy_to_rich([[1.5]], 1e6, 1e-6)
    assert lazy.item() == pytest.approx(-1.5 * math.expm1(-2.0), rel=1e-5)


# ---- symmetric factors -------------------------------------------------------------------


@pytest.mark.parametrize("rank", [1, 3, 4, 6])
def test_symmetric_factors(rank):
    rng = np.random.default_rng(12)
    turn = orthogonal(4, 4)
    m = turn @ np.diag([1.5, 0.4, 0.0, -0.8]) @ turn.T
    m = 0.5 * (m + m.T)
    x0 = 0.3 * rng.standard_normal((4, rank))
    times = np.array([0.0, 0.5, 2.0, 8.0])

    def field(t, y):
        x = y.reshape(4, rank)
        return ((m - x @ x.T) @ x).ravel()

    run = solve_ivp(field, (0, 8), x0.ravel(), "DOP853", times, rtol=1e-12, atol=1e-13)
    x = run.y.T.reshape(-1, 4, rank)
    exact = exact_linear.symmetric(x0, m, times)
    np.testing.assert_allclose(exact, x @ x.mT, rtol=0, atol=1e-10)
    # continuing from a square root of XXᵀ equals going straight
    root = np.linalg.cholesky(exact[1] + 0.0) if rank >= 4 else x[1]
    onward = exact_linear.symmetric(root, m, 1.5)
    np.testing.assert_allclose(onward, exact[2], rtol=0, atol=1e-10)
    if rank >= 2:
        end = exact_linear.symmetric(x0, m, np.inf)
        np.testing.assert_allclose(end, turn @ np.diag([1.5, 0.4, 0, 0]) @ turn.T, atol=1e-13)


@pytest.mark.parametrize("t", [8.0, 14.0, 20.0, 27.0, 60.0])
def test_components_of_very_different_sizes(t):
    """The fastest direction starts 1e-12 below the others: XXᵀ by its formula at 200 digits."""
    eigenvalues = [2.0, 1.0, 0.5]
    x0 = np.array([[5e-13, 1e-12, 3e-13], [0.1, 0.11, 0.3], [0.1, 0.1, 0.2]])
    with mp.workdps(200):
        time, start = mp.mpf(t), mp.matrix(x0.tolist())
        grown = mp.diag([mp.exp(m * time) for m in eigenvalues]) * start
        integral = mp.diag([mp.expm1(2 * m * time) / (2 * m) for m in eigenvalues])
        inverse = mp.inverse(mp.eye(3) + 2 * start.T * integral * start)
        expected = np.array((grown * inverse * grown.T).tolist(), float)
    found = exact_linear.symmetric(x0, np.diag(eigenvalues), t)
    assert np.max(np.abs(found - expected)) < 2e-14


def test_one_symmetric_eigenvalue():
    for m in (2.0, -0.5, 0.0):
        t, x0 = np.array([0.0, 0.3, 5.0, 400.0]), 0.7
        if m == 0.0:
            expected = x0**2 / (1 + 2 * x0**2 * t)
        else:
            decayed = np.exp(-2 * m * t) if m > 0 else 1.0
            growth = 1.0 if m > 0 else np.exp(2 * m * t)
            expected = m * growth * x0**2 / (m * decayed + x0**2 * (growth - decayed))
        found = exact_linear.symmetric([[x0]], [[m]], t).ravel()
        np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-300)


def test_schur_complement_has_a_flow_of_its_own():
    turn = orthogonal(5, 5)
    eigenvalues = np.array([2.0, 0.7, 0.0, 0.0, -0.6])
    m = turn @ np.diag(eigenvalues) @ turn.T
    m = 0.5 * (m + m.T)
    x0 = np.random.default_rng(13).standard_normal((5, 5))
    basis = np.linalg.eigh(m)[1][:, ::-1]
    times = np.array([0.0, 0.5, 2.0, 5.0])
    found = exact_linear.schur_complement(x0, m, times)
    whole = basis.T @ exact_linear.symmetric(x0, m, times) @ basis
    a, b, c = whole[:, :2, :2], whole[:, :2, 2:], whole[:, 2:, 2:]
    np.testing.assert_allclose(found, c - b.mT @ np.linalg.solve(a, b), rtol=0, atol=1e-11)
    # S' = −Λ₂S − SΛ₂ − 2S², on its own
    down = np.diag(-eigenvalues[2:])

    def field(t, y):
        s = y.reshape(3, 3)
        return (-down @ s - s @ down - 2 * s @ s).ravel()

    run = solve_ivp(field, (0, 5), found[0].ravel(), "DOP853", times, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(run.y.T.reshape(-1, 3, 3), found, rtol=0, atol=1e-11)
    late = exact_linear.schur_complement(x0, m, 1e5)
    np.testing.assert_allclose(late[:2, :2], np.eye(2) / 2e5, rtol=0, atol=1e-3 / 2e5)
    assert np.max(np.abs(late[2])) < 1e-50


# ---- errors ------------------------------------------------------------------------------

A, S = np.eye(2), np.diag([2.0, 1.0])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: balanced_start((3, 4, 2), balance=1.0, key=jax.random.key(0)), "h ≤ 2, or λ = 0"),
        (lambda: balanced_start((2, 4, 5), balance=-1.0, key=jax.random.key(0)), "more than i = 2"),
        (lambda: orthogonal_start((3, 4, 2), gain=1.0, key=jax.random.key(0)), "h ≥ i"),
        (lambda: aligned_start(S, 0.1, hidden=(1,), key=jax.random.key(0)), "at least that wide"),
        (lambda: exact_linear.mode_strength(-0.1, 1.0, 1.0), "aligned_mode"),
        (lambda: exact_linear.mode_strength(0.1, 1.0, 1.0, 0), "number of layers"),
        (lambda: exact_linear.mode_time(0.1, 2.0, 1.0), "never reached"),
        (lambda: exact_linear.lazy_to_rich(S, -1.0, 1.0), "g ≥ 0"),
        (lambda: exact_linear.symmetric(A, [[1.0, 2.0], [0.0, 1.0]], 1.0), "not symmetric"),
        (lambda: exact_linear.symmetric(np.ones((3, 1)), S, 1.0), r"\(3, 1\) and target \(2, 2\)"),
        (lambda: exact_linear.schur_complement([[1.0], [1.0]], S, 1.0), "rank 1"),
    ],
)
def test_other_errors(call, says):
    with pytest.raises(ValueError, match=says):
        call()
