"""The limit algorithm: saddles, T_k and C_k against exact solutions and the simulated flow.

The flow t_k(α) = T_k·Λ + C_k + (a power of α) is the judge: the prediction uses connecting
orbits and never integrates a plateau, the simulation knows of neither. See tests/README.md.
"""

import math

import numpy as np
import pytest
from least_squares import (
    FIXTURE,
    LOG10,
    ORTHOGONAL,
    SADDLES,
    TIMES,
    UNEQUAL,
    WEIGHT,
    exact_crossing,
    fixture,
    fixture_run,
    linear,
    measured,
    objective,
    offsets,
    random_problem,
    taus,
    values,
)

import theory
from gflow.results._crossings import Quantity, first_crossing
from theory.gradual_rank import predict

# The fixture of 2607.12332

both = pytest.mark.parametrize("factors", ["equal", "unequal"])


@both
def test_fixture_times_and_saddles(factors):
    pred = fixture(factors)
    np.testing.assert_allclose(taus(pred), TIMES, rtol=0, atol=1e-12)
    np.testing.assert_allclose(values(pred), SADDLES, rtol=0, atol=1e-12)
    losses = 0.5 * np.sum((FIXTURE[0] @ SADDLES.T - FIXTURE[1][:, None]) ** 2, axis=0)
    np.testing.assert_allclose([s.loss for s in pred.stages], losses, rtol=0, atol=1e-12)
    assert pred.start.loss == 0.5
    assert pred.start.tau == 0.0


@both
def test_fixture_switches_and_ranks(factors):
    stages = fixture(factors).stages
    assert [s.activated for s in stages] == [[(WEIGHT, (i,))] for i in (0, 2, 3)]
    assert [s.deactivated for s in stages] == [[], [(WEIGHT, (0,))], []]
    assert [int(s.rank[WEIGHT]) for s in stages] == [1, 1, 2]
    assert [s.level[0] for s in stages] == [(WEIGHT, (i,)) for i in (0, 2, 3)]
    halves = SADDLES[[0, 1, 2], [0, 2, 3]] / 2
    np.testing.assert_allclose([s.level[1] for s in stages], halves, rtol=0, atol=1e-12)


@both
def test_fixture_margins_and_curvatures(factors):
    # forces (1, ½, 7/10, 0), then (0, −3/10, 1/10, −7/25), then (−1/20, −13/100, 0, −49/500)
    stages = fixture(factors).stages
    margins = [10 / 7 - 1, 25 / 7 - 3, 60 / 13 - 80 / 49]
    np.testing.assert_allclose([s.margin for s in stages], margins, rtol=1e-10)
    np.testing.assert_allclose([s.rate for s in stages], [1, 1 / 10, 49 / 500], rtol=1e-10)
    for s, k in zip(stages, SADDLES, strict=True):
        X = FIXTURE[0][:, k != 0]
        assert s.curvature == pytest.approx(np.linalg.eigvalsh(X.T @ X)[0], rel=1e-9)


def test_first_offset_of_the_fixture():
    # T·Λ + C of a logistic growth to half its plateau, s(0) = √2 α
    assert fixture("equal").stages[0].offset == pytest.approx(0.5 * math.log(1.6), abs=1e-9)


@both
def test_times_at_a_millionth_of_a_million_e_folds(factors):
    pred, run = fixture(factors), fixture_run(factors, -1e6)
    np.testing.assert_allclose(measured(pred, run) / 1e6, pred.at(-1e6).tau, rtol=1e-10)
    np.testing.assert_allclose(pred.at(-1e6).tau, TIMES + offsets(pred) / 1e6, rtol=1e-14)


@both
@pytest.mark.parametrize("decades", [64, 128])
def test_offsets_of_the_fixture_through_the_deactivation(factors, decades):
    pred, run = fixture(factors), fixture_run(factors, -decades * LOG10)
    miss = measured(pred, run) - pred.at(run.log_alpha).t
    np.testing.assert_allclose(miss, 0, atol=1e-6)


def test_remainder_is_the_power_of_alpha_that_the_deactivated_weight_has_fallen_to():
    # Weight 0 decays at 2|g| = 1/10 for τ = 80/49, so it is α^{8/49} when weight 3 switches.
    pred = fixture("equal")
    miss = [
        measured(pred, fixture_run("equal", -n * LOG10))[2] - pred.at(-n * LOG10).t[2]
        for n in (32, 36, 40)
    ]
    assert abs(miss[0]) == pytest.approx(4e-4, rel=0.1)
    slope = -np.diff(np.log10(np.abs(miss))) / 4
    np.testing.assert_allclose(slope, 8 / 49, rtol=0.01)


@both
def test_two_alphas_give_the_limit(factors):
    runs = [fixture_run(factors, -n * LOG10) for n in (64, 128)]
    limits = theory.extrapolate(runs)
    np.testing.assert_allclose([x.tau for x in limits], TIMES, rtol=0, atol=1e-6)
    rows = theory.compare(runs[0], fixture(factors), second=runs[1]).rows
    np.testing.assert_allclose([row.limit for row in rows], TIMES, rtol=0, atol=1e-6)


def test_overtaking_at_ten_to_the_minus_four():
    # 2607.12332: at α = 1e-4 jumps 2 and 3 come together.
    at = fixture("equal").at(-4 * LOG10)
    assert at.exists.tolist() == [True, False, True]
    assert at.merged == [[0], [1, 2]]
    assert fixture("equal").at(-32 * LOG10).exists.all()


def test_overtaking_times_are_the_published_ones():
    run = fixture_run("equal", -4 * LOG10)
    times = [
        first_crossing(run, Quantity(WEIGHT, (i,), sign), level).t / run.scale
        for i, sign, level in [(2, 1.0, 7 / 10), (3, -1.0, 5 / 49)]
    ]
    np.testing.assert_allclose(times, [4.5705, 4.6101], rtol=0, atol=5e-5)


# Exact solutions


def test_orthogonal_features_decouple_into_logistics():
    X, y = ORTHOGONAL
    A, C = UNEQUAL
    pred = predict(linear(-10.0), objective(ORTHOGONAL))
    g, h = X.T @ y, np.diag(X.T @ X)
    order = np.argsort(1 / np.abs(g))
    assert [s.activated for s in pred.stages] == [[(WEIGHT, (int(i),))] for i in order]
    np.testing.assert_allclose(taus(pred), 1 / np.abs(g[order]), rtol=1e-12)
    np.testing.assert_allclose(pred.stages[-1].value[WEIGHT], g / h, rtol=1e-12)
    size = np.where(g > 0, A, C)
    closed = (0.5 * np.log(4 * np.abs(g) / h) - np.log(size)) / np.abs(g)
    np.testing.assert_allclose(offsets(pred), closed[order], rtol=0, atol=1e-9)


@pytest.mark.parametrize("decades", [8, 40, 300, 4000])
def test_finite_alpha_times_of_single_weights_are_exact(decades):
    X, y = ORTHOGONAL
    A, C = UNEQUAL
    log_alpha = -decades * LOG10
    g, h = X.T @ y, np.diag(X.T @ X)
    exact = [
        exact_crossing(abs(g[i]), h[i], *((A[i], C[i]) if g[i] > 0 else (C[i], A[i])), log_alpha)
        for i in np.argsort(1 / np.abs(g))
    ]
    t = predict(linear(-10.0), objective(ORTHOGONAL)).at(log_alpha).t
    np.testing.assert_allclose(t, exact, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("decay", [0.05, 0.2])
def test_decay_slows_the_clock_and_shrinks_the_plateau(decay):
    X, y = ORTHOGONAL
    A, C = UNEQUAL
    pred = predict(linear(-10.0), objective(ORTHOGONAL), decay=decay)
    g, h = X.T @ y, np.diag(X.T @ X)
    rate = np.abs(g) - decay
    order = [i for i in np.argsort(-rate) if rate[i] > 0]
    np.testing.assert_allclose(taus(pred), 1 / rate[order], rtol=1e-12)
    closed = (0.5 * np.log(4 * rate / h) - np.log(np.where(g > 0, A, C))) / rate
    np.testing.assert_allclose(offsets(pred), closed[order], rtol=0, atol=1e-9)
    plateau = np.where(rate > 0, np.sign(g) * rate / h, 0.0)
    np.testing.assert_allclose(pred.stages[-1].value[WEIGHT], plateau, rtol=1e-12, atol=0)


def test_decay_above_every_force_leaves_the_origin_for_ever():
    pred = predict(linear(-10.0), objective(FIXTURE), decay=1.01)
    assert pred.stages == []
    assert pred.ended.startswith("complete")


# Symmetries


def test_the_unit_of_alpha_is_a_convention():
    # (A e^δ)·α = A·(α e^δ): times are those of Λ − δ
    shift = 0.7
    A, C = UNEQUAL
    pred, again = (
        predict(linear(-10.0, factors), objective(FIXTURE))
        for factors in (UNEQUAL, (A * math.exp(shift), C * math.exp(shift)))
    )
    np.testing.assert_allclose(taus(again), taus(pred), rtol=1e-12)
    np.testing.assert_allclose(
        offsets(again), offsets(pred) - shift * taus(pred), rtol=0, atol=1e-8
    )
    # α² is α with half the exponents
    half = predict(linear(-10.0, exponents=(0.5, 0.5)), objective(FIXTURE))
    np.testing.assert_allclose(taus(half), 0.5 * taus(pred), rtol=1e-12)
    np.testing.assert_allclose(offsets(half), offsets(pred), rtol=0, atol=1e-8)


def test_the_loss_sets_the_clock():
    pred = predict(linear(-10.0), objective(FIXTURE))
    doubled = predict(linear(-10.0), objective((2 * FIXTURE[0], 2 * FIXTURE[1])))
    for read in (taus, offsets):
        np.testing.assert_allclose(4 * read(doubled), read(pred), rtol=1e-9)
    np.testing.assert_allclose(values(doubled), values(pred), atol=1e-12)


def test_signs_and_order_of_the_features_are_conventions():
    X, y = random_problem(2216)
    A, C = UNEQUAL
    pred = predict(linear(-10.0), objective((X, y)))
    flip, order = np.array([1, -1, -1, 1]), np.array([2, 0, 3, 1])
    factors = (np.where(flip > 0, A, C)[order], np.where(flip > 0, C, A)[order])
    again = predict(linear(-10.0, factors), objective(((X * flip)[:, order], y)))
    np.testing.assert_allclose(taus(again), taus(pred), rtol=1e-10)
    np.testing.assert_allclose(offsets(again), offsets(pred), rtol=0, atol=1e-7)
    np.testing.assert_allclose(values(again), (values(pred) * flip)[:, order], atol=1e-10)


# Composite curves


def test_composite_curves_lie_on_the_simulated_ones():
    pred = fixture("unequal")
    errors = []
    for decades in (8, 16, 32, 64):
        run = fixture_run("unequal", -decades * LOG10)
        at = pred.at(run.log_alpha)
        loss = np.max(np.abs(at.loss(run.tau) - run.loss))
        weight = np.max(np.abs(at.value(run.tau)[WEIGHT] - run.leaves[WEIGHT]["value"]))
        errors.append((loss, weight))
    errors = np.array(errors)
    assert np.all(errors[1:] < 0.2 * errors[:-1])
    assert np.all(errors[-1] < 1e-6)


def test_composite_curves_take_times_of_any_shape():
    at = fixture("unequal").at(-100.0)
    tau = np.array([[0.5, 2.0, 4.9], [7.0, 1.0, 4.0]])
    assert at.loss(tau).shape == (2, 3)
    assert at.value(tau)[WEIGHT].shape == (2, 3, 4)
    assert at.loss(0.5).shape == ()
    plateaus = at.value(np.array([0.5, 2.5, 5.0, 7.5]))[WEIGHT]
    np.testing.assert_allclose(plateaus[:2], [[0] * 4, SADDLES[0]], atol=1e-8)
    np.testing.assert_allclose(plateaus[3], SADDLES[2], atol=1e-8)


def test_times_at_finite_alpha_are_the_line_through_t_and_c():
    pred = fixture("unequal")
    at = pred.at(-50.0)
    np.testing.assert_allclose(at.t, 50.0 * TIMES + offsets(pred), rtol=1e-13)
    np.testing.assert_allclose(at.tau, TIMES + offsets(pred) / 50.0, rtol=1e-13)
