"""Closed forms of collapse over layers against sampled layers, derivatives and token flows."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference_data import load
from scipy.integrate import solve_ivp

from theory import depth_collapse as depth

OPTIONS = dict(method="DOP853", rtol=1e-12, atol=1e-14)


# --- uniform attention with residuals -------------------------------------------------------


def sampled(layers, n, d, alpha1, alpha2, draws, rng):
    """Mean and standard error of ‖1ᵀX‖² and ‖X‖² after uniform attention and orthogonal FF."""
    totals, sizes = np.zeros((2, draws))
    for k in range(draws):
        x = np.linalg.qr(rng.normal(size=(d, n)))[0].T
        for _ in range(layers):
            x = x + alpha1 * np.mean(x, axis=0) @ rng.normal(size=(d, d)) / math.sqrt(d)
            x = x + alpha2 * x @ rng.normal(size=(d, d)) / math.sqrt(d)
        totals[k], sizes[k] = np.sum(np.sum(x, axis=0) ** 2), np.sum(x**2)
    return totals, sizes


@pytest.mark.parametrize("alpha1", [1.0, 1 / math.sqrt(6)])
def test_norms_and_correlation_of_random_layers(alpha1):
    layers, n, d = 6, 5, 24
    totals, sizes = sampled(layers, n, d, alpha1, 0.7, 2000, np.random.default_rng(0))
    expected = depth.norms(layers, n, alpha1, 0.7, float(n), float(n))
    for found, exact in ((totals, expected.total), (sizes, expected.size)):
        error = np.std(found) / math.sqrt(len(found))
        assert abs(np.mean(found) - exact) < 3.5 * error
        assert error < 0.03 * exact
    rho = (expected.total - expected.size) / ((n - 1) * expected.size)
    assert depth.correlation(layers, n, alpha1) == pytest.approx(float(rho), rel=1e-13)


def test_norms_iterate_their_recursion():
    c, size, n, a, b = 3.0, 2.0, 4, 1.0 + 0.3**2, 1.0 + 0.5**2
    for k in range(1, 8):
        c, size = a * b * c, b * (size + 0.3**2 * c / n)
        found = depth.norms(k, n, 0.3, 0.5, 3.0, 2.0)
        np.testing.assert_allclose([found.total, found.size], [c, size], rtol=1e-13)


def test_correlation_at_any_depth():
    n = 16
    assert 1.0 - depth.correlation(30, n, 1.0) == pytest.approx(n * 2.0**-30, rel=1e-6)
    assert depth.correlation(10**6, n, 1.0) == 1.0  # no overflow
    limit = (math.e - 1.0) / (math.e + n - 1.0)
    assert depth.correlation(10**8, n, 1e-4) == pytest.approx(limit, rel=1e-7)
    assert depth.correlation(0, n, 1.0) == 0.0
    assert depth.correlation([1, 2], [[3], [4]], 0.5).shape == (2, 2)


def heads(seed, n=5, d=4, width=3):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), *(rng.normal(size=(d, k)) for k in (width, width + 1))


def attention(wq, wk, wv, x):
    return jax.nn.softmax(x @ wq @ wk.T @ x.T / math.sqrt(wk.shape[1])) @ x @ wv


def squared_jacobian(which, *arguments):
    return float(jnp.sum(jax.jacobian(attention, which)(*map(jnp.asarray, arguments)) ** 2))


def test_gradients_of_one_draw():
    x, wk, wv = heads(0)
    wq = np.zeros_like(wk)
    found = squared_jacobian(0, wq, wk, wv, x)
    assert depth.query_gradient(x, wk, wv, 3) == pytest.approx(found, rel=1e-12)
    assert squared_jacobian(1, wq, wk, wv, x) == 0.0  # keys, at queries of zero
    found = squared_jacobian(2, wq, wk, wv, x)
    assert depth.value_gradient(x, 4) == pytest.approx(found, rel=1e-12)


def test_equal_tokens_have_no_gradient_of_queries_and_keys():
    x, wk, wv = heads(1)
    same = np.tile(x[:1], (5, 1))
    assert depth.query_gradient(same, wk, wv, 3) < 1e-28
    wq = heads(2)[1]
    for which in (0, 1):
        assert squared_jacobian(which, wq, wk, wv, same) < 1e-26
    assert squared_jacobian(2, wq, wk, wv, same) == pytest.approx(
        depth.value_gradient(same, 4), rel=1e-12
    )
    assert depth.value_gradient(same, 4) > 1.0


def test_gradient_over_random_weights():
    x = heads(3)[0]
    rng = np.random.default_rng(4)
    draws = np.array([
        depth.query_gradient(x, rng.normal(size=(4, 3)), rng.normal(size=(4, 2)), 3)
        for _ in range(4000)
    ])  # fmt: skip
    sigma = x.T @ x - 5 * np.outer(x.mean(0), x.mean(0))
    exact = 2.0 / 25.0 * np.sum(x**2) * np.sum(sigma**2)  # σ_k = σ_v = 1, d_v = 2, n = 5
    assert abs(np.mean(draws) - exact) < 3.5 * np.std(draws) / math.sqrt(4000)


# --- pure attention -------------------------------------------------------------------------


def residual(x):
    return x - np.mean(x, axis=0)


def softmax(logits):
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def test_the_cubic_law_and_its_constant():
    rng = np.random.default_rng(5)
    mean, r = rng.normal(size=4), residual(rng.normal(size=(6, 4)))
    qk, wv = rng.normal(size=(2, 4, 4))
    misses = []
    for size in (1e-1, 1e-2, 1e-3):
        x = mean + size * r
        found = residual(softmax(0.5 * x @ qk @ x.T) @ x @ wv)
        law = depth.cubic_residual(x, qk, wv, 0.5)
        misses.append(np.linalg.norm(found - law) / np.linalg.norm(law))
    assert misses[2] < 0.02
    assert math.log10(misses[1] / misses[2]) == pytest.approx(1.0, abs=0.1)


def test_the_bound_holds_and_is_loose():
    rng = np.random.default_rng(6)

    def norm(x):
        return math.sqrt(np.abs(x).sum(axis=0).max() * np.abs(x).sum(axis=1).max())

    x = 0.1 * rng.normal(size=(5, 4)) + rng.normal(size=4)
    qk, wv = 0.3 * rng.normal(size=(2, 4, 4))
    beta = np.abs(qk).sum(axis=0).max() * norm(wv)
    before = norm(residual(x))
    for layer in (1, 2):
        x = softmax(x @ qk @ x.T / 2.0) @ x @ wv
        bound = float(depth.log_residual_bound(layer, beta, 1, 4, before))
        assert math.log(norm(residual(x))) < bound - 2.0


# --- tokens on the sphere -------------------------------------------------------------------


def particles(x, beta, t, kind):
    """SA and USA by SciPy, as they are written."""
    n, d = x.shape

    def field(_, y):
        x = y.reshape(n, d)
        logits = beta * x @ x.T
        y = (softmax(logits) if kind == "softmax" else np.exp(logits) / n) @ x
        return (y - np.sum(x * y, axis=1, keepdims=True) * x).ravel()

    return solve_ivp(field, (0.0, t), x.ravel(), **OPTIONS).y[:, -1].reshape(n, d)


def attention_residual(x, qk, wv, scale):
    """‖res‖ after attention of all heads, in plain floats."""
    out = 0.0
    for w, v in zip(qk, wv, strict=True):
        a = np.exp(scale * x @ w @ x.T)
        out = out + a / a.sum(axis=1, keepdims=True) @ x @ v
    return np.linalg.norm(out - out.mean(axis=0))


@pytest.mark.parametrize("size", [0.3, 0.1, 0.03])
def test_the_cubic_bound_holds_wherever_logits_are_near(size):
    rng = np.random.default_rng(5)
    held = 0
    for _ in range(200):
        qk, wv = rng.normal(size=(2, 2, 4, 4))
        r = size * rng.normal(size=(6, 4))
        r = r - r.mean(axis=0)
        logits = 0.5 * np.einsum("id,hde,je->hij", r, qk, r)
        if np.max(np.ptp(logits, axis=-1)) > 1.256:
            continue
        held += 1
        after = attention_residual(rng.normal(size=4) + r, qk, wv, 0.5)
        bound = depth.log_cubic_factor(qk, wv, 0.5) + 3.0 * np.log(np.linalg.norm(r))
        assert np.log(after) < bound
    assert held > 50


def test_the_cubic_bound_has_the_right_size():
    """Two tokens ±r, W_QK = W_V = 1: R' = tanh(scale·r²)R, and 4·scale·‖R‖³ = 8·scale·r²‖R‖."""
    r = np.array([[0.01], [-0.01]])
    one = np.ones((1, 1, 1))
    bound = np.exp(depth.log_cubic_factor(one, one, 0.7) + 3.0 * np.log(np.linalg.norm(r)))
    assert bound / attention_residual(r, one, one, 0.7) == pytest.approx(8.0, rel=1e-3)
    both = depth.log_cubic_factor(np.ones((2, 1, 1)), np.ones((2, 1, 1)), 0.7)
    assert both == pytest.approx(depth.log_cubic_factor(one[0], one[0], 0.7) + math.log(2.0))


@pytest.mark.parametrize("kind", ["softmax", "unnormalised"])
@pytest.mark.parametrize(("n", "beta", "t"), [(6, 2.0, 1.4), (3, 0.0, 0.8), (4, -1.5, 1.0)])
def test_equal_overlap_is_that_of_particles(kind, n, beta, t):
    x = particles(np.eye(n), beta, t, kind)
    overlaps = (x @ x.T)[np.triu_indices(n, 1)]
    np.testing.assert_allclose(overlaps, depth.equal_overlap(n, beta, t, kind), rtol=1e-10)


def test_overlap_times_to_the_digits_of_a_float():
    for n, beta, kind, level, t in load("depth")["overlap_times"]:
        found = float(depth.overlap_time(n, beta, level, kind))
        assert found == pytest.approx(float(t), rel=2e-14), (n, beta, kind, level)
        if beta < 20.0:
            assert depth.equal_overlap(n, beta, found, kind) == pytest.approx(level, rel=1e-13)


def test_numbers_of_the_overlap():
    assert depth.overlap_time(6, 2.0, 0.9) == pytest.approx(2.762096361922, abs=5e-13)
    assert depth.overlap_time(5, 6.0, 0.9) == pytest.approx(28.1140, abs=5e-5)
    assert depth.equal_overlap(7, 0.0, 1.3) == pytest.approx(0.640356852964, abs=5e-13)
    assert np.all(depth.equal_overlap(6, 2.0, [0.0, np.inf]) == [0.0, 1.0])
    assert depth.overlap_time(6, 2.0, 1.0) == np.inf


def test_at_beta_zero_it_is_the_correlation_of_layers():
    layers, n, alpha = 7, 9, 0.8
    t = 0.5 * layers * math.log1p(alpha**2)
    found = depth.equal_overlap(n, 0.0, t)
    assert found == pytest.approx(float(depth.correlation(layers, n, alpha)), rel=1e-14)


@pytest.mark.parametrize("kind", ["softmax", "unnormalised"])
def test_the_final_rate(kind):
    rate = depth.final_rate(1.3, kind)
    late = np.array([17.0, 18.0]) / rate
    left = np.log(1.0 - depth.equal_overlap(6, 1.3, late, kind))
    assert -np.diff(left)[0] / np.diff(late)[0] == pytest.approx(float(rate), rel=1e-3)


@pytest.mark.parametrize("kind", ["softmax", "unnormalised"])
def test_attention_climbs_its_energy(kind):
    rng = np.random.default_rng(7)
    x, beta = rng.normal(size=(5, 3)), 1.7
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    velocity = depth.token_velocity(x, beta, kind)
    weights = softmax(beta * x @ x.T) if kind == "softmax" else np.exp(beta * x @ x.T) / 5.0
    y = weights @ x
    np.testing.assert_allclose(velocity, y - np.sum(x * y, 1, keepdims=True) * x, atol=1e-14)
    h = 1e-5
    there = [depth.energy(particles(x, beta, t, kind), beta) for t in (h, 2 * h)]
    slope = (4 * there[0] - 3 * depth.energy(x, beta) - there[1]) / (2 * h)
    assert depth.energy_rate(x, beta, kind) == pytest.approx(slope, rel=1e-6)
    assert depth.energy_rate(x, beta, kind) > 0.05
    assert depth.energy_rate(np.tile(x[:1], (4, 1)), beta, kind) < 1e-30
    path = [depth.energy(particles(x, beta, t, kind), beta) for t in (0.5, 1.0, 2.0, 4.0)]
    assert np.all(np.diff(path) > 0.0)


# --- any scale of the logits ----------------------------------------------------------------


def test_critical_scale():
    np.testing.assert_allclose(depth.critical_beta(1.0, [0.0, 0.5]), [math.sqrt(2.0), 2.0])
    assert depth.critical_beta(2.0, 2.0) == np.inf
    assert depth.participation(2.0, 1.0, 0.0) == pytest.approx(1.0 - math.sqrt(0.5))
    assert depth.participation(1.4, 1.0, 0.0) == 0.0
    assert depth.participation(5.0, 1.0, 1.0) == 0.0
    beta = 6.0
    rho = float(depth.attention_correlation(0.4, beta))
    assert rho == pytest.approx(0.4 / (1.0 - math.sqrt(2.0 * 0.6) / beta))
    assert depth.attention_correlation(0.4, 1.0) == 1.0
    assert depth.attention_correlation(0.0, 3.0) == 0.0


def test_participation_of_random_logits_comes_down_to_its_limit():
    rng, beta = np.random.default_rng(8), 2.0
    limit = float(depth.participation(beta, 1.0, 0.0))
    measured = []
    for n, draws in ((10, 4000), (100, 2000), (10_000, 400)):
        logits = beta * math.sqrt(math.log(n)) * rng.normal(size=(draws, n))
        found = np.sum(softmax(logits) ** 2, axis=1)
        measured.append((np.mean(found), np.std(found) / math.sqrt(draws)))
    means, errors = np.array(measured).T
    assert np.all(-np.diff(means) > 2.0 * np.hypot(errors[1:], errors[:-1]))
    assert np.all(means - limit > 3.0 * errors)
    assert means[-1] < limit + 0.12


def test_a_block_with_attention_off_is_its_mlp():
    """σ_v = 0: ρ' of a residual ReLU layer, by sampling two Gaussian tokens of width 4000."""
    rng, rho, d = np.random.default_rng(9), 0.3, 4000
    u, v = rng.normal(size=(2, d))
    x = np.stack([u, rho * u + math.sqrt(1 - rho**2) * v])
    inner = x @ rng.normal(size=(d, d)) * math.sqrt(2.0 / d)
    outer = np.maximum(inner, 0.0) @ rng.normal(size=(d, d)) * math.sqrt(2.0 / d) + 0.5 * x
    cosine = outer[0] @ outer[1] / (np.linalg.norm(outer[0]) * np.linalg.norm(outer[1]))
    found = depth.block_correlation(rho, 1.0, 1.0, 0.5, value_variance=0.0)
    assert found == pytest.approx(cosine, abs=0.05)
    assert depth.block_correlation(1.0, 1.0, 1.0, 1.0) == pytest.approx(1.0, abs=1e-12)


# --- normalisation --------------------------------------------------------------------------


def test_layer_norm_keeps_the_rank_of_centred_tokens_and_no_other():
    e1, e2 = np.array([1.0, -1, 0, 0]), np.array([0.0, 0, 1, -1])

    def normalised(x):
        x = x - x.mean(axis=1, keepdims=True)
        return x / x.std(axis=1, keepdims=True)

    def rank(x):
        return np.linalg.matrix_rank(x, tol=1e-10)

    line = np.array([e1 + t * e2 for t in (0.0, 1.0, 3.0)])
    assert (rank(residual(line)), rank(residual(normalised(line)))) == (1, 2)
    shifted = np.array([1.0 + e1, e1])
    assert (rank(shifted), rank(normalised(shifted))) == (2, 1)
    assert depth.layer_norm_rank(shifted) == 1
    rng = np.random.default_rng(10)
    for r in (1, 2, 3):
        x = rng.normal(size=(6, r)) @ rng.normal(size=(r, 5))
        gained = normalised(x) * rng.uniform(0.5, 2.0, size=5)
        projected = x - x.mean(axis=1, keepdims=True)
        assert depth.layer_norm_rank(x) == rank(gained) == rank(projected)


def test_orthogonality_gap_and_bound():
    assert depth.orthogonality_gap(np.eye(5)[:, :3]) == pytest.approx(0.0, abs=1e-15)
    same = np.ones((4, 3))
    assert depth.orthogonality_gap(same) == pytest.approx(math.sqrt(1 - 1 / 3), rel=1e-14)
    found = depth.orthogonality_bound([0, 3], 5, 400, 0.3)
    np.testing.assert_allclose(found, [2.0 + 2.5, 2.0 * 0.8**3 + 2.5], rtol=1e-13)


def test_what_does_not_fit_is_refused():
    x, wk, wv = heads(0)
    for call, words in (
        (lambda: depth.correlation(-1, 4, 1.0), "layers = -1"),
        (lambda: depth.correlation(2, 1, 1.0), "tokens = 1"),
        (lambda: depth.correlation(2.5, 4, 1.0), "whole number"),
        (lambda: depth.norms(2, 4, 1.0, 1.0, 9.0, 2.0), "c0 = 9.0 is above"),
        (lambda: depth.query_gradient(x, wk, wv, 4), "d_k = 4"),
        (lambda: depth.query_gradient(x, wk.T, wv, 4), "WK has shape"),
        (lambda: depth.equal_overlap(6, 2.0, -1.0), "flow times"),
        (lambda: depth.equal_overlap(6, 2.0, 1.0, "hard"), "kind = 'hard'"),
        (lambda: depth.equal_overlap(1, 2.0, 1.0), "tokens = 1"),
        (lambda: depth.equal_overlap(6, 1e3, 1.0), "beta = 1000.0"),
        (lambda: depth.overlap_time(6, 2.0, 1.5), "level = 1.5"),
        (lambda: depth.critical_beta(0.0, 0.0), "q = 0.0"),
        (lambda: depth.critical_beta(1.0, -2.0), "p = -2.0"),
        (lambda: depth.attention_correlation(1.5, 2.0), "rho = 1.5"),
        (lambda: depth.energy(2.0 * np.eye(3), 1.0), "unit sphere"),
        (lambda: depth.orthogonality_bound(3, 9, 4, 0.1), "samples = 9"),
        (lambda: depth.orthogonality_bound(3, 4, 9, 0.9), "alpha = 0.9"),
        (lambda: depth.orthogonality_gap(np.zeros((3, 2))), "H is zero"),
        (lambda: depth.layer_norm_rank(np.ones((2, 3))), "has no variance"),
        (lambda: depth.log_cubic_factor(np.ones((2, 4, 4)), np.eye(4), 1.0), "the same heads"),
        (lambda: depth.log_cubic_factor(np.eye(4), np.eye(4), 0.0), "one positive number"),
        (lambda: depth.cubic_residual(x, wk, wv, 1.0), "WQK has shape"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
