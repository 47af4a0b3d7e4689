"""The anchor function against its definition in words, its loss, and the course of a run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from gflow import tasks
from theory.reproduce.condensation.anchor import measure as experiment
from theory.reproduce.condensation.anchor.problem import SCALES, OneLayer

KEY = jax.random.key(0)


@pytest.mark.parametrize("parity", [True, False])
def test_the_answer_is_the_key_after_the_anchor_shifted_by_it(parity):
    task = tasks.anchor_function(key=KEY, examples=3000, parity=parity)
    assert task.inputs.shape == (3000, 10)
    assert (task.length, task.vocabulary) == (10, 201)
    for tokens, target, place, anchor in zip(
        np.asarray(task.inputs), task.targets, task.places, task.anchors, strict=True
    ):
        (where,) = [i for i, token in enumerate(tokens) if token in (1, 2, 3, 4)]
        assert where == place < 9
        assert tokens[where] == anchor
        assert all(5 <= token <= 100 for i, token in enumerate(tokens) if i != where)
        assert target == tokens[where + 1] + (tokens[where] % 2 if parity else tokens[where])
    # everything is uniform: counts within five standard deviations
    for values, number in ((task.anchors, 4), (task.places, 9)):
        counts = np.bincount(np.asarray(values))[-number:]
        assert np.all(np.abs(counts - 3000 / number) < 5 * np.sqrt(3000 / number))
    keys = np.asarray(task.inputs)[np.asarray(task.inputs) > 4]
    assert set(keys) == set(range(5, 101))


def test_anchors_of_one_parity_are_synonymous():
    """Replacing 1 by 3 or 2 by 4 keeps the answer; 1 by 2 does not."""
    task = tasks.anchor_function(key=KEY, examples=500)
    anchors, shift = np.asarray(task.anchors), np.asarray(task.targets)
    shift = shift - np.asarray(task.inputs)[np.arange(500), np.asarray(task.places) + 1]
    assert [set(shift[anchors == a]) for a in (1, 2, 3, 4)] == [{1}, {0}, {1}, {0}]


def test_data_depend_on_the_key_alone():
    one, same, other = (
        tasks.anchor_function(key=jax.random.key(k), examples=50) for k in (0, 0, 1)
    )
    np.testing.assert_array_equal(one.inputs, same.inputs)
    np.testing.assert_array_equal(one.targets, same.targets)
    assert np.mean(one.inputs != other.inputs) > 0.9


@pytest.mark.parametrize("every", [False, True])
def test_the_loss_reads_the_last_token(every):
    task = tasks.anchor_function(key=KEY, examples=20, length=4, keys=(5, 8), vocabulary=12)
    rng = np.random.default_rng(0)
    table = rng.standard_normal((9, 12))

    def model(tokens):
        logits = jnp.asarray(table)[tokens]
        return logits if every else logits[-1]

    logits = table[np.asarray(task.inputs)[:, -1]]
    expected = [logsumexp(row) - row[t] for row, t in zip(logits, task.targets, strict=True)]
    np.testing.assert_allclose(task.objective(model), np.mean(expected), rtol=1e-13)
    right = [np.argmax(row) == t for row, t in zip(logits, task.targets, strict=True)]
    np.testing.assert_allclose(task.objective.accuracy(model), np.mean(right))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(examples=0), "examples = 0"),
        (dict(length=1), "length = 1"),
        (dict(anchors=0), "anchors = 0"),
        (dict(keys=(4, 100)), "above the anchors 1 … 4"),
        (dict(keys=(9, 8)), "first and last key"),
        (dict(vocabulary=101), "at least 102"),
        (dict(vocabulary=104, parity=False), "at least 105"),
    ],
)
def test_arguments_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        tasks.anchor_function(key=KEY, **settings)


def test_the_largest_answer_fits_the_smallest_vocabulary():
    task = tasks.anchor_function(key=KEY, examples=2000, vocabulary=102)
    assert int(jnp.max(task.targets)) == 101


def test_the_transformer_in_a_loop_over_tokens():
    model = OneLayer(201, 10, scale=0.3, key=KEY)
    tokens = tasks.anchor_function(key=KEY, examples=1).inputs[0]
    q, k, v, w1, w2 = (
        np.asarray(getattr(model, n)) for n in ("query", "key", "value", "inner", "outer")
    )
    x = np.asarray(model.embedding.value)[np.asarray(tokens)] + np.asarray(model.positions.value)
    scores = np.exp([(x[-1] @ q) @ (t @ k) / np.sqrt(64) for t in x])
    mixed = sum(s * t for s, t in zip(scores, x, strict=True)) / scores.sum()
    expected = np.tanh(mixed @ v @ w1) @ w2 @ np.asarray(model.projection.value)
    np.testing.assert_allclose(model(tokens), expected, rtol=1e-11, atol=1e-13)


def made_course(outer, attention):
    """A course whose five effective ranks and relative changes are given functions."""
    steps = np.arange(0.0, 101.0, 10.0)
    curves = {n: (outer if n in experiment.OUTER else attention) for n in experiment.MATRICES}
    ranks = {n: 50 * c[0](steps) for n, c in curves.items()}
    changes = {n: c[1](steps[:-1]) for n, c in curves.items()}
    return experiment.Course(steps, steps, {}, ranks, ranks, changes)


def test_onset_and_ratio_of_a_made_course():
    course = made_course(
        (lambda s: 1 - s / 400, lambda s: 1.0 + 0 * s),
        (lambda s: 1 - s / 2000, lambda s: np.where(s < 50, 0.5, 3.0)),
    )
    assert abs(course.onset(experiment.OUTER) - 40.0) < 1e-9
    assert course.onset(experiment.ATTENTION) == np.inf
    assert abs(course.ratio(0.0, 50.0) - 0.5) < 1e-12
    assert abs(course.ratio(50.0, 100.0) - 3.0) < 1e-12


def test_scales_keep_what_they_say():
    assert abs(SCALES["same σ√d"] * 8 - 640**-0.35) < 1e-15
    assert abs(np.log(SCALES["same exponent"]) / np.log(64) + 0.85) < 1e-15


def test_training_records_what_the_figures_show(monkeypatch):
    monkeypatch.setattr(experiment, "EXAMPLES", 60)
    monkeypatch.setattr(experiment, "BATCH", 20)
    (course,) = experiment.trained(0.02, steps=30, seeds=1)
    np.testing.assert_array_equal(course.steps, [0, 10, 20, 30])
    assert course.loss[-1] < course.loss[0]
    assert abs(course.loss[0] - np.log(201)) < 0.01
    for name, weights in course.weights.items():
        assert len(weights) == 4
        np.testing.assert_allclose(course.norms[name], [np.sqrt(np.sum(w**2)) for w in weights])
        moved = np.sqrt(np.sum((weights[1] - weights[0]) ** 2)) / course.norms[name][0]
        np.testing.assert_allclose(10 * course.changes[name][0], moved)
