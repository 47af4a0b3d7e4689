"""Where a saddle path ends, what ties on it, and that no answer depends on units.

Right values are closed forms of single weights (dθ/dt = 2θ·g(θ) from a tiny start) and SciPy.
"""

import functools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

import gflow
from gflow.models import DiagonalLinear
from gflow.objectives import SquaredLoss
from theory.gradual_rank import predict

A, C = np.array([0.6, 1.7, 0.8]), np.array([1.2, 0.7, 1.9])  # |s|, |d| over α


def small(log_alpha=-50.0):
    return DiagonalLinear(
        gflow.Hadamard.from_scales(
            log_s=np.log(A) + log_alpha, log_d=np.log(C) + log_alpha, log_alpha=log_alpha
        )
    )


def squared(features, targets):
    return SquaredLoss(jnp.asarray(features, float), jnp.asarray(targets, float), "half_sum")


def offset(rate, curvature, size):
    """C of half the plateau of θ' = 2θ(r − hθ) from s(0) = size·α."""
    return (0.5 * np.log(4 * rate / curvature) - np.log(size)) / rate


# --- units ------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", [1e-6, 1e-3, 1e6])
def test_units_of_an_input_change_its_clock_and_nothing_else(unit):
    # x → cx, θ → θ/c: force and rate of that weight are c times as large, its curvature c²
    scale = np.array([1.0, unit, 1.0])
    effects = np.array([1.0, -0.5, 0.3])
    pred = predict(small(), squared(np.diag(scale), effects))
    rate = np.abs(effects) * scale
    order = np.argsort(1 / rate)
    assert [s.activated for s in pred.stages] == [[("weight", (int(i),))] for i in order]
    np.testing.assert_allclose([s.tau for s in pred.stages], 1 / rate[order], rtol=1e-9)
    closed = offset(rate, scale**2, np.where(effects > 0, A, C))[order]
    np.testing.assert_allclose([s.offset for s in pred.stages], closed, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(pred.stages[-1].value["weight"], effects / scale, rtol=1e-9)
    assert pred.ended.startswith("complete")


def test_a_large_effect_of_an_input_in_tiny_units():
    # θ = 1e8 is no run-away where the input is 1e-6 small
    pred = predict(small(), squared(np.diag([1.0, 1e-6, 1.0]), [1.0, 100.0, 0.3]))
    np.testing.assert_allclose(pred.stages[-1].value["weight"], [1.0, 1e8, 0.3], rtol=1e-9)


# --- small forces -----------------------------------------------------------------------


def test_a_force_far_below_the_largest_is_a_stage_of_its_own():
    pred = predict(small(), squared(np.eye(3), [1.0, 3e-11, 0.0]))
    assert [s.activated for s in pred.stages] == [[("weight", (0,))], [("weight", (1,))]]
    assert pred.stages[1].tau == pytest.approx(1 / 3e-11, rel=1e-4)
    assert pred.ended == "complete: nothing that is dormant feels a force that makes it grow"


def test_a_force_of_hardly_more_than_rounding_is_counted_and_named():
    pred = predict(small(), squared(np.eye(3), [1.0, 0.0, 4e-14]))
    assert len(pred.stages) == 1
    assert pred.ended.startswith("complete")
    assert "1 force counts as zero" in pred.ended
    assert "4e-14 would switch weight[2] at T ≈ 2.5e+13" in pred.ended


def test_noise_does_not_grow_with_what_no_input_explains():
    # residual 1e6 times the effects: the force on an irrelevant input is rounding of 1e6
    rng = np.random.default_rng(3)
    q = np.linalg.qr(rng.standard_normal((6, 4)))[0]
    pred = predict(small(), squared(q[:, :3], q @ [1.0, 0.0, 0.4, 1e6]))
    assert [s.activated for s in pred.stages] == [[("weight", (0,))], [("weight", (2,))]]
    assert pred.ended.startswith("complete")


# --- degenerate saddles -----------------------------------------------------------------


class Flat(eqx.Module):
    """(1 − a)⁴/4 + k(1 − a)²/2, felt by a dormant b as 0.3 + (1 − a)/2."""

    curvature: jax.Array

    def __call__(self, model):
        a, b, _ = model.weight.value
        left = 1.0 - a
        own = 0.25 * left**4 + 0.5 * self.curvature * left**2
        return own + 0.15 * (b - 1.0) ** 2 - 0.5 * b * left


def flat(curvature):
    return predict(small(), Flat(jnp.asarray(curvature)), max_stages=2)


def test_a_saddle_without_curvature_ends_the_path():
    with pytest.warns(UserWarning, match="degenerate saddle"):
        pred = flat(0.0)
    assert pred.ended.startswith("degenerate saddle")
    (stage,) = pred.stages
    # a' = 2a(1 − a)³: ∫da/(a(1 − a)³) = log a/(1 − a) + 1/(1 − a) + 1/2(1 − a)²
    assert stage.tau == pytest.approx(1.0, rel=1e-12)
    assert stage.offset == pytest.approx(0.5 * math.log(4) - math.log(A[0]) + 1.25, abs=1e-4)
    np.testing.assert_allclose(stage.value["weight"], [1.0, 0.0, 0.0], rtol=0, atol=1e-4)
    # the size of what is dormant is not known there, and so no rank is claimed for it
    assert pred.orbits is not None
    assert math.isnan(pred.orbits.log_weights(1, 50.0, 0.0)["weight"][1])


@pytest.mark.parametrize("curvature", [1e-2, 1e-4])
def test_a_saddle_of_little_curvature_does_not(curvature):
    pred = flat(curvature)
    first = pred.stages[0]
    assert len(pred.stages) == 2
    rate = 1.0 + curvature  # on a while it is small, 0.8 on b before and 0.3 after
    assert first.tau == pytest.approx(1 / rate, rel=1e-12)
    assert pred.stages[1].tau == pytest.approx(1 / rate + (1 - 0.8 / rate) / 0.3, rel=1e-10)
    assert first.curvature == pytest.approx(curvature, rel=1e-6)

    # what the orbit adds to b: ½∫(1 − a) after half-way, −½∫a before, da = 2a·g(a)ds
    def slope(a):
        return 2.0 * ((1.0 - a) ** 2 + curvature)

    after = quad(lambda a: 0.5 / (a * slope(a)), 0.5, 1.0, points=[0.9, 0.99], limit=500)[0]
    before = quad(lambda a: 0.5 / ((1.0 - a) * slope(a)), 0.0, 0.5)[0]
    own = quad(lambda a: 1 / (a * slope(a) * (1 - a)) - 1 / (2 * rate * a), 0.0, 0.5)[0]
    closed = (0.5 * math.log(2.0) - math.log(A[0])) / rate + own
    assert first.offset == pytest.approx(closed, abs=1e-8)
    assert pred.orbits is not None
    found = pred.orbits.log_weights(1, 50.0, 0.0)["weight"][1]
    size = math.log(A[1]) - 50.0 + 0.8 * (50.0 / rate + closed) + after - before
    assert found == pytest.approx(2.0 * size - math.log(4.0), abs=1e-5)


def test_a_line_of_minima_is_no_degenerate_saddle():
    # two data for three weights: the last saddle is one of a line that interpolates
    rng = np.random.default_rng(8)
    features, targets = rng.standard_normal((2, 3)), rng.standard_normal(2)
    features = np.concatenate([features, np.zeros((1, 3))])
    pred = predict(small(), squared(features, [*targets, 0.0]))
    assert pred.ended.startswith("complete")
    assert pred.stages[-1].loss < 1e-20


# --- ties -------------------------------------------------------------------------------


def test_equal_effects_switch_together():
    effects = np.array([1.0, -1.0, 0.3])
    pred = predict(small(), squared(np.eye(3), effects))
    stage, last = pred.stages
    assert stage.activated == [("weight", (0,)), ("weight", (1,))]
    assert stage.tau == pytest.approx(1.0, rel=1e-12)
    assert stage.level is not None
    # the weight with the largest factor leads: of s₀ = 0.6 and d₀ = 0.7 the second
    assert stage.level[0] == ("weight", (1,))
    assert stage.offset == pytest.approx(offset(1.0, 1.0, 0.7), abs=1e-9)
    np.testing.assert_allclose(stage.value["weight"], [1.0, -1.0, 0.0], rtol=0, atol=1e-12)
    assert stage.shares == {}  # they are no copies: each ends at its own optimum
    assert last.offset == pytest.approx(offset(0.3, 1.0, A[2]), abs=1e-8)


def test_equal_inputs_share_by_the_square_of_their_start():
    features = np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    pred = predict(small(), squared(features, [1.0, 0.3, 0.0]))
    stage, last = pred.stages
    shares = A[:2] ** 2 / np.sum(A[:2] ** 2)
    assert stage.activated == [("weight", (0,)), ("weight", (1,))]
    np.testing.assert_allclose(stage.value["weight"][:2], shares, rtol=1e-9)
    np.testing.assert_allclose(list(stage.shares.values()), shares, rtol=1e-9)
    # together they are one logistic of size √(ΣA²)
    assert stage.offset == pytest.approx(offset(1.0, 1.0, math.hypot(*A[:2])), abs=1e-9)
    assert last.offset == pytest.approx(offset(0.3, 1.0, A[2]), abs=1e-8)


# --- starts -----------------------------------------------------------------------------


def test_a_gradient_that_does_not_exist_at_zero_is_named():
    def loss(model):
        weight = model.weight.value
        return jnp.sum(jnp.square(weight - 1.0)) + 0.1 * jnp.linalg.norm(weight)

    with pytest.raises(ValueError, match=r"gradient at zero weights is not finite in \['weight'\]"):
        predict(small(), loss)


def test_factors_of_order_one_declared_tiny_are_refused():
    large = DiagonalLinear(
        gflow.Hadamard(jnp.array([1.0, 2.0, 3.0]), jnp.array([2.0, -1.0, 0.5]), log_alpha=-50.0)
    )
    with pytest.raises(ValueError, match=r"log_alpha = -50.*\(\+weight\[0\]\).*before the start"):
        predict(large, squared(np.eye(3), [1.0, 0.5, 0.3]))


@functools.cache
def run():
    return gflow.simulate(
        small(-200.0), squared(np.eye(3), [1.0, -0.6, 0.3]), tau1=1.2, error_bars=False
    )


@pytest.mark.parametrize("share", [1e-5, 0.01, 0.45, 0.55])
def test_a_model_in_the_midst_of_a_stage(share):
    loss = squared(np.eye(3), [1.0, -0.6, 0.3])
    whole = predict(small(-200.0), loss).at(-200.0).t
    # θ/(1 − θ) = ¼A²e^{2(t − Λ)}
    time = 200.0 - math.log(A[0]) + 0.5 * math.log(4 * share / (1 - share))
    model = run().model(at=time / 200.0)
    assert float(model.weight.value[0]) == pytest.approx(share, rel=1e-6)
    rest = predict(model, loss)
    left = whole if share < 0.5 else whole[1:]
    np.testing.assert_allclose(rest.at(-200.0).t, left, rtol=0, atol=1e-6)
