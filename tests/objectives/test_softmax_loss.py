"""The surrogate of softmax heads: its formula, and how near it is to what heads lose on prompts."""

import math

import jax
import numpy as np
import pytest

import gflow
from gflow import tasks
from gflow.models import SoftmaxContextHeads
from gflow.objectives import SoftmaxContextRegression
from theory import linear_icl

D, LENGTH, NOISE = 5, 40, 0.1


def heads(mu, omega):
    return SoftmaxContextHeads(*(gflow.Frozen(np.asarray(x, float)) for x in (mu, omega)))


def pair(omega, d=D, length=LENGTH):
    """± ω with the μ that is best by the surrogate."""
    c = (1.0 + NOISE) / length
    mu = omega / (2.0 * (omega**2 + c * math.sinh(d * omega**2)))
    return heads([mu, -mu], [omega, -omega])


def sampled(models, d=D, length=LENGTH, prompts=80_000):
    """Mean squared errors and their standard errors, over E y² = 1 + σ² of the surrogate."""
    parts = []
    for seed in range(10):
        task = tasks.in_context_regression(
            np.ones(d), length, prompts=prompts // 10, key=jax.random.key(seed), noise=d * NOISE
        )
        answers = [np.asarray(jax.vmap(model)(task.inputs)) for model in models]
        parts.append((np.asarray(task.targets) - np.array(answers)) ** 2 / d)
    squares = np.concatenate(parts, axis=1)
    return np.mean(squares, axis=1), np.std(squares, axis=1) / math.sqrt(squares.shape[1])


def test_the_formula_head_by_head():
    mu, omega = np.array([0.3, -0.7, 0.5]), np.array([0.2, 0.4, -0.6])
    share = (1.0 + NOISE) / LENGTH
    expected = 1.0 + NOISE - 2.0 * sum(m * o for m, o in zip(mu, omega, strict=True))
    for m, o in zip(mu, omega, strict=True):
        for n, p in zip(mu, omega, strict=True):
            expected += m * n * (o * p + share * math.exp(D * o * p))
    model = heads(mu, omega)
    whole = SoftmaxContextRegression(D, LENGTH, NOISE, reduction="mean")
    assert whole(model) == pytest.approx(expected, rel=1e-13)
    assert SoftmaxContextRegression(D, LENGTH, NOISE)(model) == pytest.approx(0.5 * expected)


def test_its_optima_are_those_of_the_theory():
    objective = SoftmaxContextRegression(D, LENGTH, NOISE, reduction="mean")
    best = linear_icl.softmax_optimum(1, D, LENGTH, NOISE)
    assert objective(heads([best.mu], [best.omega])) == pytest.approx(best.loss, rel=1e-13)
    for factor in (0.9, 1.1):
        assert objective(heads([factor * best.mu], [best.omega])) > best.loss
        assert objective(heads([best.mu], [factor * best.omega])) > best.loss
    infimum = linear_icl.softmax_optimum(2, D, LENGTH, NOISE).loss
    excess = [float(objective(pair(omega))) - infimum for omega in (0.1, 0.05)]
    assert excess[1] > 0.0
    assert excess[0] / excess[1] == pytest.approx(16.0, rel=0.05)


@pytest.mark.slow
def test_it_is_as_near_to_softmax_heads_as_it_says():
    """The numbers of its docstring; heads on prompts that are √d times its own."""
    best = linear_icl.softmax_optimum(1, D, LENGTH, NOISE)
    small, models = 0.05, [heads([best.mu], [best.omega]), *(pair(x) for x in (0.1, 0.4, 0.8))]
    objective = SoftmaxContextRegression(D, LENGTH, NOISE, reduction="mean")
    here = [float(objective(model)) for model in models]
    np.testing.assert_allclose(here, [0.372, 0.221, 0.232, 0.445], atol=5e-4)
    there, bar = sampled([*models, heads([0.0], [0.0]), pair(small)])
    np.testing.assert_allclose(there[:4], [0.408, 0.242, 0.256, 0.399], atol=1e-3 + 4.0 * max(bar))
    # below the truth by far more than the bar, or above it
    assert np.all((np.array(here) - there[:4])[:3] < -10.0 * bar[:3])
    assert here[3] - there[3] > 10.0 * bar[3]
    assert abs(there[4] - 1.0 - NOISE) < 4.0 * bar[4]
    # what is left as ω → 0 is linear attention on centred pairs
    product = 2.0 * float(pair(small).value.value[0]) * small
    linear = linear_icl.softmax_linear_loss(
        0.0, product * np.eye(D), np.ones(D), LENGTH, noise=D * NOISE
    )
    assert abs(there[5] - float(linear) / D) < 4.0 * bar[5]


@pytest.mark.slow
def test_it_is_nearer_for_longer_prompts():
    models = [pair(omega, length=400) for omega in (0.1, 0.8)]
    objective = SoftmaxContextRegression(D, 400, NOISE, reduction="mean")
    there, bar = sampled(models, length=400, prompts=30_000)
    np.testing.assert_allclose([float(objective(m)) for m in models], [0.114, 0.150], atol=5e-4)
    np.testing.assert_allclose(there, [0.116, 0.156], atol=1e-3 + 4.0 * max(bar))


REFUSED = {
    "dimension = 0": lambda: SoftmaxContextRegression(0, 40),
    "length = 0": lambda: SoftmaxContextRegression(5, 0),
    "noise = -1": lambda: SoftmaxContextRegression(5, 40, -1.0),
    r"has shape \(2, 3, 3\). Matrices are": lambda: SoftmaxContextRegression(3, 40)(
        heads(np.ones(2), np.ones((2, 3, 3)))
    ),
    "of this DiagonalLinear has none": lambda: SoftmaxContextRegression(3, 40)(
        gflow.models.DiagonalLinear(gflow.Frozen(np.ones(3)))
    ),
}


@pytest.mark.parametrize("words", REFUSED)
def test_refusals(words):
    with pytest.raises(ValueError, match=words):
        REFUSED[words]()
