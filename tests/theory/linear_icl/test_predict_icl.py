"""Predictions of heads on prompts, judged on runs: met, refuted where wrong, refused."""

import dataclasses
import math

import jax
import numpy as np
import pytest
from in_context_flows import CONTEXT, EIGENVALUES, integrated, loss

import gflow
import theory
from gflow.internal import trained_leaves
from gflow.models import LinearSelfAttention, MergedHeads, SeparateHeads
from gflow.objectives import InContextRegression
from theory import linear_icl
from theory.comparison._claims import CONFIRMED, REFUTED
from theory.linear_icl._readings import around, passing

KEY = jax.random.key(1)
BASIS = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
TURNED = BASIS @ np.diag(EIGENVALUES) @ BASIS.T


def separate(rank=1, log_epsilon=-4.6):
    """The start of test_icl_heads, turned to the basis of TURNED."""
    rng = np.random.default_rng(3)
    v, k, q = rng.normal(size=5), rng.normal(size=(5, 4)), rng.normal(size=(5, 4))
    if rank > 1:
        k, q = (rng.normal(size=(5, 4, rank)) for _ in range(2))
    rows = [np.moveaxis(x.reshape(5, 4, rank), 2, 1) @ BASIS.T for x in (k, q)]
    return SeparateHeads(*(gflow.Scaled(x, log_epsilon) for x in (v, *rows)))


@pytest.fixture(scope="module")
def three_drops():
    """Under "mean", twice as fast as the papers' clock, with noise."""
    model, objective = separate(), InContextRegression(TURNED, CONTEXT, 0.1, "mean")
    run = gflow.simulate(model, objective, t1=2700.0)
    return model, objective, run


def verdicts(comparison):
    return {row.part: row.verdict for row in comparison.rows}


def test_separate_heads(three_drops):
    model, objective, run = three_drops
    found = verdicts(theory.compare(run, linear_icl.predict(model, objective)))
    later = {"half-drop 4", "head of drop 4", "plateau 3"}
    for label, verdict in found.items():
        assert verdict == CONFIRMED or label in later, label
    assert sum(v == CONFIRMED for v in found.values()) >= 10
    assert {"v² − ‖K‖²", "K Kᵀ − Q Qᵀ", "half-drop 3", "head of drop 3", "plateau 2"} <= set(found)


def test_wrong_numbers_are_refuted(three_drops):
    """Another context, another clock and another head do not pass."""
    model, objective, run = three_drops
    right = linear_icl.predict(model, objective)
    other = linear_icl.predict(model, InContextRegression(TURNED, 10, 0.1, "mean"))
    found = verdicts(theory.compare(run, dataclasses.replace(other, origin=right.origin)))
    assert found["plateau 1"] == REFUTED
    assert found["v² − ‖K‖²"] == CONFIRMED  # which holds for any loss
    wrong = {"half-drop 2": 2.0, "head of drop 1": 4.0, "plateau 2": 0.5}
    changed = tuple(
        dataclasses.replace(n, predicted=n.predicted * wrong.get(n.label, 1.0))
        for n in right.numbers
    )
    found = verdicts(theory.compare(run, dataclasses.replace(right, numbers=changed)))
    assert {label for label, verdict in found.items() if verdict == REFUTED} == set(wrong)


@pytest.fixture(scope="module")
def from_a_googolth():
    model = SeparateHeads.small(4, 5, log_epsilon=math.log(1e-100), key=KEY)
    objective = InContextRegression(TURNED, CONTEXT)
    return model, objective, gflow.simulate(model, objective, t1=1e103)


def test_all_drops_from_a_size_without_digits_of_t(from_a_googolth):
    """Times, heads, plateaus and what is conserved, in units, by the lapses of steps."""
    model, objective, run = from_a_googolth
    comparison = theory.compare(run, linear_icl.predict(model, objective))
    assert comparison.passed
    assert len(comparison.rows) == 13
    halves = [row for row in comparison.closed_forms if "half" in row.part]
    assert [abs(row.measured / row.predicted - 1.0) < 1e-7 for row in halves] == [True] * 4


def test_steps_beside_a_drop_are_told_by_lapses(from_a_googolth):
    """t does not move within a drop at 10¹⁰⁰; the sums of its steps do."""
    _, _, run = from_a_googolth
    level = float(np.mean(linear_icl.plateaus(EIGENVALUES, CONTEXT)[:2])) / 2
    found = passing(run, level)
    assert found is not None
    assert run.loss[found.step] > level > run.loss[found.step + 1]
    steps = around(run, found.step, 100.0)
    assert steps is not None
    first, last = steps
    assert run.t[last] == run.t[found.step]
    until, since = run.lapses[first + 1 : found.step + 1], run.lapses[found.step + 2 : last + 1]
    assert np.sum(until) >= 100.0 > np.sum(until[1:])
    assert np.sum(since) >= 100.0 > np.sum(since[:-1])
    assert around(run, found.step, 1e104) is None


def test_another_head_and_another_time_are_refuted_there(from_a_googolth):
    model, objective, run = from_a_googolth
    right = linear_icl.predict(model, objective)
    numbers = {n.label: n for n in right.numbers}
    for label, factor in (("half-drop 2", 1.0 + 1e-6), ("half-drop 4", 0.99), ("plateau 1", 1.001)):
        one = dataclasses.replace(numbers[label], predicted=factor * numbers[label].predicted)
        assert [r.verdict for r in theory.compare(run, theory.Prediction.of(one)).rows] == [REFUTED]
    heads = [int(numbers[f"head of drop {m}"].predicted) for m in range(1, 5)]
    assert sorted(heads) == sorted(set(heads))
    wrong = dataclasses.replace(numbers["head of drop 3"], predicted=heads[0])
    assert [r.verdict for r in theory.compare(run, theory.Prediction.of(wrong)).rows] == [REFUTED]


@pytest.mark.parametrize("log_sigma", [-5.0, -115.0])
def test_all_blocks_of_linear_self_attention(log_sigma):
    """As merged heads in two of its blocks; a start with mixed blocks is refused."""
    theta = np.random.default_rng(1).normal(size=(4, 4))
    model = LinearSelfAttention.small(theta, log_sigma=log_sigma)
    objective = InContextRegression(TURNED, CONTEXT)
    run = gflow.simulate(model, objective, t1=(80.0 - 1.6 * log_sigma) / 0.188)
    prediction = linear_icl.predict(model, objective)
    assert theory.compare(run, prediction).passed
    merged = MergedHeads(
        gflow.Scaled(np.asarray(model.value.value)[-1:, -1], 0.0),
        gflow.Scaled(np.asarray(model.key_query.value)[None, :-1, :-1], 0.0),
    )
    other = {c.label: c for c in linear_icl.predict(merged, objective).curves}
    t = np.linspace(0.0, run.t[-1], 7)
    for curve in prediction.curves:
        np.testing.assert_allclose(curve.value(t), other[curve.label].value(t), rtol=1e-12)
    mixed = np.asarray(model.value.array).copy()
    mixed[-1, 0] = 1.0
    with pytest.raises(ValueError, match="not zero"):
        linear_icl.predict(
            LinearSelfAttention(gflow.Scaled(mixed, log_sigma), model.key_query), objective
        )


def test_merged_heads():
    objective = InContextRegression(TURNED, CONTEXT)
    model = MergedHeads.small(4, 3, log_epsilon=math.log(1e-4), key=KEY)
    run = gflow.simulate(model, objective, t1=90.0)
    right = linear_icl.predict(model, objective)
    assert theory.compare(run, right).passed
    other = linear_icl.predict(MergedHeads.aligned(TURNED, 3, log_epsilon=-7.0, key=KEY), objective)
    found = verdicts(theory.compare(run, dataclasses.replace(other, origin=right.origin)))
    assert found["loss"] == found["diagonal of M"] == REFUTED


def test_an_aligned_start_is_predicted_to_rounding():
    model = MergedHeads.aligned(TURNED, 3, log_epsilon=-3.0, key=KEY)
    prediction = linear_icl.predict(model, InContextRegression(TURNED, CONTEXT))
    loss = next(c for c in prediction.curves if c.label == "loss")
    assert isinstance(loss.tolerance, float)
    assert loss.tolerance < 1e-10
    size = math.exp(-3.0)
    t = np.array([5.0, 20.0, 60.0])
    expected = 0.5 * linear_icl.merged(EIGENVALUES, CONTEXT, size, t).loss
    np.testing.assert_allclose(loss.value(t), expected, rtol=1e-11)


def test_heads_of_higher_rank_have_a_first_drop():
    prediction = linear_icl.predict(separate(2), InContextRegression(TURNED, CONTEXT))
    (number,) = prediction.numbers
    assert number.label == "half-drop 1"
    v, k, q = (np.asarray(leaf.value) for leaf in trained_leaves(separate(2)).values())
    levels = linear_icl.plateaus(EIGENVALUES, CONTEXT)
    _, times = integrated(
        [v, k, q], TURNED, CONTEXT, [1.2 * number.predicted], rtol=1e-8,
        events=[lambda m: loss(m, TURNED, CONTEXT) - 0.5 * (levels[0] + levels[1])],
    )  # fmt: skip
    assert isinstance(number.tolerance, float)
    assert abs(times[0][0] - number.predicted) < number.tolerance < 0.01 * number.predicted


def test_what_is_no_correction_any_more_is_left_open():
    lam = [0.44, 0.4, 0.2]
    model = SeparateHeads.small(3, 4, log_epsilon=-6.0, key=jax.random.key(5))
    numbers = {n.label: n for n in linear_icl.predict(model, InContextRegression(lam, 31)).numbers}
    assert not math.isnan(numbers["half-drop 1"].predicted)
    assert math.isnan(numbers["half-drop 2"].predicted)
    assert math.isnan(numbers["head of drop 2"].predicted)


def test_refusals():
    objective = InContextRegression(EIGENVALUES, CONTEXT)
    with pytest.raises(ValueError, match="model is a DiagonalLinear"):
        linear_icl.predict(gflow.models.DiagonalLinear(gflow.Scaled(np.ones(2), 0.0)), objective)
    with pytest.raises(ValueError, match="objective is a SquaredLoss"):
        linear_icl.predict(separate(), gflow.objectives.SquaredLoss(np.ones((2, 5)), np.ones(2)))
    frozen = MergedHeads(gflow.Frozen(np.ones(2)), gflow.Scaled(np.ones((2, 4, 4)), 0.0))
    with pytest.raises(ValueError, match=r"trains key_query; .* all of value, key_query"):
        linear_icl.predict(frozen, objective)
    with pytest.raises(ValueError, match="Two eigenvalues are"):
        linear_icl.predict(separate(), InContextRegression(np.eye(4), CONTEXT))
