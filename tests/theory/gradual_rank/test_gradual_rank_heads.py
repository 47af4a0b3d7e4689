"""The limit algorithm on softmax heads with diagonal weights, and on Woodworth's network."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from least_squares import LOG10, WEIGHT, measured, misses, objective, scaled, taus
from scipy import optimize

import gflow
import theory
from gflow.models import DiagonalAttention, woodworth
from gflow.objectives import SquaredLoss
from theory.gradual_rank import predict
from theory.remainder import remainder

#: Errors of stage times by the steps of the run, at its default tolerance.
SOLVER = 1e-8

# Woodworth's network


@pytest.fixture(scope="module")
def woodworth_problem():
    rng = np.random.default_rng(5)
    X, y = rng.standard_normal((3, 6)), rng.standard_normal(3)
    return X, y


@pytest.mark.slow
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
@pytest.mark.parametrize("decades", [32, 128])
def test_softmax_head_switches_when_predicted(decades):
    pred, run = one_head_prediction(), one_head_run(decades)
    miss = measured(pred, run) - pred.at(run.log_alpha).t
    left = remainder(pred, run.log_alpha)
    assert np.all(np.abs(miss) < left.time + SOLVER)
    # the first order is what is left, to second order in the e-folds it has come to
    second = 2.0 * left.efolds * left.time
    assert np.all(np.abs(miss - left.signed) < second + SOLVER)
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
