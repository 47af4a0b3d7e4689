"""Observables of direction: margins, normalised margins, angles."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gflow
from gflow import observables
from gflow.observables._direction import _with_margins
from theory import cross_entropy

INPUTS = np.array([[2.0, 0.0], [0.0, 1.0], [3.0, 3.0]])
LABELS = np.array([1, -1, 1])


class Linear(eqx.Module):
    weight: jax.Array

    def __call__(self, x):
        return self.weight @ x


def test_margins_of_binary_labels():
    objective = gflow.objectives.MarginLoss(INPUTS, LABELS, loss="logistic")
    model = Linear(jnp.array([1.0, -0.5]))
    np.testing.assert_allclose(objective.margins(model), [2.0, 0.5, 1.5])
    assert observables.margin(objective)(model) == 0.5
    found = observables.normalised_margin(objective, "weight")(model)
    assert found == pytest.approx(0.5 / np.sqrt(1.25))
    goal = cross_entropy.max_margin(INPUTS, LABELS)
    best = observables.normalised_margin(objective, "weight")(Linear(jnp.asarray(goal.weights)))
    assert best == pytest.approx(goal.margin)
    assert found < goal.margin


def test_margins_of_classes_and_silent_labels():
    objective = gflow.objectives.CrossEntropy(np.eye(3), np.array([0, 1, 2]))
    weight = jnp.array([[1.0, 0.0, -2.0], [0.5, 2.0, 0.0], [0.0, 5.0, 1.0]])
    np.testing.assert_allclose(objective.margins(Linear(weight)), [0.5, -3.0, 1.0])
    silent = gflow.objectives.CrossEntropy(np.eye(3), np.array([0, -1, 2]))
    np.testing.assert_allclose(silent.margins(Linear(weight)), [0.5, np.inf, 1.0])
    assert observables.margin(silent)(Linear(weight)) == 0.5


@pytest.mark.parametrize("small", [1e-3, 1e-9, 1e-12])
@pytest.mark.parametrize("size", [1.0, 1e-200, 1e200])
def test_small_angles_keep_their_digits(small, size):
    weight = Linear(size * jnp.array([np.cos(small), np.sin(small)]))
    assert observables.angle("weight", [7.0, 0.0])(weight) == pytest.approx(small, rel=1e-4)
    assert observables.angle("weight", [-7.0, 0.0])(weight) == pytest.approx(np.pi - small)


def test_angles_are_recorded_with_bars():
    objective = gflow.objectives.MarginLoss(INPUTS, LABELS, loss="logistic")
    goal = cross_entropy.max_margin(INPUTS, LABELS).weights
    watched = {
        "angle": observables.angle("weight", goal),
        "margin": observables.normalised_margin(objective, "weight"),
    }
    run = gflow.simulate(Linear(jnp.array([1.0, 1.0])), objective, t1=1e8, observables=watched)
    assert np.all(run.error["angle"] < 1e-6)
    assert run.observables["angle"][-1] < 0.2 < run.observables["angle"][0]
    assert np.all(np.diff(run.observables["margin"]) > 0.0)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: _with_margins(lambda model: 0.0), "has no margins"),
        (lambda: observables.normalised_margin(gflow.objectives.MarginLoss(INPUTS, LABELS)),
         "names of the leaves"),
        (lambda: observables.angle("weight", [0.0, 0.0]), "norm 0.0"),
        (lambda: observables.angle("weight", [np.nan, 0.0]), "norm nan"),
        (lambda: observables.angle("weight", np.ones(3))(Linear(jnp.ones(2))), r"shape is \(2,\)"),
        (lambda: observables.angle("w", np.ones(3))(Linear(jnp.ones(2))), "no leaf 'w'"),
    ],
)  # fmt: skip
def test_refusals(make, words):
    with pytest.raises(ValueError, match=words):
        make()
