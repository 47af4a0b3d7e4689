"""The layers of a transformer over depth."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gflow
from gflow import depth

SIZES = dict(patch=4, classes=3, d=6, heads=2, head_width=3, hidden=8)


def transformer(layers, **options):
    return gflow.models.VisionTransformer(
        (8, 8), **SIZES, layers=layers, key=jax.random.key(0), **options
    )


def test_layers_are_those_of_the_transformer():
    vit = transformer(3)
    x = jax.random.normal(jax.random.key(1), (4, 6))
    run = depth.follow(depth.layers_of(vit), x)
    exact = x
    for layer in vit.layers:
        exact = layer(exact)
    np.testing.assert_allclose(run.final.value, exact, rtol=0, atol=1e-12)
    plain = depth.follow(vit.layers, x)
    np.testing.assert_allclose(
        plain.observables["log_apart"], run.observables["log_apart"], atol=1e-10
    )


@pytest.mark.slow
def test_without_residuals_tokens_collapse_cubically_and_with_them_they_do_not():
    x = jax.random.normal(jax.random.key(1), (4, 6))
    bare = transformer(12, residual=False, positions=False)
    run = depth.follow(depth.layers_of(bare), x)
    log = run.observables["log_apart"]
    assert np.all(run.resolved)
    assert log[-1] < -1e4
    assert log[-1] / log[-2] == pytest.approx(3.0, rel=1e-2)
    kept = depth.follow(depth.layers_of(transformer(12)), x)
    assert kept.observables["log_apart"][-1] > -5.0


def decoder(layers, **options):
    return gflow.models.Transformer(
        5, 9, d=6, heads=2, head_width=3, hidden=8, layers=layers, key=jax.random.key(0), **options
    )


def test_layers_of_a_decoder_are_those_of_the_decoder():
    model = decoder(3)
    x = model.embedded(jnp.array([3, 1, 4, 1, 0, 2]))
    run = depth.follow(depth.layers_of(model), x)
    exact = x
    for layer in model.layers:
        exact = layer(exact)
    np.testing.assert_allclose(run.final.value, exact, rtol=0, atol=1e-12)


def test_causal_attention_of_equal_tokens_shrinks_them_by_the_second_eigenvalue():
    """Rows 1/i are triangular with eigenvalues 1, 1/2, 1/3, …: nothing is cubed."""
    zero, eye = jnp.zeros((4, 2)), jnp.eye(4)
    block = depth.Attention(zero, zero, eye, causal=True)
    x = jax.random.normal(jax.random.key(1), (7, 4))
    log = depth.follow(depth.Repeated(block, 2000), x).observables["log_apart"]
    assert log[-1] - log[-2] == pytest.approx(-2.0 * np.log(2.0), rel=1e-12)
    rows = np.tril(np.ones((7, 7))) / np.arange(1, 8)[:, None]
    five = np.linalg.matrix_power(rows, 5) @ np.asarray(x)
    apart = 7 / 6 * np.sum((five - five.mean(axis=0)) ** 2) / np.sum(five**2)
    assert log[5] == pytest.approx(np.log(apart), rel=1e-12)


def test_masked_heads_keep_their_digits_at_any_depth():
    """Two heads of uniform masked attention are one linear map, here renormalised in NumPy."""
    values = np.random.default_rng(0).normal(size=(2, 4, 4)) / 2
    block = depth.Attention(np.zeros((2, 4, 2)), np.zeros((2, 4, 2)), values, causal=True)
    x = np.random.default_rng(1).normal(size=(7, 4))
    run = depth.follow(depth.Repeated(block, 200), x)
    assert np.all(run.resolved)
    rows = np.tril(np.ones((7, 7))) / np.arange(1, 8)[:, None]
    r, size = x - x.mean(axis=0), 0.0
    for _ in range(200):
        r = rows @ r @ values.sum(axis=0)
        r = r - r.mean(axis=0)
        size += np.log(np.linalg.norm(r))
        r = r / np.linalg.norm(r)
    assert run.observables["log_residual"][-1] == pytest.approx(size, rel=1e-11)


def test_entropies_are_those_of_the_first_attention_inside():
    vit, text = transformer(1), decoder(1)
    for model, x in (
        (vit, jax.random.normal(jax.random.key(1), (4, 6))),
        (text, text.embedded(jnp.array([3, 1, 4, 1]))),
    ):
        attention = model.layers[0].attention
        assert isinstance(attention, gflow.models.MultiHeadAttention)
        n = gflow.models.RMSNorm()(x)
        logits = jnp.einsum("td,hkd,hke,se->hts", n, attention.query, attention.key, n)
        logits = np.asarray(logits) / np.sqrt(3)
        if attention.causal:
            logits = np.where(np.tril(np.ones((4, 4))) > 0, logits, -np.inf)
        a = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
        exact = -np.where(a > 0, a * np.log(np.where(a > 0, a, 1.0)), 0.0).sum(-1).mean(-1)
        (block,) = depth.layers_of(model)
        tokens = depth.Tokens.of(x)
        np.testing.assert_allclose(depth.head_entropies(tokens, block), exact, rtol=1e-12)
        assert float(depth.attention_entropy(tokens, block)) == pytest.approx(exact.mean())
    with pytest.raises(ValueError, match="Linear has none"):
        depth.attention_entropy(tokens, depth.Linear(jnp.eye(6)))


def test_equal_tokens_of_one_input_merge_without_a_trace():
    """The most similar pairs are the copies, and + ln m leaves the output as it was."""
    vit = transformer(2)
    x = jax.random.normal(jax.random.key(1), (6, 6))
    x = jnp.concatenate([x, x[:1], x[3:4]])
    layers = depth.layers_of(vit)

    def logits(merge):
        tokens = depth.Tokens.of(x)
        for block in (*merge, *layers):
            tokens = block(tokens)
        return vit.read(tokens.value, tokens.counts)

    whole = logits(())
    np.testing.assert_allclose(whole, vit.read(_through(vit, x)), atol=1e-12)
    # places 0 and 6 are even, 3 and 7 odd: neither pair can be matched until they are moved
    x = x[jnp.array([0, 6, 1, 2, 3, 7, 4, 5])]
    np.testing.assert_allclose(logits((depth.MergeSimilar(2),)), whole, atol=1e-12)
    forgotten = logits((depth.MergeSimilar(2, counted=False),))
    assert np.max(np.abs(forgotten - whole)) > 1e-3
    with pytest.raises(ValueError, match="at most half"):
        depth.MergeSimilar(5)(depth.Tokens.of(x))


def test_the_most_similar_are_merged_whatever_their_length():
    x = jnp.array([[1.0, 0.0], [0.0, 1.0], [0.0, 3.0], [1.0, 1.0], [-1.0, 0.2]])
    merged = depth.MergeSimilar(1)(depth.Tokens.of(x))
    np.testing.assert_allclose(merged.counts, [1.0, 1.0, 2.0, 1.0])
    np.testing.assert_allclose(merged.value, [x[0], x[4], (x[1] + x[2]) / 2, x[3]], atol=1e-15)


def _through(model, x):
    for layer in model.layers:
        x = layer(x)
    return x


def test_what_has_no_such_layers_is_refused():
    kq = gflow.Scaled(jnp.eye(6), 0.0)
    other = gflow.models.Block(gflow.models.SoftmaxAttention(kq, kq))
    for model, words in (
        (eqx.tree_at(lambda m: m.layers, transformer(1), (other,)), "takes MultiHeadAttention"),
        (eqx.tree_at(lambda m: m.layers, transformer(1), (jnp.ones(2),)), "no layers"),
    ):
        with pytest.raises(ValueError, match=words):
            depth.layers_of(model)
    with pytest.raises(ValueError, match="one of the two"):
        depth.Attention(np.eye(2), np.eye(2), np.eye(2), normalised=False, causal=True)
