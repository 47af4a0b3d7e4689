"""`weight_decay.predict` beside simulated runs: balance for any loss, the way and the end."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import CHANGES, check_falsified

import gflow
import theory
from gflow.models import DeepLinear, FactoredLinear, SoftmaxAttention
from gflow.objectives import SquaredLoss
from theory import exact_linear, weight_decay

TARGET = np.diag([1.0, 0.7, 0.4, 0.15])


class Case(NamedTuple):
    model: Any
    objective: Any
    decay: Any
    t1: float

    def run(self, **options):
        return gflow.simulate(self.model, self.objective, t1=self.t1, decay=self.decay, **options)

    def predict(self):
        return weight_decay.predict(self.model, self.objective, decay=self.decay)


def distance(model):
    return jnp.sum((model.matrix - jnp.asarray(TARGET)) ** 2)


def quartic(model):
    return jnp.sum((model.product - jnp.asarray(TARGET)) ** 4)


def gaussian(seed, *shape, scale=0.5):
    return scale * np.random.default_rng(seed).standard_normal(shape)


def heads():
    """Two softmax heads from small columns, which the gauge turns."""
    keys = jax.random.split(jax.random.key(0), 3)
    leaves = (gflow.Factored.small((2, 3, 3), 2, log_alpha=-3.0, key=k) for k in keys[:2])
    x = jax.random.normal(keys[2], (20, 4, 3))
    return Case(SoftmaxAttention(*leaves), SquaredLoss(x, jnp.tanh(x[:, ::-1])), 0.05, 12.0)


def tiny():
    """From α = 1e-50, where AᵀA − BᵀB is 1e-100 of what it will be beside."""
    leaf = gflow.Factored.small((4, 4), 3, log_alpha=-115.0, key=jax.random.key(1))
    return Case(FactoredLinear(leaf), distance, 0.05, 200.0)


def three():
    """Three plain layers, a loss of fourth order, and a decay that comes and goes."""
    layers = gaussian(2, 3, 4), gaussian(3, 3, 3), gaussian(4, 4, 3)
    return Case(DeepLinear(layers), quartic, lambda t: 0.3 * jnp.exp(-((t - 2.0) ** 2)), 6.0)


def general():
    """No balance of any kind: the end is known, the way is not."""
    leaf = gflow.Product(gaussian(5, 4, 4), gaussian(6, 4, 4))
    return Case(FactoredLinear(leaf), distance, 0.5, 60.0)


def even():
    w1, w2 = exact_linear.balanced_start((4, 3, 4), scale=0.1, key=jax.random.key(7))
    return Case(FactoredLinear(gflow.Factored(w2, w1.T)), distance, {"weight": 0.5}, 40.0)


def uneven():
    w1, w2 = exact_linear.balanced_start((4, 3, 4), balance=0.6, scale=0.2, key=jax.random.key(8))
    objective = SquaredLoss(jnp.eye(4), jnp.asarray(TARGET.T), "half_sum")
    return Case(DeepLinear((w1, w2)), objective, 0.25, 60.0)


GAP, END = "gap of {} beyond its bounds", ["distance from the soft threshold", "rank at the end"]


def balance(name):
    return [f"imbalance of {name}", GAP.format(name)]


CASES = {
    heads: [*balance("kq"), *balance("vo")],
    tiny: [*balance("weight"), *END],
    three: [*balance("weights.1 · weights.0"), *balance("weights.2 · weights.1")],
    general: [*balance("weight"), *END, "late slope of the gap"],
    even: [*balance("weight"), "weight", "loss", *END],
    uneven: [*balance("weights.1 · weights.0"), "W2 W1", "loss", *END, "late slope of the gap"],
}


@functools.cache
def run(case):
    return case().run()


@pytest.mark.parametrize("case", CASES)
def test_a_run_confirms_what_is_predicted_and_refutes_what_is_not(case):
    prediction = case().predict()
    table = theory.compare(run(case), prediction)
    assert [row.part for row in table.rows] == CASES[case]
    assert table.passed, str(table)
    # nothing can be told from what is zero, however it is wrong
    zero = [c.label for c in prediction.curves if c.label.startswith("gap of")]
    zero += ["imbalance of weight"] if case is even else []
    check_falsified(run(case), prediction, {(label, what) for label in zero for what in CHANGES})


def test_the_imbalance_is_that_of_the_start_times_the_decay():
    t = np.array([0.0, 1.0, 2.5, 6.0])
    prediction = three().predict()
    w1, w2, w3 = (np.asarray(w) for w in three().model.weights)
    # ∫₀ᵗ 0.3 e^{−(s − 2)²} ds by a fine sum
    fine = np.linspace(0.0, 6.0, 600_001)
    rate = 0.3 * np.exp(-((fine - 2.0) ** 2))
    total = np.concatenate([[0.0], np.cumsum(0.5 * (rate[1:] + rate[:-1]) * np.diff(fine))])
    shrunk = np.exp(-2.0 * np.interp(t, fine, total))
    for curve, (above, below) in zip(prediction.curves[::2], ((w2, w1), (w3, w2)), strict=True):
        g = above.T @ above - below @ below.T
        np.testing.assert_allclose(curve.value(t), shrunk[:, None, None] * g, rtol=1e-9)
    case = heads()
    for curve, name in zip(case.predict().curves[::2], ("kq", "vo"), strict=True):
        leaf = getattr(case.model, name)
        eigenvalues = np.linalg.eigvalsh(np.asarray(leaf.conserved()))
        expected = np.exp(-2.0 * 0.05 * t)[:, None, None] * eigenvalues
        np.testing.assert_allclose(curve.value(t), expected, rtol=1e-12)


@pytest.mark.parametrize("case", [general, even])
@pytest.mark.parametrize("factor", [0.8, 1.5])
def test_another_threshold_is_refuted(case, factor):
    rate = case().decay
    other = {k: factor * v for k, v in rate.items()} if isinstance(rate, dict) else factor * rate
    table = theory.compare(run(case), case()._replace(decay=other).predict())
    verdicts = {c.key: c.verdict for c in table.claims}
    assert verdicts["distance from the soft threshold"] == "refuted"
    assert verdicts["start.decay"] == "refuted"
    assert verdicts["start.factors"] == "confirmed"


def test_the_end_is_by_hand():
    """‖W − D‖² has c = 2: the threshold is λ/2, and the rank counts d > λ/2."""
    prediction = general().predict()
    rank = prediction.numbers[1]
    assert rank.predicted == 3
    w = np.asarray(run(general).final.matrix)
    np.testing.assert_allclose(w, np.diag([0.75, 0.45, 0.15, 0.0]), atol=1e-6)
    measured, bar = prediction.numbers[0].read(run(general))
    assert measured == pytest.approx(
        np.linalg.norm(w - np.diag([0.75, 0.45, 0.15, 0.0])), abs=1e-12
    )
    assert measured <= bar < 1e-2
    assert uneven().predict().numbers[1].predicted == 3  # a bottleneck, and d = 0.15 < λ


def test_a_run_before_its_end_leaves_the_end_open():
    short = general()._replace(t1=3.0)
    verdicts = {row.part: row.verdict for row in theory.compare(short.run(), short.predict()).rows}
    assert verdicts == {
        "imbalance of weight": "confirmed",
        "gap of weight beyond its bounds": "confirmed",
        "distance from the soft threshold": "undecided",
        "rank at the end": "undecided",
        "late slope of the gap": "undecided",
    }
    # a mode that has still to come: the run rests at a saddle for long
    early = tiny()._replace(t1=110.0)
    rows = theory.compare(early.run(), early.predict()).rows
    assert {row.verdict for row in rows[2:]} == {"undecided"}


def test_a_tie_is_told_from_the_modes_that_end():
    """d = λ/2 dies as 1/(4t): the rank leaves it out, and a run can not be at the end of it."""
    leaf = gflow.Factored(gaussian(5, 4, 4), gaussian(6, 4, 4))
    tied = Case(FactoredLinear(leaf), distance, 0.8, 400.0)
    far, rank, growth = tied.predict().numbers
    assert rank.predicted == 2
    assert growth.predicted == 4.0
    table = theory.compare(tied.run(), tied.predict())
    assert table.passed, str(table)
    measured, bar = far.read(table.trajectory)
    assert 0.25 / 400.0 * 0.9 < measured < bar


def test_factors_that_the_columns_cut_through_equal_modes_have_no_end():
    objective = SquaredLoss(jnp.eye(3), jnp.eye(3), "half_sum")
    leaf = gflow.Product(gaussian(9, 3, 2), gaussian(10, 2, 3))
    case = Case(FactoredLinear(leaf), objective, 0.1, 40.0)
    table = theory.compare(case.run(), case.predict())
    assert {row.part: row.verdict for row in table.rows}["distance from the soft threshold"] == (
        "undecided"
    )


def test_without_decay_balance_stays_as_it_is():
    still = general()._replace(decay=0.0, t1=8.0)
    prediction = still.predict()
    assert [c.label for c in prediction.curves] == balance("weight")
    assert prediction.curves[0].constant
    assert prediction.numbers == ()
    trajectory = still.run()
    assert theory.compare(trajectory, prediction).passed
    law = prediction.curves[0].value
    still_gap = prediction.curves[1]
    for value in (lambda t: 1.001 * law(t), lambda t: -law(t)):
        wrong = dataclasses.replace(prediction.curves[0], value=value)
        table = theory.compare(
            trajectory, dataclasses.replace(prediction, curves=(wrong, still_gap))
        )
        assert table.rows[0].verdict == "refuted"
    decays = general().predict().curves
    assert theory.compare(trajectory, theory.Prediction.of(*decays)).rows[0].verdict == "refuted"


@pytest.mark.parametrize("factor", [0.5, 1.0 + 1e-6])
def test_a_decay_that_is_slightly_wrong_is_refuted(factor):
    """By the parts alone, which know nothing of the decay of the run."""
    case = general()
    tight = case.run(rtol=1e-10)
    right = case.predict()
    wrong = case._replace(decay=factor * case.decay).predict()
    assert theory.compare(tight, theory.Prediction.of(*right.parts)).passed
    rows = theory.compare(tight, theory.Prediction.of(*wrong.parts)).rows
    verdicts = {row.part: row.verdict for row in rows}
    assert verdicts["imbalance of weight"] == "refuted"
    assert verdicts["distance from the soft threshold"] == "refuted"
    if factor == 0.5:
        # the gap falls as e^{−1.6t}, and could not be below e^{−2t} of it
        assert verdicts["gap of weight beyond its bounds"] == "refuted"


@pytest.mark.parametrize(
    ("model", "decay", "words"),
    [
        (lambda: DeepLinear((TARGET,)), 0.1, "trains weights.0"),
        (lambda: general().model, {"nothing": 0.1}, "nothing"),
        (lambda: three().model, {"weights.0": 0.1}, "one decay of both"),
    ],
)
def test_what_no_law_is_about_is_refused_in_a_sentence(model, decay, words):
    objective = SquaredLoss(jnp.eye(4), jnp.asarray(TARGET))
    with pytest.raises(ValueError, match=words):
        weight_decay.predict(model(), objective, decay=decay)
