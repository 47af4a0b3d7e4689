"""The population loss of in-context regression: sampling, the flow of the paper, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from in_context_flows import force, loss, merged_velocity, separate_velocity

import gflow
from gflow import tasks
from gflow.internal import build_flow, trained_leaves
from gflow.models import MergedHeads, SeparateHeads
from gflow.objectives import InContextRegression

KEY = jax.random.key(0)


def covariance(d, rng):
    mixed = rng.normal(size=(d, d))
    return mixed @ mixed.T / d


def merged(matrix):
    """A model whose M is `matrix`."""
    return MergedHeads(gflow.Scaled(np.ones(1), 0.0), gflow.Scaled(np.asarray(matrix)[None], 0.0))


def sampled(lam, matrix, context, noise, rng, prompts):
    """(y_q − βᵀM x_q)² of prompts drawn in NumPy."""
    d = len(lam)
    root = np.linalg.cholesky(lam + 1e-300 * np.eye(d))
    x = rng.normal(size=(prompts, context + 1, d)) @ root.T
    w = rng.normal(size=(prompts, d, 1))
    y = (x @ w)[..., 0] + np.sqrt(noise) * rng.normal(size=(prompts, context + 1))
    beta = np.einsum("pn,pnd->pd", y[:, :-1], x[:, :-1]) / context
    return (y[:, -1] - np.einsum("pa,ab,pb->p", beta, matrix, x[:, -1])) ** 2


def test_sampling_agrees_within_its_standard_error():
    """50 configurations: a χ² of 50, of which 90 is a probability of 5e-4."""
    rng = np.random.default_rng(7)
    misses = []
    for trial in range(50):
        d, context = 1 + trial % 4, [1, 2, 5, 20][trial % 4]
        noise = [0.0, 0.5, 2.0][trial % 3]
        lam, matrix = covariance(d, rng), rng.normal(size=(d, d)) / d
        squares = sampled(lam, matrix, context, noise, rng, 4000)
        exact = float(InContextRegression(lam, context, noise, "mean")(merged(matrix)))
        misses.append((np.mean(squares) - exact) / (np.std(squares) / np.sqrt(squares.size)))
    assert np.sum(np.square(misses)) < 90
    assert abs(np.mean(misses)) < 3.5 / np.sqrt(50)


@pytest.mark.parametrize("noise", [0.0, 0.6])
@pytest.mark.parametrize("kind", ["merged", "separate"])
def test_forces_are_the_flow_of_the_paper(kind, noise):
    rng = np.random.default_rng(1)
    lam = covariance(4, rng)
    if kind == "merged":
        model = MergedHeads.small(4, 3, log_epsilon=-0.5, key=KEY)
        made = merged_velocity
    else:
        model = SeparateHeads.small(4, 3, 2, log_epsilon=-0.3, key=KEY)
        made = separate_velocity
    weights = {n: np.asarray(x.value) for n, x in trained_leaves(model).items()}
    matrix = np.asarray(model.matrix())
    exact = made(*weights.values(), force(matrix, lam, 7, noise))
    values = {n: x.value for n, x in trained_leaves(model).items()}
    for reduction, speed in (("half_mean", 1.0), ("mean", 2.0)):
        flow = build_flow(model, InContextRegression(lam, 7, noise, reduction))
        measured, forces = flow.forces(values)
        for name, one in zip(weights, exact, strict=True):
            scale = np.max(np.abs(one))
            np.testing.assert_allclose(forces[name], speed * one, rtol=0, atol=2e-13 * scale)
        assert measured == pytest.approx(0.5 * speed * loss(matrix, lam, 7, noise), rel=1e-13)


def test_turning_everything_changes_nothing():
    rng = np.random.default_rng(2)
    lam, matrix = covariance(3, rng), rng.normal(size=(3, 3))
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    one = InContextRegression(lam, 5, 0.1)(merged(matrix))
    other = InContextRegression(turn @ lam @ turn.T, 5, 0.1)(merged(turn @ matrix @ turn.T))
    assert other == pytest.approx(float(one), rel=1e-12)
    values = np.array([0.7, 0.2, 0.0])
    assert InContextRegression(values, 5)(merged(matrix)) == InContextRegression(
        np.diag(values), 5
    )(merged(matrix))


def test_prompts_have_the_moments_they_should():
    rng = np.random.default_rng(3)
    lam, matrix = covariance(3, rng), rng.normal(size=(3, 3)) / 3
    task = tasks.in_context_regression(lam, 6, prompts=20000, key=KEY, noise=0.4)
    model = merged(matrix)
    assert task.inputs.shape == (20000, 7, 4)
    np.testing.assert_array_equal(task.inputs[:, -1, -1], 0.0)
    x = np.asarray(task.inputs[:, :, :-1]).reshape(-1, 3)
    np.testing.assert_allclose(x.T @ x / len(x), lam, atol=5 * np.max(lam) / len(x) ** 0.5)
    squares = (np.asarray(jax.vmap(model)(task.inputs)) - np.asarray(task.targets)) ** 2
    bar = 0.5 * np.std(squares) / squares.size**0.5
    assert task.objective(model) == pytest.approx(0.5 * np.mean(squares), rel=1e-12)
    assert abs(float(task.population(model)) - 0.5 * np.mean(squares)) < 4 * bar
    # noise that was meant for context and answer is in both
    quiet = tasks.in_context_regression(lam, 6, prompts=20000, key=KEY)
    gap = np.asarray(task.targets - quiet.targets)
    assert np.var(gap) == pytest.approx(0.4, rel=0.05)
    gap = np.asarray(task.inputs - quiet.inputs)[:, :-1, -1]
    assert np.var(gap) == pytest.approx(0.4, rel=0.05)


REFUSED = {
    "not positive semi-definite: .* -0.1": lambda: InContextRegression([0.4, -0.1], 31),
    "not symmetric": lambda: InContextRegression([[1.0, 0.2], [0.0, 1.0]], 31),
    r"shape \(2, 3\)": lambda: InContextRegression(np.ones((2, 3)), 31),
    "context = 0": lambda: InContextRegression([0.4], 0),
    "noise = -1": lambda: InContextRegression([0.4], 3, -1),
    r"from model\.matrix\(\)": lambda: InContextRegression([0.4], 3)(jnp.sum),
    r"\(2, 2\) where the covariance has \(1, 1\)": lambda: InContextRegression([0.4], 3)(
        merged(np.eye(2))
    ),
    "prompts = 0": lambda: tasks.in_context_regression([0.4], 3, prompts=0, key=KEY),
}


@pytest.mark.parametrize("words", REFUSED)
def test_refusals(words):
    with pytest.raises(ValueError, match=words):
        REFUSED[words]()
