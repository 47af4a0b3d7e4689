"""Stability polynomials of RKC2 and ROCK4, and the spectral radius that sets their stages."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from stabilised_methods import METHODS, methods

from gflow.solvers._rkc2 import RKC2
from gflow.solvers._rock4_coefficients import ROWS, finishing, recurrence
from gflow.solvers._spectral_radius import SpectralRadius

NUMBERS = {"RKC2": np.arange(2, 501, dtype=np.int32), "ROCK4": ROWS[:, 0].astype(np.int32)}


# The stability polynomials


@functools.cache
def one_step(name):
    """y1 and the error of y' = rates·y from 1 with h = 1 and s stages, as a function of both."""

    @jax.jit
    def run(rates, stages):
        one = jnp.ones_like(rates)
        y1, _, error = METHODS[name]().advance(
            lambda c, y: rates * y, one, rates, jnp.array(1.0), stages
        )
        return y1, error

    return run


@functools.cache
def taylor(name):
    """Coefficients of R and of R − R̂ at 0 for every s, from nilpotent systems y_k' = y_{k−1}."""

    def field(c, y):
        return jnp.concatenate([jnp.zeros(1), y[:-1]])

    def run(stages):
        y0 = jnp.zeros(6).at[0].set(1.0)
        y1, _, error = METHODS[name]().advance(field, y0, field(0.0, y0), jnp.array(1.0), stages)
        return y1, error

    return [np.asarray(x) for x in jax.jit(jax.vmap(run))(jnp.asarray(NUMBERS[name]))]


@methods
def test_stability_polynomials_agree_with_exp_to_the_order(name):
    order = METHODS[name]().order(None)
    factorials = np.array([1, 1, 2, 6, 24, 120])
    polynomial, error = (x * factorials for x in taylor(name))
    np.testing.assert_allclose(polynomial[:, : order + 1], 1.0, atol=1e-11)
    assert np.all(np.abs(polynomial[:, order + 1] - 1) > 1e-2)  # and no further
    # RKC estimates its own error, of order h³; the embedded solution of ROCK4 has order 3
    estimated = METHODS[name]().error_order(None)
    np.testing.assert_allclose(error[:, :estimated], 0.0, atol=1e-11)
    assert np.all(np.abs(error[:, estimated]) > 1e-5)


def test_rkc_has_the_published_error_constant():
    # Sommeijer et al.: y(t + h) − y_{n+1} = (1/15) h³ y''' + … for large s
    polynomial, error = (x[:, 3] for x in taylor("RKC2"))
    assert 1 / 6 - polynomial[-1] == pytest.approx(1 / 15, rel=0.03)
    # (4/5)(y_n − y_{n+1}) + (2h/5)(F_n + F_{n+1})
    np.testing.assert_allclose(error, 0.2 - 0.8 * polynomial, rtol=1e-9)


def test_rkc_evaluates_at_the_published_times():
    # c_j = T'_s T''_j/(T''_s T'_j) ≈ (j² − 1)/(s² − 1), c_1 = c_2/T'_2, at w₀
    s, times = 9, []

    def field(c, y):
        jax.debug.callback(lambda c: times.append(float(c)), c)
        return y

    RKC2().advance(field, jnp.ones(1), jnp.ones(1), jnp.array(1.0), jnp.array(s, jnp.int32))
    jax.effects_barrier()
    polynomials = [np.polynomial.Chebyshev.basis(j) for j in range(2, s + 1)]
    w0 = 1 + 2 / 13 / s**2
    ratio = np.array([T.deriv(2)(w0) / T.deriv(1)(w0) for T in polynomials])
    expected = ratio / ratio[-1]
    first = expected[0] / polynomials[0].deriv(1)(w0)
    np.testing.assert_allclose(np.sort(times), [first, *expected], rtol=1e-11)


def furthest(name, s):
    """The advertised end of the interval of stability."""
    return (
        2 / 3 * (s**2 - 1) * (1 - 4 / 195) if name == "RKC2" else -ROWS[ROWS[:, 0] == s, 1].item()
    )


def interval(end):
    """Points of [−end, 0], denser at both ends."""
    return -end / 2 * (1 - np.cos(np.linspace(0, np.pi, 4001)))


def test_rkc_is_stable_and_damped_for_every_stage_number():
    run = one_step("RKC2")
    for s in NUMBERS["RKC2"]:
        z = interval(furthest("RKC2", int(s)))
        size = np.abs(run(jnp.asarray(z), jnp.asarray(s))[0])
        assert np.max(size) <= 1 + 1e-12
        # 1 − ε/3 to leading order
        assert np.max(size[z < -3], initial=0.0) <= 1 - 2 / 39 + 0.008
    # and no shorter than it could be
    beyond = run(jnp.asarray([-1.06 * furthest("RKC2", 40)]), jnp.array(40, jnp.int32))[0]
    assert np.abs(beyond[0]) > 1


def test_rock4_is_stable_and_damped_for_every_stage_number():
    run = one_step("ROCK4")
    for row in ROWS:
        s, z = int(row[0]), interval(-row[1])
        (mu, kappa), (a, b, _) = recurrence(row), finishing(row)
        before, P = np.ones_like(z), 1 + mu[0] * z
        for m, k in zip(mu[1:], kappa[1:], strict=True):
            before, P = P, P + m * z * P + k * (P - before)
        w = 1 + sum(b @ np.linalg.matrix_power(a, k) @ np.ones(4) * z ** (k + 1) for k in range(4))
        assert np.max(np.abs(w * P)) <= 1
        assert np.max(np.abs(w * P)[z < -3]) <= 0.953
        assert -row[1] > 0.353 * s**2 - 3.1
        # the solver has this polynomial; rounding enters before w multiplies
        found = run(jnp.asarray(z), jnp.asarray(s, jnp.int32))[0]
        assert np.all(np.abs(found - w * P) < 1e-13 * (10 + z**4 / 100))


@methods
def test_the_least_stable_number_of_stages_is_taken(name):
    solver, numbers = METHODS[name](), NUMBERS[name].tolist()
    reach = np.geomspace(0.01, 1.2 * furthest(name, numbers[-1]), 500)
    ends = np.array([furthest(name, s) for s in numbers])
    least = [*numbers, numbers[-1] + 1]
    expected = [least[np.searchsorted(ends, r)] for r in reach]
    np.testing.assert_array_equal(jax.vmap(solver.stages)(jnp.asarray(reach)), expected)
    assert int(METHODS[name](min_stages=17).stages(jnp.array(1.0))) == 17


def tableau(row):
    """Butcher's (A, b, b̂) of ROCK4, with the embedded method's stage last."""
    (mu, kappa), (a, b, b_hat) = recurrence(row), finishing(row)
    m, s = len(mu), len(mu) + 4
    matrix, point, step = np.zeros((s + 1, s + 1)), np.zeros(s + 1), np.zeros(s + 1)
    for j in range(m):
        step = kappa[j] * step + mu[j] * np.eye(s + 1)[j]
        point = point + step
        matrix[j + 1] = point
    for i in range(1, 4):
        matrix[m + i] = point
        matrix[m + i, m:s] += a[i]
    weights, embedded = point.copy(), point.copy()
    weights[m:s] += b
    embedded[m:] += b_hat
    matrix[s] = weights
    return matrix, weights, embedded


def test_rock4_satisfies_butchers_conditions_for_every_stage_number():
    for row in ROWS:
        A, b, b_hat = tableau(row)
        c = A.sum(axis=1)
        trees = [np.ones_like(c), c, c**2, A @ c, c**3, c * (A @ c), A @ c**2, A @ A @ c]
        densities = [1, 2, 3, 6, 4, 8, 12, 24]
        for tree, density in zip(trees, densities, strict=True):
            assert b @ tree == pytest.approx(1 / density, abs=1e-13)
        for tree, density in zip(trees[:4], densities, strict=False):
            assert b_hat @ tree == pytest.approx(1 / density, abs=1e-13)


def test_rock4_has_the_published_recurrence():
    # rock4.f, ten stages: μ₁, then pairs μ_j, κ_j
    published = [
        0.03256098772501858, 0.0392399455084615, 0.006548791582739922, 0.04499511886194148,
        0.03061034821432499, 0.05000269311882022, 0.06157339578289546, 0.05465516336291797,
        0.0957053888197476, 0.06104333020232396, 0.1406290220864037,
    ]  # fmt: skip
    mu, kappa = recurrence(ROWS[NUMBERS["ROCK4"] == 10][0])
    np.testing.assert_allclose(mu, [published[0], *published[1::2]], rtol=1e-12)
    np.testing.assert_allclose(kappa, [0.0, *published[2::2]], rtol=1e-12)


# The spectral radius


def symmetric(seed, eigenvalues):
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(eigenvalues),) * 2))
    return jnp.asarray(q @ np.diag(eigenvalues) @ q.T)


SPECTRA = {
    "outlier": np.concatenate([np.linspace(0, 50, 199), [100.0]]),
    "positive": np.concatenate([np.linspace(-1, 0, 199), [3.0]]),
    "flat": -np.linspace(1, 2, 200),
    "pair": np.concatenate([np.zeros(198), [-7.0, 7.0]]),
    "multiple": -3.0 * np.ones(200),
    "single": np.array([-5.0]),
}


@jax.jit
def follow(radius, matrix, renew):
    y = jnp.zeros(len(matrix))
    return radius.follow(lambda y: matrix @ y, y, renew, refine=False)


@pytest.mark.parametrize("kind", SPECTRA)
def test_spectral_radius_of_a_known_matrix(kind):
    matrix = symmetric(0, SPECTRA[kind])
    exact = np.max(np.abs(np.linalg.eigvalsh(matrix)))
    y = jnp.zeros(len(matrix))
    radius, products = follow(SpectralRadius.unknown(y, y.dtype), matrix, False)
    assert exact * 0.95 < float(radius.value) <= exact * (1 + 1e-12)
    assert 20 <= int(products) <= 50
    # warm: once more, from there
    radius, products = follow(radius, matrix, True)
    assert exact * 0.97 < float(radius.value) <= exact * (1 + 1e-12)
    assert int(products) <= 25


def test_spectral_radius_of_a_hessian_on_any_pytree():
    def loss(p):
        x = jnp.linspace(-2, 2, 16)[:, None]
        return jnp.mean((jnp.tanh(x @ p["a"] + p["b"][None]) @ p["c"] - jnp.sin(3 * x)) ** 2)

    keys = jax.random.split(jax.random.key(3), 3)
    p = {
        "a": jax.random.normal(keys[0], (1, 8)),
        "b": jax.random.normal(keys[1], (8,)),
        "c": jax.random.normal(keys[2], (8, 1)),
    }
    flat, unravel = jax.flatten_util.ravel_pytree(p)
    exact = np.linalg.eigvalsh(jax.jit(jax.hessian(lambda x: loss(unravel(x))))(flat))

    def field(p):
        return jax.tree.map(jnp.negative, jax.grad(loss)(p))

    @jax.jit
    def estimate(p):
        return SpectralRadius.unknown(p, flat.dtype).follow(field, p, renew=True, refine=True)[0]

    radius = estimate(p)
    assert float(radius.value) == pytest.approx(np.max(np.abs(exact)), rel=0.02)
    assert jax.tree.structure(radius.vector) == jax.tree.structure(p)


def test_spectral_radius_follows_a_jacobian_that_changes():
    # the second direction overtakes the first, of which the vector is an eigenvector exactly
    @jax.jit
    def advance(radius, growing):
        rates = jnp.array([100.0, growing])
        return radius.follow(lambda y: -rates * y, jnp.zeros(2), renew=False, refine=True)

    radius = SpectralRadius(jnp.array(100.0), jnp.array([1.0, 0.0]), jnp.array(0))
    products = 0
    for growing in 50.0 * 1.02 ** np.arange(120):
        radius, number = advance(radius, growing)
        products += int(number)
        assert float(radius.value) > 0.8 * max(100.0, growing)
    assert float(radius.value) > 0.95 * growing
    assert products < 120 + 6 * 50


def test_spectral_radius_without_a_direction():
    y = jnp.ones(3)
    start = SpectralRadius.unknown(y, y.dtype)
    assert np.linalg.norm(start.vector) == pytest.approx(1.0)
    flat, _ = start.follow(lambda y: jnp.ones(3), y, renew=True, refine=True)
    assert float(flat.value) == 0.0
    broken, _ = flat.follow(lambda y: jnp.sqrt(y - 1.0), y, renew=True, refine=True)
    for radius in (flat, broken):
        assert np.linalg.norm(radius.vector) == pytest.approx(1.0)
        assert np.isfinite(radius.value)


# Single precision


@methods
def test_the_coefficients_hold_in_float32(name):
    # y' = 1 is exact to the two roundings of a stage, that of y and that of its increment
    rates, s = np.array([0.0, -0.5], np.float32), jnp.array(133, jnp.int32)
    exact = one_step(name)(jnp.asarray(rates, jnp.float64), s)[0]
    with jax.enable_x64(False):
        single = jax.jit(
            lambda y0: METHODS[name]().advance(
                lambda c, y: rates * y + 1, y0, rates + 1, jnp.array(1.0), s
            )[0]
        )(jnp.ones(2))
    assert single.dtype == jnp.float32
    assert float(single[0]) == pytest.approx(2.0, rel=2 * 133 * 2.0**-23)
    # y' = 1 − y/2 is y' = −y/2 for y − 2
    assert float(single[1]) == pytest.approx(2 - float(exact[1]), rel=3e-5)
