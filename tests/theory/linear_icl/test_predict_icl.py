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
from gflow.models import MergedHeads, SeparateHeads
from gflow.objectives import InContextRegression
from theory import linear_icl
from theory.comparison._claims import CONFIRMED, REFUTED

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
