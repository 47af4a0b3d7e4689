"""The limit algorithm: saddles, T_k and C_k against exact solutions and the simulated flow.

The flow t_k(α) = T_k·Λ + C_k + (a power of α) is the judge: the prediction uses connecting
orbits and never integrates a plateau, the simulation knows of neither. See tests/README.md.
"""

import functools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
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
    misses,
    objective,
    offsets,
    random_problem,
    scaled,
    taus,
    values,
)
from scipy import optimize

import gflow
import theory
from gflow.models import DiagonalAttention, DiagonalLinear, woodworth
from gflow.objectives import SquaredLoss
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


# Deactivation, re-activation, change of sign; thresholds; active starts


def signs(prediction):
    return np.sign(values(prediction)).astype(int).tolist()


def test_a_weight_returns_and_another_changes_sign():
    problem = random_problem(2389)
    pred = predict(linear(-10.0), objective(problem))
    assert signs(pred) == [
        [0, 0, 1, 0],
        [0, -1, 1, 0],
        [0, 0, 0, -1],  # 1 and 2 switch off at once,
        [-1, 0, 0, -1],
        [-1, 0, -1, -1],  # 2 returns with the other sign,
        [-1, -1, -1, -1],  # 1 with its own
    ]
    assert pred.stages[2].deactivated == [(WEIGHT, (1,)), (WEIGHT, (2,))]
    exact = np.linalg.solve(*problem)
    np.testing.assert_allclose(pred.stages[-1].value[WEIGHT], exact, rtol=1e-10)
    np.testing.assert_allclose(misses(pred, linear, objective(problem), [64, 128]), 0, atol=1e-6)


@pytest.mark.parametrize("seed", [1, 3, 5])
def test_unequal_exponents_are_thresholds(seed):
    rng = np.random.default_rng(100 + seed)
    exponents, factors = rng.uniform(0.4, 2.0, (2, 4)), rng.uniform(0.5, 2.0, (2, 4))
    problem = random_problem(seed)
    loss = objective(problem)
    pred = predict(linear(-10.0, factors, exponents), loss)
    g = problem[0].T @ problem[1]
    first = np.where(g > 0, exponents[0], exponents[1]) / np.abs(g)
    assert pred.stages[0].tau == pytest.approx(first.min(), rel=1e-12)
    make = functools.partial(linear, factors=factors, exponents=exponents)
    np.testing.assert_allclose(misses(pred, make, loss, [128]), 0, atol=1e-6)


ACTIVE = (np.array([0.0, 1, 1, 2]), np.array([2.0, 1, 1, 0]))  # weight 0 positive, 3 negative


@pytest.mark.parametrize("seed", [3, 7, 8])
def test_a_start_away_from_zero(seed):
    problem = random_problem(seed)
    loss = objective(problem)
    pred = predict(linear(-10.0, exponents=ACTIVE), loss)
    # the start settles into the least-squares fit that keeps its signs, at τ = 0
    X, y = problem
    free = np.array([0, 3])
    sign = np.array([1, -1])
    size, _ = optimize.nnls(X[:, free] * sign, y)
    expected = np.zeros(4)
    expected[free] = sign * size
    assert pred.start.tau == 0.0
    np.testing.assert_allclose(pred.start.value[WEIGHT], expected, atol=1e-10)
    make = functools.partial(linear, exponents=ACTIVE)
    np.testing.assert_allclose(misses(pred, make, loss, [128]), 0, atol=1e-6)


@pytest.mark.parametrize(
    ("tau", "passed", "atol"),
    [
        (0.6, 0, 1e-6),
        (2.3, 1, 1e-6),  # weight 2 is α^0.34, on its way up
        (4.7, 2, 1e-4),  # weight 0 is α^0.07, on its way down: 3e-5 at α = 1e-64
        (7.5, 3, 1e-6),
    ],
)
def test_a_run_continued_from_any_plateau_has_the_rest_of_the_path(tau, passed, atol):
    loss, whole, found = objective(FIXTURE), fixture("unequal"), []
    for decades in (64, 128):
        run = gflow.simulate(linear(-decades * LOG10), loss, tau1=tau, error_bars=False)
        rest = predict(run.final, loss)
        assert rest.start.tau == pytest.approx(tau, rel=1e-12)
        saddle = np.zeros(4) if passed == 0 else SADDLES[passed - 1]
        np.testing.assert_allclose(rest.start.value[WEIGHT], saddle, atol=1e-9)
        assert [s.label for s in rest.stages] == [s.label for s in whole.stages[passed:]]
        expected = whole.at(run.log_alpha).t[passed:]
        np.testing.assert_allclose(rest.at(run.log_alpha).t, expected, rtol=0, atol=1e-6)
        found.append(taus(rest))
    # the start has taken in C/Λ, so that T is of order 1/Λ away
    np.testing.assert_allclose(2 * found[1] - found[0], TIMES[passed:], rtol=0, atol=atol)


@pytest.mark.parametrize("tau", [2.3, 6.0])
def test_a_run_with_decay_can_be_continued_too(tau):
    loss, decay = objective(FIXTURE), {WEIGHT: 0.05}
    whole = predict(linear(-10.0), loss, decay=decay)
    run = gflow.simulate(linear(-128 * LOG10), loss, tau1=tau, decay=decay, error_bars=False)
    rest = predict(run.final, loss, decay=decay)
    passed = int(np.searchsorted(taus(whole), tau))
    assert [s.label for s in rest.stages] == [s.label for s in whole.stages[passed:]]
    expected = whole.at(run.log_alpha).t[passed:]
    np.testing.assert_allclose(rest.at(run.log_alpha).t, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("sign", [1, -1])
def test_active_weights_of_the_wrong_sign_vanish_first(sign):
    # each weight starts on the side its force pushes it away from
    X, y = ORTHOGONAL
    y = np.abs(y) * sign
    on, off = (0.0, 2.0) if sign < 0 else (2.0, 0.0)
    problem, exponents = (X, y), (on, off)
    pred = predict(linear(-10.0, exponents=exponents), objective(problem))
    np.testing.assert_array_equal(pred.start.value[WEIGHT], np.zeros(4))
    g = np.abs(X.T @ y)
    np.testing.assert_allclose(taus(pred), np.sort(2 / g), rtol=1e-12)
    make = functools.partial(linear, exponents=exponents)
    np.testing.assert_allclose(misses(pred, make, objective(problem), [128]), 0, atol=1e-6)


# Weight decay against the flow


@pytest.mark.parametrize("decay", [0.02, {WEIGHT: 0.05}], ids=["all", "by leaf"])
def test_decay_through_the_deactivation(decay):
    loss = objective(FIXTURE)
    pred = predict(linear(-10.0), loss, decay=decay)
    rate = decay if isinstance(decay, float) else decay[WEIGHT]
    X, y = FIXTURE
    for stage in pred.stages:
        # at rest: g = λ·sign on the support and |g| below what would have switched first
        theta = stage.value[WEIGHT]
        on = theta != 0
        g = X.T @ (y - X @ theta)
        np.testing.assert_allclose(g[on], rate * np.sign(theta[on]), atol=1e-12)
    assert [s.deactivated for s in pred.stages] == [[], [(WEIGHT, (0,))], []]
    np.testing.assert_allclose(misses(pred, linear, loss, [128], decay), 0, atol=1e-6)


@pytest.mark.parametrize("seed", [2216, 2389])
def test_decay_through_returns_and_changes_of_sign(seed):
    loss = objective(random_problem(seed))
    pred = predict(linear(-10.0), loss, decay=0.05)
    path = np.array(signs(pred))
    assert np.any((path.min(axis=0) < 0) & (path.max(axis=0) > 0))  # a change of sign
    assert sum(len(s.activated) for s in pred.stages) > 4  # a return
    np.testing.assert_allclose(misses(pred, linear, loss, [64, 128], 0.05), 0, atol=1e-6)


def test_decay_can_end_the_path_early():
    pred = predict(linear(-10.0), objective(FIXTURE), decay=0.3)
    # λ = 0.3: alone on its saddle weight 0 leaves forces of at most 0.28 on the others
    assert [s.activated for s in pred.stages] == [[(WEIGHT, (0,))]]
    np.testing.assert_allclose(pred.stages[0].value[WEIGHT], [0.56, 0, 0, 0], atol=1e-12)


class Gated(eqx.Module):
    """x ↦ ⟨x, a⟩(1 + ⟨x, b⟩): what a user writes, with no registration."""

    a: gflow.Parameter
    b: gflow.Parameter

    def __call__(self, x):
        return jnp.dot(x, self.a.value) * (1.0 + jnp.dot(x, self.b.value))


def gated_problem(seed):
    X, y = random_problem(seed)
    return SquaredLoss(jnp.asarray(X[:, :2]), jnp.asarray(y))


def gated(log_alpha):
    a, b = jax.random.split(jax.random.key(1))
    return Gated(
        gflow.Hadamard.small(2, log_alpha=log_alpha, key=a),
        gflow.Hadamard.small(2, log_alpha=log_alpha, key=b),
    )


def gated_gradients(loss, a, b):
    X, y = np.asarray(loss.inputs), np.asarray(loss.targets)
    linear, gate = X @ a, 1.0 + X @ b
    residual = (linear * gate - y) / len(y)
    return X.T @ (residual * gate), X.T @ (residual * linear)


def test_a_users_own_model_with_a_loss_that_is_not_quadratic():
    loss = gated_problem(9)
    pred = predict(gated(-10.0), loss)
    # a gate feels nothing before there is something to open it for
    assert [s.activated[0][0] for s in pred.stages] == ["a", "a", "b", "b"]
    for stage in pred.stages:
        a, b = stage.value["a"], stage.value["b"]
        for theta, gradient in zip((a, b), gated_gradients(loss, a, b), strict=True):
            np.testing.assert_allclose(np.where(theta != 0, gradient, 0), 0, atol=1e-12)
    np.testing.assert_allclose(misses(pred, gated, loss, [64, 128]), 0, atol=1e-6)


@pytest.mark.parametrize("seed", [3, 5, 6])
def test_what_remains_beyond_c_vanishes_with_alpha(seed):
    # near-ties (5: a margin of 0.1) and slow deactivations (5, 6): far from C at 1e-64
    pred = predict(gated(-10.0), gated_problem(seed))
    miss = np.abs(misses(pred, gated, gated_problem(seed), [64, 128]))
    slow = miss[0] > 1e-6
    assert slow.any() == (seed != 3)
    assert np.all(miss[1, slow] < miss[0, slow] / 10)
    assert np.all(miss[1, ~slow] < 1e-6)


def test_decay_of_one_leaf():
    loss, decay = gated_problem(9), {"b": 0.02}
    free, held = predict(gated(-10.0), loss), predict(gated(-10.0), loss, decay=decay)
    # the first two winners are of leaf a, which has no decay
    np.testing.assert_allclose(taus(held)[:2], taus(free)[:2], rtol=1e-10)
    for stage in held.stages:
        a, b = stage.value["a"], stage.value["b"]
        of_a, of_b = gated_gradients(loss, a, b)
        np.testing.assert_allclose(np.where(a != 0, of_a, 0), 0, atol=1e-12)
        np.testing.assert_allclose(np.where(b != 0, of_b + 0.02 * np.sign(b), 0), 0, atol=1e-12)
    assert np.any(held.stages[-1].value["b"] != 0)


# Woodworth's network


@pytest.fixture(scope="module")
def woodworth_problem():
    rng = np.random.default_rng(5)
    X, y = rng.standard_normal((3, 6)), rng.standard_normal(3)
    return X, y


def test_woodworth_reaches_the_l1_interpolator_in_half_the_time(woodworth_problem):
    X, y = woodworth_problem
    loss = objective((X, y))
    pred = predict(woodworth(6, log_alpha=-10.0), loss)
    program = optimize.linprog(np.ones(12), A_eq=np.hstack([X, -X]), b_eq=y)
    smallest = program.x[:6] - program.x[6:]
    np.testing.assert_allclose(2 * pred.stages[-1].value[WEIGHT], smallest, atol=1e-10)
    # w = 2u⊙v: rates and times as for u⊙v with twice the force
    single = theory.saddle_to_saddle.predict(X, y, "half_sum")
    np.testing.assert_allclose(2 * taus(pred), taus(single), rtol=1e-9)
    run = gflow.simulate(woodworth(6, log_alpha=-128 * LOG10), loss, tau1=6.0, error_bars=False)
    np.testing.assert_allclose(2 * run.leaves[WEIGHT]["value"][-1], smallest, atol=1e-6)
    np.testing.assert_allclose(measured(pred, run), pred.at(run.log_alpha).t, atol=1e-6)


# Softmax attention


def tokens(count, length, scales):
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.standard_normal((count, length, len(scales))) * scales)


def teach(x, kq, vo):
    teacher = DiagonalAttention(gflow.Frozen(jnp.array(kq)), gflow.Frozen(jnp.array(vo)))
    return SquaredLoss(x, jax.vmap(teacher)(x))


@functools.cache
def one_head_problem():
    return teach(tokens(40, 5, [1, 1.3, 0.8]), [[1, -0.6, 0.4]], [[1.5, -1, 0.7]])


def one_head(log_alpha):
    a, b = jax.random.split(jax.random.split(jax.random.key(1), 4)[0])
    return DiagonalAttention(
        gflow.Hadamard.small((1, 3), log_alpha=log_alpha, key=a),
        gflow.Hadamard.small((1, 3), log_alpha=log_alpha, key=b),
    )


@functools.cache
def one_head_prediction():
    return predict(one_head(-10.0), one_head_problem())


@functools.cache
def one_head_run(decades):
    return gflow.simulate(
        one_head(-decades * LOG10), one_head_problem(), tau1=4.0, error_bars=False
    )


@pytest.mark.slow
def test_softmax_head_raises_its_rank_one_weight_at_a_time():
    pred = one_head_prediction()
    assert len(pred.stages) == 6
    total = [sum(int(np.sum(r)) for r in s.rank.values()) for s in pred.stages]
    assert total == [1, 2, 3, 4, 5, 6]
    # with VO = 0 the output is 0 whatever KQ is, so VO is first, at 1/|⟨X̄, Y⟩|
    loss = one_head_problem()
    mean = jnp.mean(loss.inputs, axis=1, keepdims=True)
    g = np.asarray(jnp.mean(jnp.sum(mean * loss.targets, axis=1), axis=0))
    assert pred.stages[0].activated == [("vo", (0, int(np.argmax(np.abs(g)))))]
    assert pred.stages[0].tau == pytest.approx(1 / np.max(np.abs(g)), rel=1e-12)
    # it ends at the teacher
    last = pred.stages[-1].value
    np.testing.assert_allclose(last["kq"], [[1, -0.6, 0.4]], atol=1e-8)
    np.testing.assert_allclose(last["vo"], [[1.5, -1, 0.7]], atol=1e-8)
    assert pred.stages[-1].loss < 1e-20


@pytest.mark.slow
@pytest.mark.parametrize(("decades", "atol"), [(32, 0.02), (128, 1e-4)])
def test_softmax_head_switches_when_predicted(decades, atol):
    pred, run = one_head_prediction(), one_head_run(decades)
    miss = measured(pred, run) - pred.at(run.log_alpha).t
    np.testing.assert_allclose(miss, 0, atol=atol)
    stages = run.stages()
    assert [s.activated for s in stages] == [s.activated for s in pred.stages]
    for found, stage in zip(stages, pred.stages, strict=True):
        for name in ("kq", "vo"):
            np.testing.assert_array_equal(found.rank[name], stage.rank[name])


@pytest.mark.slow
def test_softmax_head_remainder_vanishes_as_a_power_of_alpha():
    pred = one_head_prediction()
    miss = np.array(
        [measured(pred, one_head_run(n)) - pred.at(-n * LOG10).t for n in (32, 64, 128)]
    )
    # the slowest stages: two further halvings of log α take the same power each
    slow = np.abs(miss[:, 3:])
    rate = np.log(slow[:-1] / slow[1:]) / (np.array([[32], [64]]) * LOG10)
    assert np.all(slow[1:] < 0.1 * slow[:-1])
    np.testing.assert_allclose(rate[0], rate[1], rtol=0.05)


# Several heads


@functools.cache
def two_heads_problem():
    return teach(tokens(12, 4, [1, 1.3]), [[1.0, -0.6], [-0.5, 0.8]], [[1.5, -1], [0.6, 0.9]])


HEADS = np.random.default_rng(3).uniform(0.5, 2.0, (4, 2, 2))  # A, C of kq and of vo


def two_heads(log_alpha, exponents=((1.0, 1.0), (1.0, 1.0))):
    k = np.array(exponents)
    return DiagonalAttention(
        scaled(log_alpha, HEADS[:2], (k, k)), scaled(log_alpha, HEADS[2:], (k, k))
    )


@pytest.mark.slow
def test_heads_tie_while_attention_is_uniform_and_share_by_the_square_of_their_start():
    pred = predict(two_heads(-10.0), two_heads_problem())
    model, problem = two_heads(-64 * LOG10), two_heads_problem()
    run = gflow.simulate(model, problem, tau1=0.82, error_bars=False)
    for k, feature in enumerate([0, 1]):
        stage = pred.stages[k]
        assert stage.activated == [("vo", (0, feature)), ("vo", (1, feature))]
        np.testing.assert_array_equal(stage.rank["vo"], [k + 1, k + 1])
        np.testing.assert_array_equal(stage.rank["kq"], [0, 0])
        positive = stage.value["vo"][0, feature] > 0
        squares = HEADS[2 if positive else 3][:, feature] ** 2
        shares = stage.value["vo"][:, feature] / stage.value["vo"][:, feature].sum()
        np.testing.assert_allclose(shares, squares / squares.sum(), rtol=0, atol=1e-9)
        np.testing.assert_allclose(list(stage.shares.values()), shares, rtol=0, atol=1e-9)
        middle = 0.5 * (stage.tau + pred.stages[k + 1].tau)
        simulated = run.model(at=middle).vo.value[:, feature]
        np.testing.assert_allclose(simulated / simulated.sum(), shares, rtol=0, atol=1e-8)
        np.testing.assert_allclose(simulated, stage.value["vo"][:, feature], rtol=1e-5)
        assert stage.curvature > 0  # the line of equal saddles is not counted
    found = run.stages()
    assert found[0].activated == [("vo", (0, 0)), ("vo", (1, 0))]
    np.testing.assert_array_equal(found[0].rank["vo"], [1, 1])
    miss = measured_first(pred, run, 2) - pred.at(run.log_alpha).t[:2]
    np.testing.assert_allclose(miss, 0, atol=1e-6)


def measured_first(prediction, run, count):
    rows = theory.compare(run, prediction).rows
    return np.array([row.tau_measured for row in rows[:count]]) * run.scale


@pytest.mark.slow
def test_unequal_exponents_break_the_tie_of_the_heads():
    later = ((1.0, 1.0), (1.2, 1.2))
    pred = predict(two_heads(-10.0, later), two_heads_problem())
    assert all(len(s.activated) == 1 for s in pred.stages)
    assert [s.activated[0] for s in pred.stages[:2]] == [("vo", (0, 0)), ("vo", (0, 1))]
    assert any(s.deactivated for s in pred.stages)
    make = functools.partial(two_heads, exponents=later)
    miss = misses(pred, make, two_heads_problem(), [128])
    np.testing.assert_allclose(miss, 0, atol=1e-6)


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


# Errors


def two(log_alpha=-20.0, **kwargs):
    return linear(log_alpha, **kwargs)


class Reward(eqx.Module):
    """−Σ θ: no minimum."""

    def __call__(self, model):
        return -jnp.sum(model.weight.value)


class Separable(eqx.Module):
    """Logistic loss of labels that a line separates: its minimum lies at infinity."""

    inputs: jax.Array

    def __call__(self, model):
        return jnp.mean(jnp.log1p(jnp.exp(-jax.vmap(model)(self.inputs))))


class Pair(eqx.Module):
    first: gflow.Parameter
    second: object

    def __call__(self, x):
        second = getattr(self.second, "value", self.second)
        return jnp.dot(x, self.first.value + second)


def small(log_alpha):
    return gflow.Hadamard.small(4, log_alpha=log_alpha, key=jax.random.key(0))


def frozen_sign():
    u = jnp.array([1e-3, 2e-3, 1e-3, 1e-3])
    return DiagonalLinear(gflow.Hadamard(u, u.at[1].set(1e-3), log_alpha=-7.0))


# exponents 1, 2, 3, 4 under forces 1, 2, 3, 4: equal times at unequal rates
TIED = (np.eye(4), np.arange(1.0, 5.0))


@pytest.mark.parametrize(
    ("model", "problem", "words"),
    [
        (
            two(exponents=(np.arange(1.0, 5.0), 1.0)),
            TIED,
            r"accidental tie: weight\[0\], weight\[1\].*different rates.*Perturb the data",
        ),
        (frozen_sign(), FIXTURE, r"\|u\| = \|v\| at index \(0,\)"),
        (Pair(small(-10.0), small(-20.0)), FIXTURE, r"disagree.*first: -10, second: -20.*Pass"),
        (two(0.0), FIXTURE, "0 < α < 1.*log_alpha = 0"),
        (two(2.0), FIXTURE, "0 < α < 1.*log_alpha = 2"),
        (
            DiagonalLinear(gflow.Hadamard(jnp.full(4, 1e-3), jnp.zeros(4))),
            FIXTURE,
            "without log_alpha. Pass log_alpha=",
        ),
        (Pair(small(-10.0), jnp.ones(4)), FIXTURE, r"\['second'\].*gflow.Frozen"),
        (two(), (FIXTURE[0], np.zeros(4)), "No weight feels a force"),
        (two(exponents=(0.0, 0.0)), FIXTURE, r"weight\[0\] has exponents \(0, 0\).*\(0, 2\)"),
        (two(exponents=(1.0, -0.1)), FIXTURE, r"weight\[0\] has a negative exponent"),
    ],
)
def test_what_cannot_be_predicted_is_named(model, problem, words):
    with pytest.raises(ValueError, match=words):
        predict(model, objective(problem))


def test_log_alpha_can_be_given():
    unknown = DiagonalLinear(gflow.Hadamard(jnp.full(4, 1e-3), jnp.zeros(4)))
    pred = predict(unknown, objective(FIXTURE), log_alpha=math.log(1e-3))
    np.testing.assert_allclose(taus(pred), TIMES, atol=1e-9)
    with pytest.raises(ValueError, match=r"log_alpha = 0.5 was given"):
        predict(unknown, objective(FIXTURE), log_alpha=0.5)


def test_leaves_at_two_alphas_are_two_exponents():
    loss = objective(FIXTURE)
    given = predict(Pair(small(-10.0), gflow.Frozen(jnp.zeros(4))), loss, log_alpha=-5.0)
    own = predict(Pair(small(-10.0), gflow.Frozen(jnp.zeros(4))), loss)
    np.testing.assert_allclose(taus(given), 2 * taus(own), rtol=1e-12)
    np.testing.assert_allclose(given.at(-5.0).t, own.at(-10.0).t, rtol=1e-12)


def test_an_objective_unbounded_below_is_refused():
    # the force never fades: all four weights grow at once, at one rate
    with pytest.raises(ValueError, match=r"does not fade.*unbounded below"):
        predict(linear(-20.0), Reward())


def test_a_minimum_at_infinity_is_named():
    loss = Separable(jnp.asarray(np.abs(random_problem(0)[0])))
    model = linear(-20.0, (np.array([0.6, 1.7, 1.0, 0.8]), np.ones(4)))
    with pytest.raises(ValueError, match=r"force on them fades.*minimum lies at infinity"):
        predict(model, loss)


def test_a_minimum_at_infinity_is_refused_from_an_active_start_too():
    inputs = jnp.asarray(np.abs(random_problem(0)[0]))
    with pytest.raises(ValueError, match=r"from the start.*minimum lies at infinity"):
        predict(linear(-20.0, exponents=(0.0, 2.0)), Separable(inputs))


def test_decay_that_depends_on_time_is_refused():
    with pytest.raises(ValueError, match="constant decay"):
        predict(two(), objective(FIXTURE), decay=lambda t: 0.1 * t)


def test_a_degenerate_saddle_ends_the_path_with_a_warning():
    # at λ = 1/10 weight 0 leaves the support at exactly zero force
    with pytest.warns(UserWarning, match="degenerate"):
        pred = predict(linear(-20.0), objective(FIXTURE), decay=0.1)
    assert len(pred.stages) == 1
    assert "degenerate" in pred.ended


@pytest.mark.parametrize("log_alpha", [0.0, 3.0, math.nan, -math.inf])
def test_finite_alpha_needs_an_alpha(log_alpha):
    with pytest.raises(ValueError, match="0 < α < 1"):
        fixture("equal").at(log_alpha)


def test_max_stages_is_said_to_be_the_reason():
    pred = predict(linear(-10.0), objective(FIXTURE), max_stages=2)
    assert len(pred.stages) == 2
    assert "max_stages = 2" in pred.ended


def test_modes_that_decay_holds_back_are_counted():
    pred = predict(linear(-10.0, UNEQUAL), objective(FIXTURE), decay=0.2)
    assert len(pred.stages) < len(fixture("unequal").stages)
    assert pred.ended.startswith("complete")
    assert pred.ended.endswith("decay holds 2 back that would")
