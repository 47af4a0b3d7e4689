"""Linear self-attention with all blocks: the formula in columns, its flow, mixed blocks."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from in_context_flows import CONTEXT, EIGENVALUES, integrated

import gflow
from gflow.models import LinearAttention, LinearSelfAttention, MergedHeads
from gflow.objectives import InContextRegression

RNG = np.random.default_rng(0)


def made(value, key_query):
    return LinearSelfAttention(*(gflow.Scaled(np.asarray(x), 0.0) for x in (value, key_query)))


def random_blocks(heads, d=4):
    return (RNG.normal(size=(heads, d + 1, d + 1)) for _ in range(2))


def in_columns(value, key_query, prompt):
    """Bottom right of E + Σ V E Eᵀ K E/N, less the label there, which is 0."""
    e = prompt.T.copy()
    e[-1, -1] = 0.0
    out = sum(v @ e @ e.T @ u @ e for v, u in zip(value, key_query, strict=True))
    return (e + out / (len(prompt) - 1))[-1, -1]


@pytest.mark.parametrize("heads", [1, 3])
def test_it_is_the_formula_of_the_paper(heads):
    value, key_query = random_blocks(heads)
    prompt = RNG.normal(size=(6, 5))
    model, expected = made(value, key_query), in_columns(value, key_query, prompt)
    assert model(jnp.asarray(prompt)) == pytest.approx(expected, rel=1e-12)
    if heads == 1:
        assert made(value[0], key_query[0])(jnp.asarray(prompt)) == pytest.approx(expected)
    # and its tensor, with all tokens in S
    tokens = prompt.copy()
    tokens[-1, -1] = 0.0
    square = tokens.T @ tokens / (len(tokens) - 1)
    by_tensor = np.einsum("ab,abc,c->", square, model.tensor(), tokens[-1, :-1])
    assert by_tensor == pytest.approx(expected, rel=1e-12)


def test_it_is_linear_attention_with_rows_for_tokens():
    value, key_query = random_blocks(2)
    prompt = RNG.normal(size=(6, 5))
    prompt[-1, -1] = 0.0
    kq, vo = (gflow.Frozen(np.swapaxes(x, 1, 2)) for x in (key_query, value))
    layer = LinearAttention(kq, vo, scale=1 / 5)(jnp.asarray(prompt))
    assert (prompt + layer)[-1, -1] == pytest.approx(
        float(made(value, key_query)(jnp.asarray(prompt))), rel=1e-12
    )


def test_without_mixed_blocks_it_is_merged_heads():
    value, key_query = random_blocks(3)
    value[:, -1, :-1] = key_query[:, -1, :-1] = 0.0
    model = made(value, key_query)
    merged = MergedHeads(
        gflow.Frozen(value[:, -1, -1]), gflow.Frozen(key_query[:, :-1, :-1].copy())
    )
    prompt = jnp.asarray(RNG.normal(size=(6, 5)))
    assert model(prompt) == pytest.approx(float(merged(prompt)), rel=1e-12)
    np.testing.assert_allclose(model.matrix(), merged.matrix(), rtol=1e-12)
    objective = InContextRegression(EIGENVALUES, CONTEXT)
    assert objective(model) == pytest.approx(float(objective(merged)), rel=1e-13)


@pytest.mark.parametrize("block", ["value", "key_query"])
def test_a_mixed_block_has_no_matrix(block):
    """It is refused, and in compiled code NaN, which a run refuses."""
    parts = dict(zip(("value", "key_query"), random_blocks(1), strict=True))
    parts["value"][0, -1, :-1] = parts["key_query"][0, -1, :-1] = 0.0
    parts[block][0, -1, 1] = 1e-300
    model = made(**parts)
    with pytest.raises(ValueError, match=r"no βᵀM x_q\. Take tensor"):
        model.matrix()
    assert np.all(np.isnan(jax.jit(lambda m: m.matrix())(model)))
    with pytest.raises(ValueError, match=r"nan|finite"):
        gflow.simulate(model, InContextRegression(EIGENVALUES, CONTEXT), t1=1.0)


def test_the_start_of_the_paper():
    theta = RNG.normal(size=(3, 2))
    model = LinearSelfAttention.small(1e200 * theta, log_sigma=-230.0)
    value, key_query = (np.asarray(x.value) for x in (model.value, model.key_query))
    sigma = math.exp(-230.0)
    assert value[-1, -1] == pytest.approx(sigma, rel=1e-12)
    assert np.count_nonzero(value) == 1
    square = theta @ theta.T
    np.testing.assert_allclose(
        key_query[:-1, :-1], sigma * square / np.linalg.norm(square), rtol=1e-12
    )
    assert not np.any(key_query[-1])
    assert not np.any(key_query[:, -1])


def test_its_flow_is_that_of_its_two_blocks():
    """u' = tr(UᵀΛ²) − u tr(ΓΛUΛUᵀ), U' = uΛ² − u²ΓΛUΛ, and u² − ‖U‖² stays."""
    model = LinearSelfAttention.small(RNG.normal(size=(4, 4)), log_sigma=math.log(0.1))
    start = [
        np.asarray(model.value.value)[-1:, -1],
        np.asarray(model.key_query.value)[None, :-1, :-1],
    ]
    t = 60.0
    exact, _ = integrated(start, np.diag(EIGENVALUES), CONTEXT, [t])
    run = gflow.simulate(model, InContextRegression(EIGENVALUES, CONTEXT), t1=t, rtol=1e-9)
    value, key_query = (np.asarray(x.value) for x in (run.final.value, run.final.key_query))
    assert value[-1, -1] == pytest.approx(float(exact[0][0, 0]), abs=1e-7)
    assert value[-1, -1] > 1.0
    np.testing.assert_allclose(key_query[:-1, :-1], exact[1][0, 0], rtol=0, atol=1e-7)
    assert not np.any(value[-1, :-1])
    assert not np.any(key_query[-1])
    assert value[-1, -1] ** 2 - np.sum(key_query**2) == pytest.approx(0.0, abs=1e-7)


REFUSED = {
    "needs value and key_query of one shape": lambda: made(np.ones((2, 2)), np.ones((3, 3))),
    r"they are \(2, 3\)": lambda: made(np.ones((2, 3)), np.ones((2, 3))),
    r"theta has shape \(3,\)": lambda: LinearSelfAttention.small(np.ones(3), log_sigma=0.0),
    "Θ ≠ 0": lambda: LinearSelfAttention.small(np.zeros((2, 2)), log_sigma=0.0),
    r"A prompt of shape \(6, 4\)": lambda: made(np.ones((3, 3)), np.ones((3, 3)))(jnp.ones((6, 4))),
}


@pytest.mark.parametrize("words", REFUSED)
def test_refusals(words):
    with pytest.raises(ValueError, match=words):
        REFUSED[words]()
