"""Softmax heads on prompts: loops over tokens, their first order, starts, refusals."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gflow
from gflow.models import SoftmaxContextHeads

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


def frozen(value, key_query):
    return SoftmaxContextHeads(*(gflow.Frozen(np.asarray(x)) for x in (value, key_query)))


def by_loops(value, matrices, prompt):
    x, y, query = prompt[:-1, :-1], prompt[:-1, -1], prompt[-1, :-1]
    total = 0.0
    for mu, w in zip(value, matrices, strict=True):
        weights = [math.exp(one @ w @ query) for one in x]
        total += mu * sum(p * label for p, label in zip(weights, y, strict=True)) / sum(weights)
    return total


def test_it_is_attention_from_the_query_to_the_pairs():
    value, matrices = RNG.normal(size=3), RNG.normal(size=(3, 4, 4))
    prompt = RNG.normal(size=(6, 5))
    assert frozen(value, matrices)(jnp.asarray(prompt)) == pytest.approx(
        by_loops(value, matrices, prompt), rel=1e-13
    )
    # the left index is of the key token
    turned = by_loops(value, matrices.swapaxes(1, 2), prompt)
    assert abs(turned - by_loops(value, matrices, prompt)) > 1e-2
    other = prompt.copy()
    other[-1, -1] = 7.0  # the answer, which is not read
    model = frozen(value, matrices)
    assert model(jnp.asarray(other)) == model(jnp.asarray(prompt))


def test_a_number_a_head_is_that_times_the_unit_matrix():
    value, omega, prompt = RNG.normal(size=3), RNG.normal(size=3), RNG.normal(size=(6, 5))
    expected = by_loops(value, omega[:, None, None] * np.eye(4), prompt)
    assert frozen(value, omega)(jnp.asarray(prompt)) == pytest.approx(expected, rel=1e-13)


def test_its_first_order_is_linear_attention_on_centred_pairs():
    value, matrices, prompt = (
        RNG.normal(size=3),
        RNG.normal(size=(3, 4, 4)),
        RNG.normal(size=(6, 5)),
    )
    x, y, query = prompt[:-1, :-1], prompt[:-1, -1], prompt[-1, :-1]
    centred = np.mean(y[:, None] * x, axis=0) - np.mean(y) * np.mean(x, axis=0)
    errors = []
    for size in (1e-2, 5e-3):
        matrix = np.tensordot(value, size * matrices, 1)
        first = np.sum(value) * np.mean(y) + centred @ matrix @ query
        errors.append(float(frozen(value, size * matrices)(jnp.asarray(prompt))) - first)
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.05)
    assert abs(errors[0]) < 1e-2


def test_small_starts():
    drawn = SoftmaxContextHeads.small(3, log_epsilon=-230.0, key=KEY)
    one = SoftmaxContextHeads.small(3, log_epsilon=0.0, key=KEY)
    for name in ("value", "key_query"):
        far, near = (np.asarray(getattr(model, name).value) for model in (drawn, one))
        np.testing.assert_allclose(far, math.exp(-230.0) * near, rtol=1e-12)
        assert np.unique(np.abs(near)).size == 3
    pairs = SoftmaxContextHeads.small(4, log_epsilon=math.log(1e-3), pairs=True)
    np.testing.assert_allclose(pairs.value.value, [1e-3, -1e-3, 1e-3, -1e-3], rtol=1e-13)
    np.testing.assert_array_equal(pairs.value.value, pairs.key_query.value)


def test_its_flow_on_prompts_goes_down_to_another_optimum():
    """Gradients through the softmax, by differences of the loss at the start of a step."""
    task = gflow.tasks.in_context_regression(np.ones(2), 8, prompts=50, key=KEY)
    model = SoftmaxContextHeads(
        gflow.Scaled(np.array([0.4, -0.4]), 0.0), gflow.Scaled(RNG.normal(size=(2, 2, 2)), 0.0)
    )
    run = gflow.simulate(model, task.objective, t1=2.0, rtol=1e-8, error_bars=False)
    assert run.loss[-1] < 0.9 * run.loss[0]
    answers = [
        by_loops(model.value.value, np.asarray(model.key_query.value), np.asarray(p))
        for p in task.inputs
    ]
    expected = 0.5 * np.mean((np.array(answers) - np.asarray(task.targets)) ** 2)
    assert run.loss[0] == pytest.approx(expected, rel=1e-12)


REFUSED = {
    "SoftmaxContextHeads needs value": lambda: frozen(np.ones(2), np.ones(3)),
    r"they are \(2,\) and \(2, 3, 4\)": lambda: frozen(np.ones(2), np.ones((2, 3, 4))),
    "heads = 3: ± pairs": lambda: SoftmaxContextHeads.small(3, log_epsilon=0.0, pairs=True),
    "Give key=": lambda: SoftmaxContextHeads.small(3, log_epsilon=0.0),
    r"A prompt of shape \(1, 4\)": lambda: frozen(np.ones(2), np.ones(2))(jnp.ones((1, 4))),
    "inputs of 2 numbers.* take 3": lambda: frozen(np.ones(2), np.ones((2, 3, 3)))(
        jnp.ones((4, 3))
    ),
}


@pytest.mark.parametrize("words", REFUSED)
def test_refusals(words):
    with pytest.raises(ValueError, match=words):
        REFUSED[words]()
