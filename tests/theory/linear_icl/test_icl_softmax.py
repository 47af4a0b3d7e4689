"""Softmax heads: optimum by minimisation, infimum and its law by the flow."""

import math

import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.optimize import minimize

from theory import linear_icl

D, LENGTH, NOISE = 5, 40, 0.1


def surrogate(mu, omega, d=D, length=LENGTH, noise=NOISE):
    outer = np.outer(omega, omega)
    kernel = outer + (1 + noise) / length * np.exp(d * outer)
    return 1 + noise - 2 * mu @ omega + mu @ kernel @ mu


def slopes(mu, omega):
    """−½ ∂L̃."""
    c = (1 + NOISE) / LENGTH
    grown = c * np.exp(D * np.outer(omega, omega))
    kernel = np.outer(omega, omega) + grown
    of_omega = mu - (mu @ omega) * mu - D * (mu[:, None] * mu * grown) @ omega
    return omega - kernel @ mu, of_omega


def test_slopes_are_those_of_the_surrogate():
    mu, omega = np.array([0.4, -0.2, 0.1]), np.array([0.3, 0.5, -0.2])
    for i in range(6):
        e = 1e-6 * np.eye(6)[i]
        up, down = (surrogate(mu + s * e[:3], omega + s * e[3:]) for s in (1, -1))
        assert -(up - down) / 4e-6 == pytest.approx(np.concatenate(slopes(mu, omega))[i], rel=1e-7)


@pytest.mark.parametrize(("d", "length", "noise"), [(5, 40, 0.1), (3, 10, 0.0)])
def test_one_head_by_minimisation(d, length, noise):
    best = minimize(lambda z: surrogate(z[:1], z[1:], d, length, noise), [0.5, 0.5], tol=1e-14)
    found = linear_icl.softmax_optimum(1, d, length, noise)
    assert found.loss == pytest.approx(best.fun, rel=1e-12)
    np.testing.assert_allclose([found.mu, found.omega], best.x, rtol=1e-5)
    value = surrogate(np.array([found.mu]), np.array([found.omega]), d, length, noise)
    assert value == pytest.approx(found.loss, rel=1e-14)


@pytest.mark.parametrize("heads", [2, 3, 6])
def test_the_infimum_is_approached_from_above(heads):
    found = linear_icl.softmax_optimum(heads, D, LENGTH, NOISE)
    assert (found.mu, found.omega) == (math.inf, 0.0)
    rng = np.random.default_rng(heads)
    c = (1 + NOISE) / LENGTH
    for scale in (1.0, 0.3, 0.1):
        omega = scale * rng.normal(size=heads)
        kernel = np.outer(omega, omega) + c * np.exp(D * np.outer(omega, omega))
        assert 1 + NOISE - omega @ np.linalg.solve(kernel, omega) > found.loss
    w = 0.02
    mu = np.array([1, -1]) / (1 + c * D) / (2 * w)
    pair = surrogate(mu, np.array([w, -w]))
    assert pair == pytest.approx(found.loss, abs=1e-5)
    assert pair > found.loss


@pytest.mark.parametrize("heads", [2, 4])
def test_the_creep(heads):
    t = np.array([3e3, 1e5])
    pattern = np.resize([1.0, -1.0], heads)
    run = solve_ivp(
        lambda _, y: np.concatenate(slopes(*np.split(y, 2))), (0, t[-1]),
        0.01 * np.tile(pattern, 2), "LSODA", t_eval=t, rtol=1e-10, atol=1e-12,
    )  # fmt: skip
    above = [
        surrogate(*np.split(y, 2)) - linear_icl.softmax_optimum(heads, D, LENGTH, NOISE).loss
        for y in run.y.T
    ]
    law = linear_icl.softmax_creep(heads, D, LENGTH, NOISE, t)
    ratio = np.abs(np.array(above) / law - 1)
    assert ratio[0] < 0.03
    assert ratio[1] < 0.4 * ratio[0]


def test_refusals():
    with pytest.raises(ValueError, match=r"heads = 3: .*± pairs"):
        linear_icl.softmax_creep(3, D, LENGTH, NOISE, 1e3)
    with pytest.raises(ValueError, match=r"heads = 0: an integer of at least 1"):
        linear_icl.softmax_optimum(0, D, LENGTH, NOISE)
    with pytest.raises(ValueError, match=r"noise = -0\.1"):
        linear_icl.softmax_optimum(1, D, LENGTH, -0.1)
    with pytest.raises(ValueError, match="t > 0"):
        linear_icl.softmax_creep(2, D, LENGTH, NOISE, 0.0)


def test_the_first_order_by_a_product_rule():
    """E(y − ŷ)² of ŷ = m ȳ + (β − ȳ x̄)M x_q, exactly, in one dimension with two pairs."""
    lam, noise, mean, matrix = 0.7, 0.3, 0.4, -1.3
    nodes, weights = np.polynomial.hermite_e.hermegauss(4)
    grid = np.array(np.meshgrid(*[range(4)] * 7, indexing="ij")).reshape(7, -1)
    z, weight = nodes[grid], np.prod((weights / np.sum(weights))[grid], axis=0)
    x, w, added = math.sqrt(lam) * z[:3], z[3], math.sqrt(noise) * z[4:]
    y = w * x + added
    centred = np.mean(y[:2] * x[:2], axis=0) - np.mean(y[:2], axis=0) * np.mean(x[:2], axis=0)
    answer = mean * np.mean(y[:2], axis=0) + centred * matrix * x[2]
    expected = np.sum(weight * (y[2] - answer) ** 2)
    found = linear_icl.softmax_linear_loss(mean, [[matrix]], [lam], 2, noise=noise)
    assert found == pytest.approx(expected, rel=1e-12)


def test_the_first_order_of_sampled_heads():
    """In four dimensions with a matrix of no symmetry; small heads of the sample tend to it."""
    rng = np.random.default_rng(0)
    lam, matrix = np.array([0.4, 0.3, 0.2, 0.1]), rng.normal(size=(4, 4))
    prompts, pairs = 200_000, 6
    x = rng.normal(size=(prompts, pairs + 1, 4)) * np.sqrt(lam)
    y = np.einsum("pnd,pd->pn", x, rng.normal(size=(prompts, 4)))
    logits = np.einsum("pnd,de,pe->pn", x[:, :-1], matrix, x[:, -1])
    size, answer = 1e-3, 0.0
    for sign in (1.0, -1.0):
        p = np.exp(sign * size * logits)
        answer = answer + sign * np.sum(p * y[:, :-1], axis=1) / np.sum(p, axis=1)
    squares = (y[:, -1] - answer / (2.0 * size)) ** 2
    exact = float(linear_icl.softmax_linear_loss(0.0, matrix, lam, pairs))
    assert abs(np.mean(squares) - exact) < 4.0 * np.std(squares) / math.sqrt(prompts)
    other = float(linear_icl.population_loss(matrix, lam, pairs))
    assert abs(np.mean(squares) - other) > 10.0 * np.std(squares) / math.sqrt(prompts)


def test_long_prompts_are_linear_attention():
    matrix, lam = np.array([[0.5, 0.2], [-0.1, 0.3]]), [0.7, 0.3]
    far = linear_icl.softmax_linear_loss(2.0, matrix, lam, math.inf)
    assert far == pytest.approx(float(linear_icl.population_loss(matrix, lam, math.inf)), rel=1e-14)
    with pytest.raises(ValueError, match="two or more"):
        linear_icl.softmax_linear_loss(0.0, matrix, lam, 1)
