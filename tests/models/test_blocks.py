"""Blocks of any attention, and what a decoder is of them, each against loops."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformer_loops as loops

import gflow
from gflow import models
from gflow.models import Block, MultiHeadAttention, Perceptron, RMSNorm, Transformer

HEADS, D, TOKENS = 2, 4, 5
X = jax.random.normal(jax.random.key(7), (TOKENS, D))
A, B, C, E = (
    jax.random.normal(key, (HEADS, D, 3)) for key in jax.random.split(jax.random.key(8), 4)
)


def diagonal(seed):
    return gflow.Hadamard(
        *(jax.random.normal(jax.random.key(seed + i), (HEADS, D)) for i in (0, 1))
    )


def adapted(left, right):
    return models.Adapted(np.asarray(right @ left.mT), gflow.Factored(left, right))


ATTENTIONS = {
    "plain": lambda causal: MultiHeadAttention(D, HEADS, 3, causal=causal, key=jax.random.key(1)),
    "factored": lambda causal: models.SoftmaxAttention(
        gflow.Factored(A, B), gflow.Factored(C, E), scale=0.7, causal=causal
    ),
    "diagonal": lambda causal: models.DiagonalAttention(
        diagonal(1), diagonal(2), scale=0.7, causal=causal
    ),
    "adapted": lambda causal: models.SoftmaxAttention(
        adapted(A, B), adapted(C, E), scale=0.2, causal=causal
    ),
    "linear": lambda causal: models.LinearAttention(
        gflow.Factored(A, B), gflow.Factored(C, E), scale=0.1, causal=causal
    ),
}


def perceptron():
    return loops.moved(Perceptron(D, 6, bias=True, key=jax.random.key(2)), jax.random.key(3))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kind", ATTENTIONS)
def test_a_block_by_loops(kind, causal):
    block = Block(ATTENTIONS[kind](causal), perceptron())
    expected = np.array(loops.block(block, list(np.asarray(X))))
    np.testing.assert_allclose(block(X), expected, rtol=0, atol=1e-12)
    other = Block(ATTENTIONS[kind](not causal), perceptron())
    assert np.max(np.abs(other(X) - expected)) > 1e-2


@pytest.mark.parametrize("kind", ATTENTIONS)
def test_a_causal_block_sees_no_later_token(kind):
    later = X.at[3:].set(-X[3:])
    before, after = (Block(ATTENTIONS[kind](True), perceptron())(x) for x in (X, later))
    np.testing.assert_array_equal(before[:3], after[:3])
    assert np.min(np.max(np.abs(before - after)[3:], axis=-1)) > 1e-2


@pytest.mark.parametrize("kind", ATTENTIONS)
def test_a_block_without_a_mask_knows_no_order(kind):
    order = jnp.array([3, 0, 4, 1, 2])
    block = Block(ATTENTIONS[kind](False), perceptron())
    np.testing.assert_allclose(block(X[order]), block(X)[order], rtol=0, atol=1e-12)


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("norm", [RMSNorm(), None])
@pytest.mark.parametrize("parts", [(True, True), (True, False), (False, True)])
def test_parts_can_be_left_out(parts, norm, residual):
    given = (
        part() if there else None for part, there in zip((plain, perceptron), parts, strict=True)
    )
    block = Block(*given, norm=norm, residual=residual)
    expected = np.array(loops.block(block, list(np.asarray(X))))
    np.testing.assert_allclose(block(X), expected, rtol=0, atol=1e-12)


def plain():
    return ATTENTIONS["plain"](False)


SWITCHES = {
    "all": dict(bias=True),
    "as it comes": {},
    "no positions": dict(length=None),
    "no norm": dict(norm=None),
    "no residual": dict(residual=False),
    "no perceptron": dict(hidden=None, bias=True),
    "attention alone": dict(hidden=None, norm=None, residual=False, length=None),
    "perceptron alone": dict(attention=lambda layer, key: None),
    "products": dict(attention=lambda layer, key: ATTENTIONS["factored"](True)),
}


@pytest.mark.parametrize("switches", SWITCHES.values(), ids=SWITCHES)
def test_a_decoder_by_loops(switches):
    sizes = dict(length=5, d=D, heads=HEADS, head_width=3, hidden=5, layers=2) | switches
    model = loops.moved(Transformer(7, **sizes, key=jax.random.key(0)), jax.random.key(1))
    tokens = [3, 0, 6, 3, 1]
    expected = loops.decoder(model, tokens)
    np.testing.assert_allclose(model(jnp.array(tokens)), expected, rtol=0, atol=1e-12)


def test_without_positions_texts_have_any_length():
    model = Transformer(7, None, layers=1, key=jax.random.key(0))
    assert model(jnp.zeros(40, int)).shape == (40, 7)


def test_every_layer_gets_its_number_and_a_key_of_its_own():
    asked = []

    def attention(layer, key):
        asked.append((layer, tuple(jax.random.key_data(key).tolist())))
        return plain()

    Transformer(7, 5, d=D, layers=3, attention=attention, key=jax.random.key(0))
    assert [layer for layer, _ in asked] == [0, 1, 2]
    assert len({key for _, key in asked}) == 3


def test_the_norm_has_root_mean_square_one_and_is_that_of_the_field():
    x = 5.0 * X
    np.testing.assert_allclose(np.sqrt(np.mean(RMSNorm()(x) ** 2, axis=-1)), 1.0, atol=1e-6)
    other = eqx.nn.RMSNorm(D, eps=1e-6, use_weight=False, use_bias=False)
    np.testing.assert_allclose(RMSNorm()(x), jax.vmap(other)(x), rtol=1e-14)


class Halved(eqx.Module):
    def __call__(self, x):
        return x[:, :2]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Block(None), "neither"),
        (lambda: Block(Halved())(X), r"Halved.*\(5, 4\) into \(5, 2\)"),
        (lambda: Block(plain())(X[:, :3]), r"MultiHeadAttention.*width 4.*\(5, 3\)"),
        (lambda: ATTENTIONS["factored"](False)(X[:, :3]), r"SoftmaxAttention.*width 4.*\(5, 3\)"),
        (lambda: ATTENTIONS["diagonal"](True)(X[:, :3]), r"DiagonalAttention.*width 4.*\(5, 3\)"),
        (lambda: MultiHeadAttention(4, 2, 0, key=jax.random.key(0)), "head_width = 0"),
        (lambda: Perceptron(4, 0, key=jax.random.key(0)), "hidden = 0"),
        (lambda: Transformer(7, 0, key=jax.random.key(0)), "length = 0"),
        (lambda: Transformer(7, 5, hidden=0, key=jax.random.key(0)), "hidden = 0"),
        (lambda: Transformer(0, 5, key=jax.random.key(0)), "vocabulary = 0"),
        (lambda: Transformer(7, 5, layers=0, key=jax.random.key(0)), "layers = 0"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
