"""Two one-layer transformers of the cross-entropy papers, against sums written out."""

import math

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

import gflow
from gflow.models import OneLayerDecoder, PooledTransformer
from gflow.models._attended import attended
from theory import cross_entropy


def softmax(x):
    e = np.exp(x - np.max(x))
    return e / np.sum(e)


def arrays(model):
    leaves = model.key, model.query, model.value, model.inner, model.signs
    return [np.asarray(x.value) for x in leaves]


def test_the_pooled_transformer_is_its_sum():
    model = PooledTransformer.small(5, 3, 4, log_epsilon=0.5, key=jax.random.key(0))
    x = np.random.default_rng(0).normal(size=(6, 5))
    k, q, v, w, a = arrays(model)
    total = 0.0
    for token in x:
        mixed = x.T @ softmax(x @ k.T @ q @ token / math.sqrt(3))
        total += sum(a[j] * w[j] @ v @ mixed for j in range(4))
    assert float(model(jnp.asarray(x))) == pytest.approx(total, rel=1e-13)
    np.testing.assert_allclose(model.readout(jnp.asarray(x)), x @ (a @ w @ v), rtol=1e-12)
    np.testing.assert_allclose(
        model.scores(jnp.asarray(x))[1, 2], x[1] @ k.T @ q @ x[2], rtol=1e-12
    )


def test_the_default_start_is_that_of_linear_layers():
    model = PooledTransformer.small(400, 300, 200, log_epsilon=0.0, key=jax.random.key(0))
    for weight, inputs in zip(arrays(model), (400, 400, 400, 300), strict=False):
        assert np.max(np.abs(weight)) <= 1.0 / math.sqrt(inputs)
        assert np.std(weight) == pytest.approx(1.0 / math.sqrt(3.0 * inputs), rel=0.02)
    small = PooledTransformer.small(400, 300, 200, log_epsilon=-2.0, key=jax.random.key(0))
    np.testing.assert_allclose(small.value.value, math.exp(-2.0) * model.value.value, rtol=1e-12)


@pytest.mark.slow
def test_its_identities_hold_along_a_run():
    task = gflow.tasks.word_cooccurrence(6, 4, 20, key=jax.random.key(1))
    model = PooledTransformer.small(20, 4, 6, log_epsilon=0.7, key=jax.random.key(2))
    objective, signs = task.objective, np.asarray(model.signs.value)

    def outputs(model):
        return jax.vmap(model)(task.inputs)

    run = gflow.simulate(
        model, objective, t1=2.0, rtol=1e-10, observables={"f": outputs},
        save=np.linspace(0.99, 1.01, 5),
    )  # fmt: skip
    assert "signs" not in run.leaves
    at = np.searchsorted(run.t, np.linspace(0.99, 1.01, 5))
    norm2 = cross_entropy.readout_norm2(signs, run.observables["inner"][at])
    slope = (norm2[0] - 8 * norm2[1] + 8 * norm2[3] - norm2[4]) / (12 * 0.005)
    rate = cross_entropy.balance_identity(run.observables["f"][at[2]], task.labels, 6)
    assert slope == pytest.approx(float(rate), rel=1e-7)
    first, last = (
        cross_entropy.conserved(
            *(run.observables[n][i] for n in ("key", "query", "value", "inner"))
        )
        for i in (0, -1)
    )
    np.testing.assert_allclose(last.keys, first.keys, atol=1e-9)
    np.testing.assert_allclose(last.values, first.values, atol=1e-9)


def test_the_decoder_is_its_sum():
    rng = np.random.default_rng(0)
    kq, ov, x = rng.normal(size=(4, 4)), rng.normal(size=(3, 4)), rng.normal(size=(5, 4))
    model = OneLayerDecoder(gflow.Frozen(kq), gflow.Scaled(ov, 0.0))
    np.testing.assert_allclose(
        model(jnp.asarray(x)), ov @ (x.T @ softmax(x @ kq @ x[-1])), rtol=1e-12
    )
    np.testing.assert_allclose(model(jnp.asarray(x[:1])), ov @ x[0], rtol=1e-12)


@pytest.mark.parametrize("ahead", [0.0, 1.0, 30.0, 300.0])
def test_attention_on_one_token_keeps_the_digits_of_forces(ahead):
    """Against sums at 60 digits: a_j (v_j − Σ a v), where a floats' 1 − a is rounding."""
    rng = np.random.default_rng(3)
    values, direction = rng.normal(size=(4, 3)), rng.normal(size=3)
    logits = rng.normal(size=4) + ahead * np.array([0.0, 0.0, 1.0, 0.0])
    read = jax.value_and_grad(lambda s: attended(s, jnp.asarray(values)) @ jnp.asarray(direction))
    value, force = read(jnp.asarray(logits))
    with mpmath.workdps(60 + int(ahead)):
        e = [mpmath.exp(mpmath.mpf(float(x))) for x in logits]
        a = [x / sum(e) for x in e]
        v = [
            mpmath.fdot(zip(map(float, row), map(float, direction), strict=True)) for row in values
        ]
        mean = sum(x * y for x, y in zip(a, v, strict=True))
        exact = [float(x * (y - mean)) for x, y in zip(a, v, strict=True)]
    assert float(value) == pytest.approx(float(mean), rel=1e-13)
    np.testing.assert_allclose(force, exact, rtol=1e-12)
    # of equals the first is taken out, and nothing is lost
    tied = jnp.array([1.0, 2.0, 2.0, 0.5])
    softmax_of = jax.nn.softmax(tied) @ jnp.asarray(values)
    np.testing.assert_allclose(attended(tied, jnp.asarray(values)), softmax_of, rtol=1e-12)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda w: PooledTransformer(w(3, 5), w(3, 5), w(3, 5), w(4, 2), np.ones(4)), "inner"),
        (lambda w: PooledTransformer(w(3, 5), w(3, 4), w(3, 5), w(4, 3), np.ones(4)), "key"),
        (lambda w: PooledTransformer(*[w(3, 5)] * 3, w(4, 3), np.ones(3)), r"signs \(m₁,\)"),
        (lambda w: PooledTransformer(*[w(3, 5)] * 3, w(2, 3), np.array([1.0, 0.5])), "signs are"),
        (lambda w: OneLayerDecoder(w(3, 3), w(4, 5)), "kq"),
        (lambda w: OneLayerDecoder(w(3, 3), w(3)), "kq"),
    ],
)
def test_shapes_that_do_not_chain_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make(lambda *shape: gflow.Scaled(np.ones(shape), 0.0))


# --- their data ----------------------------------------------------------------------------


def test_words_occur_as_their_kinds_say():
    task = gflow.tasks.word_cooccurrence(12, 5, 64, key=jax.random.key(0))
    tokens, kinds = np.asarray(task.tokens), np.asarray(task.kinds)
    assert np.bincount(kinds).tolist() == [6, 2, 2, 2]
    for row, kind, label in zip(tokens, kinds, np.asarray(task.labels), strict=True):
        counts = [int(np.sum(row == word)) for word in range(3)]
        assert counts == [int(kind in (0, 1)), int(kind in (0, 2)), 1]
        assert label == (1.0 if kind == 0 else -1.0)
    others = tokens[tokens > 2]
    assert len(np.unique(others)) == len(others)
    np.testing.assert_array_equal(np.argmax(task.inputs, axis=-1), tokens)
    assert float(jnp.sum(task.inputs)) == tokens.size
    # places are random
    assert len(np.unique(np.argmax(tokens == 2, axis=1))) > 1


def test_the_published_size_needs_words_that_recur():
    with pytest.raises(ValueError, match=r"160 irrelevant tokens.*163 dimensions.*distinct=False"):
        gflow.tasks.word_cooccurrence(60, 5, 64, key=jax.random.key(0))
    task = gflow.tasks.word_cooccurrence(60, 5, 64, key=jax.random.key(0), distinct=False)
    for row in np.asarray(task.tokens):
        assert len(np.unique(row)) == 5
    gflow.tasks.word_cooccurrence(60, 5, 163, key=jax.random.key(0))
    other = gflow.tasks.word_cooccurrence(60, 5, 64, key=jax.random.key(1), distinct=False)
    assert not np.array_equal(task.tokens, other.tokens)


def test_the_best_token_decides_the_next():
    task = gflow.tasks.next_token(7, 50, 4, key=jax.random.key(0))
    order = np.asarray(task.order)
    rows = zip(*(np.asarray(x) for x in (task.tokens, task.labels, task.optimal)), strict=True)
    for sentence, label, optimal in rows:
        place = {int(x): i for i, x in enumerate(order[sentence[-1]])}
        best = min(sentence, key=lambda x: place[int(x)])
        assert label == task.next[best]
        np.testing.assert_array_equal(optimal, sentence == best)
        assert len(set(sentence.tolist())) > 1
    assert sorted(np.asarray(task.next).tolist()) == list(range(7))
    # a W_KQ that meets all constraints attends to the optimal tokens, and the logits are right
    rows = np.asarray(task.constraints).reshape(len(task.constraints), -1)
    found = cross_entropy.max_margin(rows, np.ones(len(rows), int))
    follows = np.eye(7)[np.asarray(task.next)].T
    model = OneLayerDecoder(
        gflow.Frozen(50.0 * found.weights.reshape(7, 7)), gflow.Frozen(50.0 * follows)
    )
    assert float(task.objective.accuracy(model)) == 1.0
    assert float(task.pairs.accuracy(model)) == 1.0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda key: gflow.tasks.word_cooccurrence(8, 5, 64, key=key), "multiple of six"),
        (lambda key: gflow.tasks.word_cooccurrence(0, 5, 64, key=key), "n = 0"),
        (lambda key: gflow.tasks.word_cooccurrence(6, 2, 64, key=key), "length = 2"),
        (lambda key: gflow.tasks.next_token(1, 5, 4, key=key), "vocabulary = 1"),
        (lambda key: gflow.tasks.next_token(4, 5, 1, key=key), "length = 1"),
        (lambda key: gflow.tasks.next_token(4, 0, 4, key=key), "n = 0"),
    ],
)
def test_sizes_that_make_no_data_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make(jax.random.key(0))
