"""`exact_linear.predict` beside simulated runs, however the two factors are held."""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import check_falsified

import gflow
import theory
from gflow.models import DeepLinear, FactoredLinear
from gflow.objectives import SquaredLoss
from theory import exact_linear

SIZES = (4, 3, 5)
TARGET = np.random.default_rng(0).standard_normal((5, 4))
SMALL = -8.0 * math.log(10.0)


def start(balance=0.0, scale=0.1, seed=0, sizes=SIZES):
    key = jax.random.key(seed)
    return exact_linear.balanced_start(sizes, balance=balance, scale=scale, key=key)


def identity(target=TARGET, reduction="half_sum"):
    return SquaredLoss(jnp.eye(target.shape[1]), jnp.asarray(target.T), reduction)


def data(reduction="mean", noise=0.1):
    """12 examples with white inputs of variance 1, and what the target does not explain."""
    rng = np.random.default_rng(1)
    x = math.sqrt(12.0) * np.linalg.qr(rng.standard_normal((12, 4)))[0]
    y = x @ TARGET.T + noise * rng.standard_normal((12, 5))
    return SquaredLoss(jnp.asarray(x), jnp.asarray(y), reduction)


class Case(NamedTuple):
    model: Any
    objective: Any
    t1: float = 1.0
    decay: Any = 0.0

    def run(self, **options):
        return gflow.simulate(self.model, self.objective, t1=self.t1, decay=self.decay, **options)

    def predict(self):
        return exact_linear.predict(self.model, self.objective, decay=self.decay)


def layers():
    return Case(DeepLinear(start(0.5)), identity(), 15.0)


def columns():
    w1, w2 = start(scale=1.0, seed=2)
    leaf = gflow.Factored(w2, w1.T, log_scale=SMALL)
    return Case(FactoredLinear(leaf), data(), 14.0, 0.3)


def chain():
    w1, w2 = start(scale=1e-3, seed=2)
    base = np.random.default_rng(3).standard_normal((5, 4))
    model = FactoredLinear(gflow.Product(w2, w1), base=base)
    return Case(model, data("half_mean"), 40.0, {"weight": 0.2})


def lazy():
    w1, w2 = exact_linear.orthogonal_start((4, 9, 5), gain=0.3, key=jax.random.key(4))
    return Case(DeepLinear((w1, w2)), identity(), 12.0)


CASES = (layers, columns, chain, lazy)


@functools.cache
def run(case):
    return case().run()


@pytest.mark.parametrize("case", CASES)
def test_a_run_confirms_what_is_predicted_and_refutes_what_is_not(case):
    prediction = case().predict()
    table = theory.compare(run(case), prediction)
    assert table.passed, str(table)
    labels = [c.label for c in prediction.curves] + [n.label for n in prediction.numbers]
    product = "W2 W1" if isinstance(case().model, DeepLinear) else "weight"
    assert labels == [product, "loss", "rank at rest", "loss at rest"]
    check_falsified(run(case), prediction)


@pytest.mark.parametrize("case", CASES)
def test_the_curves_are_those_of_the_closed_form(case):
    """By hand: the target from the data, the clock from the reduction, decay over it."""
    problem, prediction = case(), case().predict()
    t = np.array([0.0, 0.7, 3.0, 9.0])
    product, loss = (c.value(t) for c in prediction.curves)
    x, y = np.asarray(problem.objective.inputs), np.asarray(problem.objective.targets)
    n = len(x) if problem.objective.reduction.endswith("mean") else 1
    half = 0.5 if problem.objective.reduction.startswith("half") else 1.0
    sigma = y.T @ np.linalg.pinv(x.T)
    clock = 2.0 * half / n * np.sum(x**2) / x.shape[1]
    if isinstance(problem.model, DeepLinear):
        w1, w2 = (np.asarray(w) for w in problem.model.weights)
        base = np.zeros_like(sigma)
    elif isinstance(problem.model.weight, gflow.Product):
        w2, w1 = (np.asarray(w) for w in problem.model.weight.factors)
        base = np.asarray(problem.model.base.value)
    else:
        w2, w1 = (
            math.exp(SMALL) * np.asarray(w)
            for w in (problem.model.weight.left, problem.model.weight.right.T)
        )
        base = np.zeros_like(sigma)
    rate = problem.decay["weight"] if isinstance(problem.decay, dict) else problem.decay
    if case is lazy:
        expected = exact_linear.lazy_to_rich(sigma, 0.3, t)
    else:
        expected = exact_linear.two_layer(w1, w2, sigma - base, clock * t, rate / clock)
    np.testing.assert_allclose(product, expected, rtol=0, atol=1e-11)
    residual = y.T - (base + expected) @ x.T
    np.testing.assert_allclose(loss, half / n * np.sum(residual**2, axis=(1, 2)), rtol=1e-11)


def test_predictions_of_another_target_start_or_decay_are_refuted():
    here = columns()
    for other, key in (
        (here._replace(objective=data(noise=0.101)), "start.data"),
        (here._replace(decay=0.31), "start.decay"),
        (here._replace(model=gflow.rescale(here.model, SMALL - 0.1)), "weight"),
    ):
        verdicts = {c.key: c.verdict for c in theory.compare(run(columns), other.predict()).claims}
        assert verdicts[key] == verdicts["weight"] == "refuted"


def test_a_run_that_is_continued_keeps_its_time():
    early = layers()._replace(t1=1.2).run(error_bars=False)
    later = Case(early.final, identity(), 15.0)
    prediction = later.predict()
    assert prediction.curves[0].regime[0] == 1.2
    # the solver's error of the first part is in the start, beyond its balance
    with pytest.raises(ValueError, match="balanced"):
        Case(layers()._replace(t1=1.2).run(rtol=1e-4).final, identity(), 2.0).predict()
    table = theory.compare(later.run(), prediction)
    assert table.passed, str(table)
    check_falsified(later.run(), prediction)


def test_a_start_that_misses_a_mode_is_followed_to_its_saddle():
    """λ = 0 and sgn det W(0) ≠ sgn det Σ: the smallest singular value is never learned."""
    target = np.diag([2.0, 0.5])
    w1 = 0.2 * np.array([[1.0, 0.2], [0.1, 1.0]])
    u, s, _ = np.linalg.svd(w1)
    w2 = (u * np.array([1.0, -1.0])) @ np.diag(s) @ u.T  # det w2 w1 < 0, w2ᵀw2 = w1 w1ᵀ
    case = Case(DeepLinear((w1, w2)), identity(target), 12.0)
    prediction = case.predict()
    assert prediction.curves[0].regime == (0.0, 20.0)
    rank, loss = prediction.numbers
    assert rank.predicted == 1
    assert loss.predicted == pytest.approx(0.5 * 0.5**2, rel=1e-12)
    table = theory.compare(case.run(rtol=1e-11), prediction)
    assert table.passed, str(table)
    # the minimum instead of the saddle is refuted
    everything = dataclasses.replace(prediction, numbers=(dataclasses.replace(rank, predicted=2),))
    assert theory.compare(case.run(rtol=1e-11), everything).rows[-1].verdict == "refuted"


def test_a_run_that_ends_early_has_no_end():
    table = theory.compare(layers()._replace(t1=2.0).run(), layers().predict())
    verdicts = {row.part: row.verdict for row in table.rows}
    assert verdicts == {
        "W2 W1": "confirmed", "loss": "confirmed",
        "rank at rest": "undecided", "loss at rest": "undecided",
    }  # fmt: skip
    assert not table.passed


def test_a_coarse_run_does_not_confirm_what_it_cannot_resolve():
    coarse = layers().run(rtol=1e-8)
    wide = {name: 1e8 * np.asarray(bar) for name, bar in coarse.error.items()}
    wide = dataclasses.replace(coarse, error=wide)
    verdicts = {row.part: row.verdict for row in theory.compare(wide, layers().predict()).rows}
    assert verdicts["loss"] == "undecided"


class Two(eqx.Module):
    one: gflow.Factored
    two: gflow.Factored

    def __call__(self, x):
        return (self.one.value + self.two.value) @ x


def cube(model):
    return jnp.sum((model.matrix - jnp.asarray(TARGET)) ** 4)


def leaf(log_scale=0.0):
    w1, w2 = start(seed=2)
    return gflow.Factored(w2, w1.T, log_scale=log_scale)


def two(*factors, objective=None, decay=0.0):
    factors = factors or start(seed=2)
    return Case(DeepLinear(factors), objective or identity(), 1.0, decay)


def grey():
    return SquaredLoss(jnp.diag(jnp.array([1.0, 1.0, 1.0, 2.0])), jnp.asarray(TARGET.T))


def entries():
    leaf = gflow.Hadamard.small(4, log_alpha=-9, key=jax.random.key(0))
    return Case(gflow.models.DiagonalLinear(leaf), SquaredLoss(jnp.eye(4), jnp.ones(4)))


REFUSED = [
    (lambda: two(objective=grey()), "not white"),
    (lambda: Case(FactoredLinear(leaf()), cube), "no squared distance"),
    (lambda: two(start()[0], 2.0 * start()[1]), "not λ-balanced"),
    (lambda: two(*start(0.5), decay=0.1), "no closed form"),
    (lambda: two(decay={"weights.0": 0.1}), "one decay of both"),
    (lambda: two(decay=lambda t: 0.1), "λ\\(t\\) was given"),
    (lambda: two(start()[0], np.eye(3), start()[1]), "weights.0, weights.1, weights.2"),
    (lambda: two(TARGET), "one product"),
    (lambda: Case(Two(leaf(), leaf()), identity()), "one product of two"),
    (lambda: Case(FactoredLinear(leaf(-400.0)), identity()), "underflow"),
    (entries, "trains weight"),
]


@pytest.mark.parametrize(("case", "words"), REFUSED, ids=[w for _, w in REFUSED])
def test_what_has_no_closed_form_is_refused_in_a_sentence(case, words):
    made = case()
    with pytest.raises(ValueError, match=words):
        exact_linear.predict(made.model, made.objective, decay=made.decay)
