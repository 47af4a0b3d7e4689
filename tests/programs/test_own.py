"""Programs of gflow's own classes are found by their fields; what may read more is traced anew."""

import equinox as eqx
import jax
import numpy as np
import pytest

import gflow
from gflow.programs import _closure

X = np.array([[1.0, 0.5], [0.5, 2.0], [1.0, -1.0]])
Y = np.array([1.0, 0.3, -0.2])


@pytest.fixture
def traces(monkeypatch):
    """How often something was traced."""
    counted, trace = [], _closure._trace

    def counting(*arguments, **options):
        counted.append(arguments[2])
        return trace(*arguments, **options)

    monkeypatch.setattr(_closure, "_trace", counting)
    return counted


def weight(seed=0):
    return gflow.Hadamard.small(2, log_alpha=-20.0, key=jax.random.key(seed))


def ran(model, objective):
    return gflow.simulate(model, objective, t1=1.0, rtol=1e-4, error_bars=False)


def test_other_numbers_in_the_same_classes_are_not_traced_again(traces):
    def problem(seed, targets):
        return gflow.models.DiagonalLinear(weight(seed)), gflow.objectives.SquaredLoss(X, targets)

    first = ran(*problem(0, Y))
    traces.clear()
    second = ran(*problem(1, 2.0 * Y))
    assert traces == []
    np.testing.assert_allclose(first.loss[0], 0.5 * np.mean(Y**2), rtol=1e-6)
    np.testing.assert_allclose(second.loss[0], 2.0 * np.mean(Y**2), rtol=1e-6)


def test_another_setting_is_another_program():
    losses = []
    for reduction in ("half_mean", "sum"):
        for scale in (1.0, 3.0):
            model = gflow.models.DiagonalLinear(gflow.Hadamard(Y[:2], X[1]), scale=scale)
            objective = gflow.objectives.SquaredLoss(X, Y, reduction)
            run = ran(model, objective)
            squares = (scale * X @ (Y[:2] * X[1]) - Y) ** 2
            factor = 1.0 if reduction == "sum" else 0.5 / len(Y)
            losses.append((run.loss[0], factor * np.sum(squares)))
    np.testing.assert_allclose(*np.transpose(losses), rtol=1e-10)


BEND = 1.0


class Bent(gflow.models.DiagonalLinear):
    """Of a user, who may read anything."""

    def __call__(self, x):
        return BEND * super().__call__(x)


class Layer(eqx.Module):
    weight: gflow.Hadamard

    def __call__(self, x):
        return BEND * x * self.weight.value[None]


@pytest.mark.parametrize("kind", ["a class derived from ours", "a layer within ours"])
def test_what_a_user_wrote_is_traced_in_every_call(kind, monkeypatch, traces):
    leaf = gflow.Hadamard(Y[:2], X[1])
    if kind == "a layer within ours":
        model = gflow.models.Residual((Layer(leaf),))
        prompts = X[:, None]  # one token each
        objective = gflow.objectives.SquaredLoss(prompts, np.zeros_like(prompts))
    else:
        model, objective = Bent(leaf), gflow.objectives.SquaredLoss(X, Y)
    one = ran(model, objective).loss[0]
    monkeypatch.setitem(globals(), "BEND", 2.0)
    traces.clear()
    two = ran(model, objective).loss[0]
    assert traces
    monkeypatch.setitem(globals(), "BEND", 1.0)
    assert ran(model, objective).loss[0] == one != two


def test_a_setting_of_jax_is_part_of_it(traces):
    model = gflow.models.DiagonalLinear(weight())
    objective = gflow.objectives.SquaredLoss(X, Y)
    ran(model, objective)
    traces.clear()
    with jax.default_matmul_precision("highest"):
        ran(model, objective)
    assert traces


def test_a_method_of_ours_that_somebody_changed_is_another_program(monkeypatch, traces):
    model = gflow.models.DiagonalLinear(gflow.Hadamard(Y[:2], X[1]))
    objective = gflow.objectives.SquaredLoss(X, Y)
    one, call = ran(model, objective).loss[0], gflow.models.DiagonalLinear.__call__
    monkeypatch.setattr(gflow.models.DiagonalLinear, "__call__", lambda self, x: 2 * call(self, x))
    two = ran(model, objective).loss[0]
    theta = Y[:2] * X[1]
    np.testing.assert_allclose(one, 0.5 * np.mean((X @ theta - Y) ** 2), rtol=1e-10)
    np.testing.assert_allclose(two, 0.5 * np.mean((2 * X @ theta - Y) ** 2), rtol=1e-10)
