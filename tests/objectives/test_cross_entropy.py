"""Cross-entropy against sums written out at 60 digits, on labels, tokens and minibatches."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import optax
import pytest

import gflow
from gflow.objectives import CrossEntropy, MarginLoss

LOGITS = np.array([
    [0.3, -1.2, 2.0],
    [40.0, 1.0, -3.0],  # all but certain: 1 − p = 1e-17
    [-700.0, 5.0, 5.0],  # all but impossible
    [1e3, 1e3, 1e3 - 1e-3],
    [800.0, 0.0, -1e3],  # 1 − p = e^-800, below the floats
])  # fmt: skip
LABELS = np.array([1, 0, 0, 2, 0])


class Table(eqx.Module):
    """A row of logits for each input, which is its number."""

    logits: jax.Array

    def __call__(self, index):
        return self.logits[index]


def exact(logits, label):
    """−log p of one row, and p − (one at the label)."""
    with mpmath.workdps(60):
        z = [mpmath.mpf(float(x)) for x in logits]
        total = mpmath.fsum(mpmath.exp(x - z[label]) for x in z)
        # the sum of the others: 1 − p without the rounding of 60 digits
        rest = mpmath.fsum(mpmath.exp(x - z[label]) for k, x in enumerate(z) if k != label)
        loss = mpmath.log1p(rest) if rest < 0.1 else mpmath.log(total)
        slope = [mpmath.exp(x - z[label]) / total for x in z]
        slope[label] = -rest / total
        return float(loss), [float(x) for x in slope]


def test_every_label_is_known_to_all_digits_and_so_is_its_gradient():
    objective = CrossEntropy(np.arange(5), LABELS, "sum")
    references = [exact(*row) for row in zip(LOGITS, LABELS, strict=True)]
    for i, (loss, slope) in enumerate(references):
        one = CrossEntropy(np.array([i]), LABELS[i : i + 1])
        value, gradient = eqx.filter_value_and_grad(one)(Table(jnp.asarray(LOGITS)))
        # differences of logits of 1000 are known to 1e-13, and these are logarithms
        np.testing.assert_allclose(value, loss, rtol=1e-12, atol=0)
        np.testing.assert_allclose(gradient.logits[i], slope, rtol=1e-12, atol=0)
        assert np.all(np.delete(np.asarray(gradient.logits), i, axis=0) == 0)
    assert 0 < references[1][0] < 1e-16
    total = objective(Table(jnp.asarray(LOGITS)))
    np.testing.assert_allclose(total, sum(loss for loss, _ in references), rtol=1e-14)


def test_two_classes_are_the_logistic_loss():
    x = jax.random.normal(jax.random.key(0), (7, 3))
    labels = np.array([0, 1, 1, 0, 1, 0, 0])
    w = jnp.array([0.3, -2.0, 0.7])
    binary = MarginLoss(x, 2.0 * labels - 1.0, "logistic")
    entropy = CrossEntropy(x, labels)
    left = binary(lambda x: jnp.dot(w, x))
    right = entropy(lambda x: jnp.stack([0.0 * w[0], jnp.dot(w, x)]))
    np.testing.assert_allclose(left, right, rtol=1e-14)


@pytest.mark.parametrize(
    ("reduction", "factor"),
    [("sum", 1), ("mean", 1 / 4), ("token_mean", 1 / 9), ("half_sum", 1 / 2), ("half_mean", 1 / 8)],
)
def test_reductions_sum_over_an_example_first(reduction, factor):
    rng = np.random.default_rng(1)
    table = rng.standard_normal((6, 5))
    tokens = rng.integers(0, 6, (4, 3))
    labels = rng.integers(0, 5, (4, 3))
    labels[0, 1:] = labels[2, 0] = -1  # 9 are asked for
    logs = table - np.log(np.sum(np.exp(table), axis=1, keepdims=True))
    asked = [(t, y) for t, y in zip(tokens.ravel(), labels.ravel(), strict=True) if y >= 0]
    total = -sum(logs[t, y] for t, y in asked)
    objective = CrossEntropy(tokens, labels, reduction)
    model = Table(jnp.asarray(table))
    np.testing.assert_allclose(objective(model), factor * total, rtol=1e-13)
    right = np.mean([np.argmax(table[t]) == y for t, y in asked])
    np.testing.assert_allclose(objective.accuracy(model), right, rtol=1e-13)


def test_tokens_are_asked_for_the_next_one():
    tokens = np.array([[0, 3, 1, 2], [2, 2, 0, 1]])
    model = Table(jnp.asarray(np.random.default_rng(2).standard_normal((4, 4))))
    given = CrossEntropy(tokens[:, :-1], tokens[:, 1:], "token_mean")
    assert CrossEntropy(tokens, reduction="token_mean")(model) == given(model)
    # an untrained model that knows nothing: log of the number of classes
    flat = CrossEntropy(tokens, reduction="token_mean")(Table(jnp.zeros((4, 4))))
    np.testing.assert_allclose(flat, math.log(4), rtol=1e-15)


def test_the_last_token_alone():
    tokens = np.array([[0, 3, 1], [2, 2, 0]])
    model = Table(jnp.asarray(np.random.default_rng(3).standard_normal((4, 4))))
    last = CrossEntropy(tokens, np.array([2, 3]), last=True)
    np.testing.assert_allclose(last(model), CrossEntropy(tokens[:, -1], np.array([2, 3]))(model))
    np.testing.assert_allclose(last(model), last(lambda x: model(x)[-1]))


def test_adding_a_number_to_all_logits_changes_nothing():
    objective = CrossEntropy(np.arange(5), LABELS)
    small = jnp.asarray(np.random.default_rng(4).integers(-8, 8, (5, 3)) * 0.25)
    assert objective(Table(small)) == objective(Table(small + 1024.0))


@pytest.mark.parametrize("reduction", ["mean", "sum", "token_mean"])
def test_minibatches_of_labels(reduction):
    """All examples in one batch are gradient descent; and a batch is what it says."""
    rng = np.random.default_rng(5)
    x, y = rng.standard_normal((6, 3)), rng.integers(0, 4, 6)
    objective = CrossEntropy(x, y, reduction)

    class Linear(eqx.Module):
        weight: jax.Array

        def __call__(self, x):
            return self.weight @ x

    model = Linear(jnp.zeros((4, 3)))
    settings = dict(learning_rate=0.1, steps=30)
    whole = gflow.descend(model, objective, **settings)
    batch = gflow.descend(model, objective, batch=6, key=jax.random.key(0), **settings)
    np.testing.assert_allclose(batch.loss, whole.loss, rtol=1e-12)
    assert whole.loss[-1] < whole.loss[0]
    small = gflow.descend(
        model, objective, batch=1, key=jax.random.key(0), optimizer=optax.sgd(1.0), steps=1
    )
    scale = 6 if reduction == "sum" else 1
    steps = [
        scale * np.outer(np.eye(4)[label] - 0.25, row) for row, label in zip(x, y, strict=True)
    ]
    found = np.asarray(small.final.weight)
    assert min(np.max(np.abs(found - step)) for step in steps) < 1e-12


def model(x):
    return jnp.zeros(3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[1.0]], [0.5]), "labels are float64: pass integers"),
        (([[1.0]], [True]), "labels are bool"),
        (([[1.0]], [-2]), "labels go from -2"),
        (([[1.0], [1.0]], [-1, -1]), "not everywhere"),
        (([[1.0]], [0, 1]), r"\(1, 1\) and labels \(2,\)"),
        (([[math.nan]], [0]), "NaN"),
        (([[1.0, 2.0]],), "integers of shape"),
        (([[1]],), "at least 2"),
    ],
)
def test_data_that_are_none_say_so(arguments, message):
    with pytest.raises(ValueError, match=message):
        CrossEntropy(*map(_array, arguments))


def _array(x):
    return x if isinstance(x, str) else np.array(x)


def test_labels_beyond_the_classes_and_logits_of_another_shape():
    with pytest.raises(ValueError, match=r"logits of 3 classes.*labels go up to 3"):
        CrossEntropy(np.ones((2, 1)), np.array([0, 3]))(model)
    with pytest.raises(ValueError, match=r"shape \(3,\).*labels of one have shape \(2,\)"):
        CrossEntropy(np.ones((2, 1)), np.array([[0, 1], [1, 2]]))(model)
    with pytest.raises(ValueError, match="two or more"):
        CrossEntropy(np.ones((2, 1)), np.array([0, 0]))(lambda x: jnp.zeros(1))
    with pytest.raises(ValueError, match="last=True needs labels"):
        CrossEntropy(np.ones((2, 2), int), last=True)

    # where the labels are not known before the call, no number comes out
    @jax.jit
    def inside(labels):
        return CrossEntropy(jnp.ones((2, 1)), labels)(model)

    assert np.isnan(inside(jnp.array([0, 3])))
    np.testing.assert_allclose(inside(jnp.array([0, 2])), math.log(3))
