"""A frozen model with changes of some weights: what moves, and what it computes."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gflow
from gflow.models import SoftmaxAttention, Transformer, Tuned
from gflow.parameters._base import trained_leaves

KEY = jax.random.key(0)
SIZES = dict(d=6, heads=2, head_width=3, hidden=5, layers=2)
NAMES = ("layers.0.attention.query", "layers.1.attention.output", "readout")


def decoder():
    return Transformer(7, 5, **SIZES, key=KEY)


def adapters(model, log_alpha=-1.0):
    shapes = {name: leaf.shape for name, leaf in trained_leaves(model).items()}
    keys = jax.random.split(jax.random.key(3), len(NAMES))
    return {
        name: gflow.Factored.small(shapes[name], 2, log_alpha=log_alpha, key=k)
        for name, k in zip(NAMES, keys, strict=True)
    }


def test_it_computes_with_the_sum_of_both():
    model, tokens = decoder(), jnp.array([1, 4, 2, 6])
    changes = adapters(model)
    tuned = Tuned(model, changes)

    def added(m):
        return [m.layers[0].attention.query, m.layers[1].attention.output, m.readout]

    by_hand = eqx.tree_at(
        added, model, [w + c.value for w, c in zip(added(model), changes.values(), strict=True)]
    )
    np.testing.assert_array_equal(tuned(tokens), by_hand(tokens))
    assert np.max(np.abs(tuned(tokens) - model(tokens))) > 1e-3
    np.testing.assert_array_equal(Tuned(model, {})(tokens), model(tokens))
    assert jax.tree.structure(tuned.whole) == jax.tree.structure(model)


def test_only_the_changes_are_trained():
    model = decoder()
    tuned = Tuned(model, adapters(model, -1.0))
    assert list(trained_leaves(tuned)) == [f"changes.{name}" for name in NAMES]
    inputs = jnp.array([[1, 4, 2, 6], [0, 3, 3, 5]])
    labels = jnp.array([[4, 2, 6, 1], [3, 3, 5, 2]])
    loss = gflow.objectives.CrossEntropy(inputs, labels, "token_mean")
    gradient = jax.grad(lambda t: loss(t), allow_int=True)(tuned)
    kept = jax.tree.leaves(gradient.model)
    assert all(x.dtype == jax.dtypes.float0 for x in kept)
    run = gflow.simulate(
        tuned, loss, t1=3.0, rtol=1e-4, error_bars=False, solver=gflow.solvers.Tsit5()
    )
    assert run.loss[-1] < 0.9 * run.loss[0]
    for name, one in trained_leaves(model).items():
        other = trained_leaves(run.final.whole)[name]
        assert np.array_equal(one, other) == (name not in NAMES), name


def test_weights_that_are_read_by_value():
    kq, vo = (gflow.Factored.small((3, 3), 2, log_alpha=-0.1, key=k) for k in jax.random.split(KEY))
    model = SoftmaxAttention(kq, vo)
    change = gflow.Hadamard.small((3, 3), log_alpha=-0.5, key=jax.random.key(5))
    tuned, x = Tuned(model, {"vo": change}), jax.random.normal(jax.random.key(7), (4, 3))
    scores = jax.nn.softmax(x @ kq.value @ x.T, axis=-1)
    np.testing.assert_allclose(tuned(x), scores @ x @ (vo.value + change.value), rtol=1e-12)
    assert list(trained_leaves(tuned)) == ["changes.vo"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers.0.attention.quary": (2, 3, 6)}, r"layers\.0\.attention\.query"),
        ({"readout": (6, 7)}, r"has shape \(6, 7\), the weight it changes \(7, 6\)"),
    ],
)
def test_bad_input_is_a_sentence(changes, message):
    made = {
        name: gflow.Factored.small(shape, 1, log_alpha=-1.0, key=KEY)
        for name, shape in changes.items()
    }
    with pytest.raises(ValueError, match=message):
        Tuned(decoder(), made)
