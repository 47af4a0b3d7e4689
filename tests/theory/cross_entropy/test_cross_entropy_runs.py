"""Runs of the network itself beside the closed forms, from 1e-8 and 1e-200, and refusals."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gflow
import theory
from theory import cross_entropy


def objective_of(classes, reduction="mean"):
    return gflow.objectives.CrossEntropy(np.eye(classes), np.arange(classes), reduction)


def plain(classes, size, seed=0):
    w1, w2 = cross_entropy.etf_start(classes, size, classes + 1, key=jax.random.key(seed))
    return gflow.models.DeepLinear((w1, w2))


def factored(classes, size):
    w1, w2 = cross_entropy.etf_start(classes, size, classes + 1, key=jax.random.key(0))
    return gflow.models.FactoredLinear(gflow.Factored(w2, w1.T))


@pytest.mark.parametrize(
    ("make", "classes", "size", "t1"),
    [(plain, 3, 1e-8, 60.0), (plain, 3, 1e-200, 800.0), (factored, 4, 1e-200, 1100.0)],
)
def test_runs_of_the_network(make, classes, size, t1):
    model, objective = make(classes, size), objective_of(classes)
    run = gflow.simulate(model, objective, t1=t1)
    a = cross_entropy.etf_logit(classes, size, run.t)
    assert a[-1] > 5
    exact = cross_entropy.etf_loss(classes, a)
    assert np.all(np.abs(run.loss - exact) <= 2 * run.error["loss"] + 1e-13)
    assert np.max(np.abs(run.loss - exact)) < 1e-6
    prediction = cross_entropy.predict(model, objective)
    compared = theory.compare(run, prediction)
    assert compared.counts["confirmed"] >= 2, compared
    assert compared.counts["refuted"] == 0, compared
    # as it would be of a flow twice as fast
    wrong = cross_entropy.predict(model, objective_of(classes, "half_mean"))
    other = theory.Prediction.of(*wrong.curves)
    assert theory.compare(run, other).counts["refuted"] >= 2


def test_a_run_of_hadamard_modes():
    modes = np.array([0.0, 1e-3, 1e-2, 3e-3])
    w1, w2 = cross_entropy.hadamard_start(modes, 4, key=jax.random.key(0))
    run = gflow.simulate(gflow.models.DeepLinear((w1, w2)), objective_of(4), t1=60.0)
    exact = cross_entropy.hadamard_modes(modes, run.t)
    loss = cross_entropy.hadamard_loss(exact)
    assert np.all(np.abs(run.loss - loss) <= 2 * run.error["loss"] + 1e-12)
    assert loss[-1] < 0.1 * loss[0]
    w = np.asarray(run.final.product)
    np.testing.assert_allclose(w, cross_entropy.hadamard_logits(exact[-1]), atol=1e-6)


@pytest.mark.parametrize("reduction", ["mean", "sum", "half_mean", "half_sum", "token_mean"])
def test_other_orders_and_reductions(reduction):
    """Labels permuted, inputs twice: velocities of loss and product as those of the flow."""
    order = np.array([2, 0, 1])
    w1, w2 = cross_entropy.etf_start(3, 0.3, 4, key=jax.random.key(1))
    model = gflow.models.DeepLinear((w1, w2[np.argsort(order)]))
    x = np.eye(3)[[0, 1, 2, 2, 1, 0]]
    objective = gflow.objectives.CrossEntropy(x, order[[0, 1, 2, 2, 1, 0]], reduction)
    curves = {c.label: c for c in cross_entropy.predict(model, objective).curves}
    product = curves["W2 W1"].value(np.array([0.0, 1e-5]))
    np.testing.assert_allclose(product[0], model.product, atol=1e-15)
    loss = curves["loss"].value(np.array([0.0, 1e-5]))
    assert loss[0] == pytest.approx(float(objective(model)), rel=1e-14)
    force = [-g for g in jax.grad(objective)(model).weights]
    slope = -sum(float(jnp.sum(f**2)) for f in force)
    assert (loss[1] - loss[0]) / 1e-5 == pytest.approx(slope, rel=1e-4)
    moved = force[1] @ model.weights[0] + model.weights[1] @ force[0]
    np.testing.assert_allclose((product[1] - product[0]) / 1e-5, moved, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: cross_entropy.predict(plain(3, 0.1), objective_of(4)), "3 one-hot inputs"),
        (
            lambda: cross_entropy.predict(
                plain(3, 0.1), gflow.objectives.CrossEntropy(np.eye(3), np.array([0, 1, 1]))
            ),
            "a label of its own",
        ),
        (
            lambda: cross_entropy.predict(
                plain(3, 0.1), gflow.objectives.CrossEntropy(2 * np.eye(3), np.arange(3))
            ),
            "one-hot",
        ),
        (
            lambda: cross_entropy.predict(
                gflow.models.DeepLinear((np.eye(3), np.eye(3))), objective_of(3)
            ),
            "off balance, by",
        ),
        (
            lambda: cross_entropy.predict(
                gflow.models.DeepLinear(
                    tuple(2.0**s * w for s, w in zip((1, -1), plain(3, 0.1).weights, strict=True))
                ),
                objective_of(3),
            ),
            "off balance, by",
        ),
        (
            lambda: cross_entropy.predict(
                gflow.models.DeepLinear((np.eye(3),) * 3), objective_of(3)
            ),
            "two trained factors",
        ),
    ],
)
def test_refusals(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_nothing_moves_at_zero():
    with pytest.raises(ValueError, match="start is zero"):
        cross_entropy.predict(
            gflow.models.DeepLinear((np.zeros((4, 3)), np.zeros((3, 4)))), objective_of(3)
        )
    assert math.isinf(cross_entropy.etf_logit(3, 1e-9, math.inf))


class Sharp(eqx.Module):
    """Logits ς W x, as of attention with a factor ς before the softmax."""

    weight: gflow.Factored
    scale: float = eqx.field(static=True)

    def __call__(self, x):
        return self.scale * (self.weight.value @ x)


def deviation(run, modes, exact):
    """The largest one of the modes, over the largest mode at its time."""
    w, k = run.observables["weight"], exact.shape[1]
    found = np.einsum("mij,tij->tm", modes, w) / k
    return np.max(np.abs(found - exact) / np.max(exact, axis=1, keepdims=True))


@pytest.mark.slow
@pytest.mark.parametrize("decay", [0.0, 0.2])
@pytest.mark.parametrize("size", [1e-8, 1e-200])
@pytest.mark.parametrize("classes", [2, 16])
def test_few_and_many_classes_from_any_size(classes, size, decay):
    """Equiangular (all modes tie) and Hadamard starts to 1e-9; `decay` as a share of 1/K."""
    rate, h = decay / classes, cross_entropy.hadamard_logits(np.eye(classes)) * classes
    end = 3.0 * float(cross_entropy.etf_time(classes, size, 1.0))
    spread = np.geomspace(1.0, 100.0, classes) * (np.arange(classes) > 0)
    for modes in (size * (np.arange(classes) > 0), size * spread):
        w1, w2 = cross_entropy.hadamard_start(modes, classes, key=jax.random.key(0))
        model = gflow.models.FactoredLinear(gflow.Factored(w2, w1.T))
        run = gflow.simulate(model, objective_of(classes), t1=end, decay=rate, rtol=1e-11)
        exact = cross_entropy.hadamard_modes(modes, run.t, rate)
        assert deviation(run, h, exact) < 1e-9
        assert np.max(exact[-1]) > 1.0
        # of another rate it is not the course
        other = cross_entropy.hadamard_modes(modes, run.t, rate + 1e-3 / classes)
        assert deviation(run, h, other) > 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("scale", [0.3, 2.0])
def test_scaled_logits(scale):
    w1, w2 = cross_entropy.etf_start(5, 1e-30, 5, key=jax.random.key(0))
    model = Sharp(gflow.Factored(w2, w1.T), scale)
    end = float(cross_entropy.etf_time(5, 1e-30, 6.0 / scale, scale))
    run = gflow.simulate(model, objective_of(5), t1=end, rtol=1e-11)
    a = np.trace(run.observables["weight"], axis1=1, axis2=2) / 4.0
    assert np.max(np.abs(a / cross_entropy.etf_logit(5, 1e-30, run.t, scale) - 1.0)) < 1e-9
    assert np.max(np.abs(a / cross_entropy.etf_logit(5, 1e-30, run.t) - 1.0)) > 0.1
