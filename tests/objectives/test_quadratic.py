"""The quadratic loss by its moments against the squared loss of its examples."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gflow
from gflow.objectives import QuadraticLoss, SquaredLoss


def regression(examples=30, p=4, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((examples, p)) * [1.0, 0.5, 2.0, 1.5][:p]
    return x, x @ [1.5, -1.0, 0.0, 0.3][:p] + 0.1 * rng.standard_normal(examples)


class Linear(eqx.Module):
    weight: jax.Array

    def __call__(self, x):
        return jnp.dot(x, self.weight)


@pytest.mark.parametrize("examples", [30, 3])  # of three examples H has rank three
def test_value_gradient_and_hessian_are_those_of_the_examples(examples):
    x, y = regression(examples)
    by_moments, by_examples = QuadraticLoss.of(x, y), SquaredLoss(x, y)
    for seed in range(3):
        model = Linear(jax.random.normal(jax.random.key(seed), (4,)))
        one, two = (jax.value_and_grad(loss)(model) for loss in (by_moments, by_examples))
        np.testing.assert_allclose(one[0], two[0], rtol=1e-12)
        np.testing.assert_allclose(one[1].weight, two[1].weight, rtol=0, atol=1e-12)
        one, two = (
            jax.hessian(lambda w, loss=loss: loss(Linear(w)))(model.weight)
            for loss in (by_moments, by_examples)
        )
        np.testing.assert_allclose(one, two, rtol=0, atol=1e-12)


def test_the_floor_is_that_of_least_squares_and_small_losses_keep_their_digits():
    x, y = regression()
    loss = QuadraticLoss.of(x, y)
    best = np.linalg.lstsq(x, y)[0]
    np.testing.assert_allclose(loss.floor, 0.5 * np.mean((y - x @ best) ** 2), rtol=1e-13)
    exact = QuadraticLoss(np.diag([2.0, 3.0]), [1.0, 2.0])
    near = Linear(jnp.array([1.0 + 2.0**-40, 2.0]))
    assert float(exact(near)) == 2.0**-80


def test_a_run_is_that_of_the_examples():
    x, y = regression()
    weight = gflow.Hadamard.small(4, log_alpha=-30.0, key=jax.random.key(1))
    model = gflow.models.DiagonalLinear(weight)
    runs = [
        gflow.simulate(model, loss, tau1=5.0, rtol=1e-9, error_bars=False)
        for loss in (QuadraticLoss.of(x, y), SquaredLoss(x, y))
    ]
    one, two = (run.stages() for run in runs)
    assert [s.label for s in one] == [s.label for s in two]
    np.testing.assert_allclose([s.t for s in one], [s.t for s in two], rtol=0, atol=1e-6)
    np.testing.assert_allclose(runs[0].loss[-1], runs[1].loss[-1], rtol=1e-9)


def test_one_product_with_the_hessian():
    loss = QuadraticLoss(np.eye(50), np.ones(50))
    model = Linear(jnp.zeros(50))
    program = jax.jit(jax.grad(lambda m: loss(m))).lower(model).compile().as_text()
    # in XLA's text a product with a (50, 50) matrix is a dot or a call of a library
    assert program.count(" dot(") + program.count("custom-call(") == 1


def test_weights_of_all_leaves_in_their_order():
    class Pair(eqx.Module):
        first: gflow.Hadamard
        still: gflow.Frozen
        second: jax.Array

    u = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    model = Pair(gflow.Hadamard(u, u + 1.0), gflow.Frozen(jnp.ones(7)), jnp.array([5.0]))
    w = np.array([2.0, 6.0, 12.0, 20.0, 5.0])
    hessian = np.arange(25.0).reshape(5, 5)
    hessian = hessian @ hessian.T
    target = np.array([1.0, -1.0, 0.5, 2.0, 0.0])
    expected = 7.0 + 0.5 * (w - target) @ hessian @ (w - target)
    np.testing.assert_allclose(QuadraticLoss(hessian, target, 7.0)(model), expected, rtol=1e-13)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((np.eye(2), np.ones(3)), r"hessian has shape \(2, 2\) where minimiser has 3"),
        (([[1.0, 1.0], [0.0, 1.0]], np.ones(2)), "not symmetric"),
        ((-np.eye(2), np.ones(2)), "has the eigenvalue -1"),
        ((np.eye(2) * np.nan, np.ones(2)), "finite real numbers"),
    ],
)
def test_what_is_no_quadratic_loss_says_why(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        QuadraticLoss(*arguments)


def test_another_number_of_weights_is_refused():
    with pytest.raises(ValueError, match="4 effective weights where the minimiser has 2"):
        QuadraticLoss(np.eye(2), np.ones(2))(Linear(jnp.ones(4)))
    with pytest.raises(ValueError, match=r"\(examples, p\)"):
        QuadraticLoss.of(np.ones((3, 2)), np.ones(2))
