"""The transformer, the recall task and the text, each against loops written out."""

import math
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformer_loops as loops
from scipy.special import erf

import gflow
from gflow import tasks
from gflow.models import Transformer
from gflow.objectives import CrossEntropy
from gflow.tasks._text import windows

KEY = jax.random.key(0)
SIZES = dict(d=6, heads=3, head_width=2, hidden=5, layers=2)


def small(key=KEY):
    return Transformer(7, 5, **SIZES, key=key)


def test_the_forward_pass_by_loops():
    model, tokens = small(), [3, 0, 6, 3]
    found = model(jnp.array(tokens))
    np.testing.assert_allclose(found, loops.decoder(model, tokens), rtol=0, atol=1e-12)


def test_gelu_of_the_loops_is_near_the_exact_one():
    x = np.linspace(-4, 4, 81)
    assert np.max(np.abs(loops.gelu(x) - 0.5 * x * (1 + erf(x / math.sqrt(2))))) < 1e-3


def test_later_tokens_are_not_seen():
    model = small()
    a, b = (model(jnp.array(t)) for t in ([1, 2, 3, 4, 5], [1, 2, 3, 0, 0]))
    np.testing.assert_array_equal(a[:3], b[:3])
    assert np.max(np.abs(a[3] - b[3])) > 1e-2


def test_a_head_is_its_two_products():
    """(RW_Q, RW_K) with R orthogonal, and heads in another order, change nothing."""
    model, tokens = small(), jnp.array([1, 2, 3])
    turn = jnp.linalg.qr(jax.random.normal(KEY, (3, 2, 2)))[0]

    def turned(attention):
        return eqx.tree_at(
            lambda a: (a.query, a.key, a.value, a.output),
            attention,
            (turn @ attention.query, turn @ attention.key, turn @ attention.value,
             attention.output @ turn.swapaxes(1, 2)),
        )  # fmt: skip

    def places(m):
        return [layer.attention for layer in m.layers]

    other = eqx.tree_at(places, model, [turned(a) for a in places(model)])
    np.testing.assert_allclose(other(tokens), model(tokens), rtol=0, atol=1e-12)
    for name in ("kq", "vo"):
        for a, b in zip(places(model), places(other), strict=True):
            (left, right), (left2, right2) = a.pairs[name], b.pairs[name]
            before, after = left @ right.swapaxes(1, 2), left2 @ right2.swapaxes(1, 2)
            np.testing.assert_allclose(before, after, rtol=0, atol=1e-12)
            assert np.linalg.matrix_rank(before).tolist() == [2, 2, 2]
    order = jnp.array([2, 0, 1])
    shuffled = eqx.tree_at(places, model, [jax.tree.map(lambda w: w[order], a)
                                           for a in places(model)])  # fmt: skip
    np.testing.assert_allclose(shuffled(tokens), model(tokens), rtol=0, atol=1e-12)


def test_every_head_conserves_its_imbalance():
    """AᵀĠ_A = Ġ_BᵀB of both products: d/dt(AᵀA − BᵀB) = 0 under the flow of any loss."""
    model = small()
    objective = CrossEntropy(jnp.array([[1, 2, 3, 4]]), jnp.array([[2, 3, 4, 0]]), "token_mean")
    gradient = eqx.filter_grad(objective)(model)
    for layer, slope in zip(model.layers, gradient.layers, strict=True):
        for name in ("kq", "vo"):
            (a, b), (ga, gb) = layer.attention.pairs[name], slope.attention.pairs[name]
            left, right = a.swapaxes(1, 2) @ ga, gb.swapaxes(1, 2) @ b
            np.testing.assert_allclose(left, right, rtol=0, atol=1e-14)
            assert np.max(np.abs(left)) > 1e-5


def test_sizes_are_checked():
    with pytest.raises(ValueError, match="heads = 0"):
        Transformer(7, 5, heads=0, key=KEY)
    with pytest.raises(ValueError, match=r"6 tokens.*positions for 5"):
        small()(jnp.zeros(6, int))


def test_recall_by_reading_the_sequences():
    task = tasks.associative_recall(key=KEY, examples=50, pairs=3, keys=5, values=4)
    assert task.vocabulary == 9
    assert task.length == 7
    asked = set()
    for story, target in zip(np.asarray(task.inputs), np.asarray(task.targets), strict=True):
        keys, values = story[0:6:2], story[1:6:2]
        assert len(set(keys.tolist())) == 3
        assert keys.max() < 5 <= values.min() <= values.max() < 9
        book = dict(zip(keys.tolist(), values.tolist(), strict=True))
        assert target[-1] == book[int(story[-1])]
        assert (target[:-1] == -1).all()
        asked.add(keys.tolist().index(int(story[-1])))
    assert asked == {0, 1, 2}
    again = tasks.associative_recall(key=KEY, examples=50, pairs=3, keys=5, values=4)
    np.testing.assert_array_equal(again.inputs, task.inputs)
    with pytest.raises(ValueError, match="pairs = 6"):
        tasks.associative_recall(key=KEY, pairs=6, keys=5)


def test_token_loss_by_loops():
    task = tasks.associative_recall(key=KEY, examples=6, pairs=2, keys=3, values=4)
    model = Transformer(7, 5, **SIZES, key=KEY)
    losses, right = [], 0
    for story, target in zip(np.asarray(task.inputs), np.asarray(task.targets), strict=True):
        logits = loops.decoder(model, story)[-1]
        losses.append(math.log(np.sum(np.exp(logits))) - logits[target[-1]])
        right += np.argmax(logits) == target[-1]
    assert float(task.objective(model)) == pytest.approx(np.mean(losses), abs=1e-12)
    assert float(task.objective.accuracy(model)) == right / 6


def test_text_is_split_without_overlap():
    text = tasks.python_reference()
    training, held_out = (text.decoded(x) for x in (text.training, text.held_out))
    assert len(training) > 200_000
    assert 0.05 < len(held_out) / len(training) < 0.2
    assert "statement" in training
    assert set(training) <= set(text.alphabet)
    shared = set(training.split("\n\n")) & set(held_out.split("\n\n"))
    assert not shared
    loss = text.windows(8, count=3, key=KEY)
    np.testing.assert_array_equal(loss.inputs[:, 1:], loss.labels[:, :-1])
    one = windows(jnp.asarray(text.training), jnp.array([5]), 8)
    assert text.decoded(one.inputs[0]) == training[5:13]
    assert text.decoded(one.labels[0]) == training[6:14]


def test_a_python_without_the_text(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data", None)
    with pytest.raises(ImportError, match="leaves it out"):
        gflow.tasks.python_reference()
